"""The quadratic training, with some work before it and an account of its own CPU time, to compare a campaign's spend with.

The account lies in the folder `cpu` beside the state folder, one file for each process, rewritten every few milliseconds:
what is there when the process is killed is not more than it has used. Some trainings take longer, or have a helper, whose
time is theirs. Copied beside `run.py` of the quadratic subject; standard library only. The weights are those of `run.py`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import run

SHORT, LONG = 0.02, 0.8  # CPU seconds


def work(seconds: float, account: Path) -> None:
    """Uses the processor until this process has used `seconds`, and notes it."""
    with account.open("w") as file:
        while (used := time.process_time()) < seconds:
            file.seek(0)
            file.write(f"{used:012.6f}")
            file.flush()
            sum(range(20_000))


def main() -> None:
    arguments = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    config = Path(arguments["--config"]).resolve()
    seed = int(json.loads(config.read_text())["seed"])
    place = config.parents[5] / "cpu"  # beside .evolve/campaigns/NAME/trials/NUMBER/train.json
    place.mkdir(exist_ok=True)
    name = f"{config.parents[2].name}-{config.parent.name}-{time.time_ns()}"
    seconds = LONG if seed % 10 == 0 else SHORT
    helper = os.fork() if seed % 5 == 0 else 0
    if seed % 5 == 0 and helper == 0:
        work(600.0, place / f"{name}-helper")
    work(seconds, place / name)
    if helper:
        os.kill(helper, signal.SIGTERM)
        os.waitpid(helper, 0)
    run.main()


if __name__ == "__main__":
    main()
