"""The soak: one long campaign under faults, and whether anything grows or slows down with it.

    python benchmarks/soak.py [--trials 10000] [--workers 8] [--controller-kills 5] [--every 2] [--seed 0] [--json FILE]
                              [OVERRIDE ...]

The quadratic subject, random proposals, `evolve run` in a process of its own. Every few seconds a training or a scorer is
killed, and in the first half of the trials the controller, which is resumed; the second half is one session where no fault
ends it. Every EVERY seconds the controller's resident memory, open descriptors and child processes are read from /proc.
Afterwards all that holds after a kill is checked as in `benchmarks/crash.py`. Overrides are for `evolve run`, such as
tracking=none.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Figure, Report, Table
from tests.e2e import crash
from tests.e2e.cli import SMALL_GATE, Evolve

FAULT_SECONDS = 3.0  # between two kills of a training or a scorer, on average
FIRST_FAULT = 10  # trials: without the baseline there is no campaign


@dataclass(frozen=True)
class Sample:
    """The controller at one moment."""

    seconds: float  # since the start of the soak
    session: int
    trials: int  # finished
    rss_mb: float
    descriptors: int
    processes: int  # its children and theirs


class Soak(crash.Campaign):
    """The campaign `c`, its controller, and what was seen of it."""

    def __init__(self, folder: Path, overrides: tuple[str, ...], seed: int) -> None:
        root = folder / "subject"
        crash.repository(root)
        words = ("subject=quadratic", *SMALL_GATE, "proposer=random", f"subject.root={root}", f"seed={seed}",
                 "max_attempts=1000", *overrides)  # fmt: skip
        super().__init__(Evolve(folder), root, words, seed)
        self.samples: list[Sample] = []
        self.reached: list[float] = []  # seconds at which trial 1, 2, ... was finished
        self._read_to, self._began, self._session = 0, time.monotonic(), 0

    def live(self, trials: int, workers: int, kills: int, every: float) -> None:
        budget = (f"budget.trials={trials}", f"executor.workers={workers}")
        words: tuple[str, ...] = ("run", *self.overrides, f"campaign={self.name}")
        draw = random.Random(self.random.random())
        kill_at = [trials * (k + 1) // (2 * (kills + 1)) for k in range(kills)]
        while True:
            self._session += 1
            process = self.start(*words, *budget)
            words = ("resume", self.name)
            self._accompany(process, draw, kill_at, every)
            code = process.wait()
            self.check_journal()
            if code == 0:
                break
            if code not in (1, -signal.SIGKILL) or self._session > kills + 50:
                self.violation(f"a session ended with exit code {code}, see {self._log.name}")
                break
        self.check_rest()

    def _accompany(self, process: subprocess.Popen[str], draw: random.Random, kill_at: list[int], every: float) -> None:
        """Until the process ends: samples and faults."""
        next_sample, next_fault = time.monotonic() + every, time.monotonic() + draw.expovariate(1 / FAULT_SECONDS)
        while process.poll() is None:
            self._follow()
            now, finished = time.monotonic(), len(self.reached)
            if now >= next_sample and finished >= FIRST_FAULT:  # not its imports
                next_sample = now + every
                with contextlib.suppress(OSError, StopIteration):
                    self.samples.append(self._look(process.pid))
            if now >= next_fault and finished >= FIRST_FAULT:
                victim = draw.choice(["training", "scorer"])
                if found := self.find(victim):
                    next_fault = now + draw.expovariate(1 / FAULT_SECONDS)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(draw.choice(found).pid, signal.SIGKILL)
                        self.told.kills["soak", victim] += 1
            if kill_at and finished >= kill_at[0]:
                kill_at.pop(0)
                process.kill()
                self.told.kills["soak", "controller"] += 1
            time.sleep(0.05)
        self._follow()

    def _follow(self) -> None:
        """Reads on in the journal, which is too long to be read anew each time."""
        path = self.folder / "journal.jsonl"
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._read_to)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read_to += len(whole)
        now = time.monotonic() - self._began
        self.reached += [now] * sum(b'"type":"TrialFinished"' in line for line in whole.splitlines())

    def _look(self, pid: int) -> Sample:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        rss = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
        family = {pid}
        everyone = crash.processes()
        while more := {p.pid for p in everyone if p.parent in family} - family:
            family |= more
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        seconds = time.monotonic() - self._began
        return Sample(seconds, self._session, len(self.reached), rss / 1024, descriptors, len(family) - 1)

    # ------------------------------------------------ what came out

    def report(self) -> Report:
        """Slope of memory (MB per 1,000 trials), descriptors and processes early and late, trials a second in each tenth."""
        trials = len(self.reached)
        late = [s for s in self.samples if s.trials >= trials / 2 and s.session == self.samples[-1].session]
        tenths = [self.reached[trials * k // 10 - 1] if k else 0.0 for k in range(11)]
        rates = [trials / 10 / max(b - a, 1e-9) for a, b in itertools.pairwise(tenths)]
        early, last = self._tenth(late), self._tenth(late[::-1])
        figures = []
        if len({s.trials for s in late}) > 2:
            slope = 1000 * statistics.linear_regression([s.trials for s in late], [s.rss_mb for s in late]).slope
            figures.append(
                Figure(
                    "memory, second half: what the campaign knows of a trial",
                    "MB per 1,000 trials",
                    [slope],
                    at_most=15,
                )
            )
        figures += [
            Figure("open descriptors, end less middle", "", [last["descriptors"] - early["descriptors"]], at_most=0),
            Figure("processes, end less middle", "", [last["processes"] - early["processes"]], at_most=0),
            Figure("rate of the last tenth, of the sixth's", "x", [rates[9] / rates[5]], at_least=0.8),
            Figure("violations, as in the kill test", "", [len(self.told.violations)], at_most=0),
        ]
        rows = [[f"{k * 10} to {k * 10 + 10} %", f"{rate:.2f}"] for k, rate in enumerate(rates)]
        kills = ", ".join(f"{n} of {victim}" for (_, victim), n in sorted(self.told.kills.items()))
        ends = [[n, f"{early[n]:.0f}", f"{last[n]:.0f}"] for n in ("rss_mb", "descriptors", "processes")]
        return Report(
            "The soak",
            [
                Table("Trials a second", ["of the trials", "rate"], rows),
                Table("The controller in the second half", ["", "its first tenth", "its last tenth"], ends),
            ],
            figures,
            [
                f"{trials} trials in {self._session} sessions, {self.reached[-1]:.0f} s. Kills: {kills}.",
                *self.told.violations[:20],
            ],
        )

    @staticmethod
    def _tenth(samples: list[Sample]) -> dict[str, float]:
        """Medians of the first tenth of the samples."""
        some = samples[: max(1, len(samples) // 10)]
        return {n: statistics.median(getattr(s, n) for s in some) for n in ("rss_mb", "descriptors", "processes")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--controller-kills", type=int, default=5)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", help="for `evolve run`")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        soak = Soak(Path(name), tuple(arguments.overrides), arguments.seed)
        try:
            soak.live(arguments.trials, arguments.workers, arguments.controller_kills, arguments.every)
        finally:
            soak.end()
    soak.report().publish(arguments.json)
    return 1 if soak.told.violations else 0


if __name__ == "__main__":
    sys.exit(main())
