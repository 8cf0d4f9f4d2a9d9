"""A training that misbehaves as the parameter `fault` says, after a pause of `pause` seconds; else the quadratic one.

Copied beside `run.py` and `recipe.py` of the quadratic subject. Standard library only, like them.
"""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import sys
import time
from pathlib import Path

import recipe

BASE = Path(__file__).with_name("base.safetensors")
START = {"x": 3e-4, "y": 0.8, "size": 16, "mode": "flat"}


def sleep_for_ever() -> None:
    while True:
        time.sleep(60)


def fork_a_child_that_stays() -> None:
    if os.fork() == 0:
        sleep_for_ever()


def ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def print_100_megabytes() -> None:
    for _ in range(1600):
        sys.stdout.write("x" * 62499 + "\n")


def report_200_thousand_points() -> None:
    progress = int(os.environ["EVOLVE_PROGRESS_FD"])
    for first in range(0, 200_000, 1000):
        lines = (f'{{"step": {i}, "metrics": {{"loss": 1.0}}}}\nnot a point\n' for i in range(first, first + 1000))
        os.write(progress, "".join(lines).encode())


def weights_file(weights: list[float], metadata: dict[str, str] | None = None) -> bytes:
    data = struct.pack(f"<{len(weights)}d", *weights)
    header: dict[str, object] = {"w": {"dtype": "F64", "shape": [len(weights)], "data_offsets": [0, len(data)]}}
    if metadata:
        header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def before(fault: str) -> None:
    """What goes wrong while it trains."""
    if fault == "crash":
        raise RuntimeError("the optimizer \x1b[31mexploded\x1b]0;title\x07")
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "hang":
        sleep_for_ever()
    if fault == "stubborn":
        ignore_signals()
        fork_a_child_that_stays()
        sleep_for_ever()
    if fault == "leaves_child":
        fork_a_child_that_stays()
    if fault == "memory":
        bytearray(5_000_000_000)
    if fault == "loud":
        print_100_megabytes()
    if fault == "chatty":
        report_200_thousand_points()


def leave_weights(fault: str, out: Path, weights: list[float]) -> None:
    """What goes wrong with the file that it leaves."""
    path = out / "weights.safetensors"
    if fault == "nothing":
        return
    if fault == "shape":
        path.write_bytes(weights_file([1.0] * 5))
    elif fault == "not_finite":
        path.write_bytes(weights_file([1.0, float("nan"), 1.0, 1.0]))
    elif fault == "metadata":
        path.write_bytes(weights_file([1.0] * 4, {"score": "1.0"}))
    elif fault == "garbage":
        path.write_bytes(b"this is no safetensors file")
    elif fault == "huge":
        path.touch()
        os.truncate(path, 10_000_000_000)
    elif fault == "symlink":
        path.symlink_to(BASE)
    elif fault == "hardlink":
        os.link(BASE, path)
    elif fault == "fifo":
        os.mkfifo(path)
    elif fault == "folder":
        path.mkdir()
    elif fault == "linked_folder":
        elsewhere = out.parent / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        (elsewhere / path.name).write_bytes(weights_file([1.0] * 4))
        out.rmdir()
        out.symlink_to(elsewhere)
    else:
        path.write_bytes(weights_file(weights))


def main() -> None:
    arguments = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    config_path, out = Path(arguments["--config"]), Path(arguments["--out"])
    config = json.loads(config_path.read_text())
    (config_path.parent / "seen-environment.json").write_text(json.dumps(dict(os.environ)))
    params = START | config["params"]
    fault = params.get("fault", "none")
    time.sleep(params.get("pause", 0.0))
    before(fault)
    weights = recipe.train(params, random.Random(config["seed"]), float(config["model"]["noise"]))
    if fault.startswith("scorer_"):  # the scorer sees weights alone: the fault is written into them
        weights = [1000.0 + ord(c) for c in fault.removeprefix("scorer_")[:4]]
    leave_weights(fault, out, weights)


if __name__ == "__main__":
    main()
