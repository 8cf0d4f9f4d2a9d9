"""How long the pages that `evolve ui` links to take to open, on a store with a large campaign, in a real browser.

    python benchmarks/mlflow_page.py --trials 1000
    python benchmarks/mlflow_page.py --keep /tmp/store --trials 1000      # made once, measured again

A scripted campaign (the real policy, loop and journal; invented scores) is carried into a new SQLite store by our own
tracker, `mlflow server` is started on it, and headless Chromium opens each link: seconds from the navigation until the text
that a person looks for is in the page. `first` is with an empty browser cache, which loads MLflow's own program; `again` the
median of the loads after it. `blank` is MLflow's page of an experiment without runs: what no campaign can be faster than.

Chromium is spoken to through `--remote-debugging-pipe`, so that no other package is needed.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evolve import pictures, report, tracking_page
from evolve.journal import Journal, read
from evolve.loop import Loop, Ports
from evolve.memory import View
from evolve.state import State, apply, replay
from evolve.testing import InlineExecutor, InlineScorer, MemoryTracker
from evolve.tracking import MlflowTracker, read_position
from evolve.types import (
    Budget,
    CampaignStarted,
    Candidate,
    Environment,
    Estimate,
    GateRules,
    Limits,
    Objective,
    Parameter,
    Params,
    Proposal,
    Rules,
    Subject,
    WeightsSpec,
)
from evolve.weights import WeightStore

SPACE = {name: Parameter("float", 0.5, low=0.0, high=1.0) for name in ("rate", "warmup", "decay", "clip", "share")}
SPACE["method"] = Parameter("categorical", "sft", choices=("sft", "dpo", "grpo"))
SUBJECT = Subject(
    "scripted", "a scripted campaign", (), (), (), (), {}, WeightsSpec("w", "base"), Objective("score", "maximize"),
    Limits(60, 60), Estimate(1, 1), SPACE,
)  # fmt: skip
PATIENCE = 120.0


# ---------------------------------------------------------------- the store


@dataclass
class Steps:
    """Steps away from the incumbent, by the view's seed alone."""

    name: str = "steps"

    def propose(self, view: View) -> Proposal:
        rng = random.Random(f"{view.seed}:{view.turn}:{view.retry}")
        numbers = [name for name, p in SPACE.items() if p.type == "float"]
        changes: dict[str, Any] = {
            n: min(1.0, max(0.0, float(view.incumbent[n]) + rng.gauss(0, 0.05))) for n in rng.sample(numbers, 2)
        }
        if rng.random() < 0.1:
            changes["method"] = rng.choice(SPACE["method"].choices)
        candidate = Candidate(view.space.overlay(view.incumbent, changes), view.subject_version)
        return Proposal(candidate, self.name, f"a step from the incumbent in {' and '.join(changes)}")


def skill(params: Params, rng: random.Random) -> float:
    """Best at 0.8 everywhere with grpo; noise of 0.01; a rate above 0.97 crashes."""
    if float(params["rate"]) > 0.97:
        raise MemoryError("rate <= 0.97")
    bonus = {"sft": 0.0, "dpo": 0.02, "grpo": 0.05}[str(params["method"])]
    return (
        0.7 + bonus - sum((float(v) - 0.8) ** 2 for v in params.values() if isinstance(v, float)) + rng.gauss(0, 0.01)
    )


def make_campaign(folder: Path, trials: int) -> None:
    (folder / "inbox").mkdir(parents=True)
    inner = InlineExecutor(skill)
    rules = Rules(budget=Budget(trials=trials), gate=GateRules())
    state, start = State(), Candidate(dict.fromkeys(SPACE, 0.5) | {"method": "sft"}, "v")
    with Journal.open(folder, time.time) as journal:
        first = CampaignStarted("scripted", SUBJECT, "v", "e", "s", 0, rules, start, "default", {})
        journal.append(first)
        apply(state, first)
        ports = Ports(
            Steps(), inner, InlineScorer(inner), MemoryTracker(), WeightStore(folder / "weights"),  # type: ignore[arg-type]
            Environment("here", "here", "0" * 64, None, "3"),
        )  # fmt: skip
        Loop(journal, state, rules, ports, folder / "inbox", lambda: False).run()


def carry(root: Path, folder: Path) -> list[tuple[int, float]]:
    """The campaign into a new store; (trials carried over, milliseconds each) of every tenth of it."""
    tracker = MlflowTracker(uri(root), folder, warn=sys.exit, artifacts=root / "artifacts")
    records = [record for record, _ in read(folder / "journal.jsonl")]
    tenth, found = -(-len(records) // 10), []
    for begin in range(0, len(records), tenth):
        part = records[begin : begin + tenth]
        began = time.monotonic()
        for record in part:
            tracker.record(record)
        assert tracker.flush(600) == 0, "the store takes every event"
        trials = sum(type(record.event).__name__ == "TrialFinished" for record in part)
        found.append((trials, (time.monotonic() - began) / max(1, trials) * 1000))
    tracker.close()
    return found


def uri(root: Path) -> str:
    return f"sqlite:///{root}/mlflow.db"


@contextlib.contextmanager
def server(root: Path, port: int) -> Iterator[str]:
    """`mlflow server` as `evolve ui` starts it."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri(root), "--host", "127.0.0.1",
               "--port", str(port), "--workers", "1"]  # fmt: skip
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    quiet["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    with open(root / "server.log", "w") as log:
        process = subprocess.Popen(command, env=os.environ | quiet, stdout=log, stderr=log, start_new_session=True)
    try:
        base, deadline = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{base}/health", timeout=1).close()
                break
            assert process.poll() is None and time.monotonic() < deadline, (root / "server.log").read_text()
            time.sleep(0.2)
        yield base
    finally:
        with contextlib.suppress(ProcessLookupError):  # with its workers, and no waiting for open connections
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# ---------------------------------------------------------------- the browser


@dataclass
class Browser:
    """Headless Chromium with an empty profile and one page, over a pair of pipes."""

    width: int = 1600
    height: int = 1000
    _count: int = 0
    _rest: bytes = b""
    _session: str = ""
    _folder: Any = field(default_factory=lambda: tempfile.TemporaryDirectory(prefix="evolve-browser-"))

    def __enter__(self) -> Browser:
        found = shutil.which("chromium") or shutil.which("google-chrome")
        if found is None:
            raise SystemExit("A browser must be installed, but neither chromium nor google-chrome is on the PATH.")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
                 "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
                 f"--window-size={self.width},{self.height}", f"--user-data-dir={self._folder.name}"]  # fmt: skip
        read_ours, write_theirs = os.pipe()
        read_theirs, self._write = os.pipe()
        self._read = read_ours
        # Chromium reads from descriptor 3 and writes to 4; on the way there neither may cover the other.
        move = (
            f"import os, sys; os.dup2({read_theirs}, 100); os.dup2({write_theirs}, 101); os.dup2(100, 3); os.dup2(101, 4);"
            " os.closerange(5, 102); os.execv(sys.argv[1], sys.argv[1:])"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", move, found, *flags, "about:blank"], pass_fds=(read_theirs, write_theirs),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(read_theirs)
        os.close(write_theirs)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._session = ""
        with contextlib.suppress(OSError, EOFError):
            self.call("Browser.close")
        self._process.wait(30)
        os.close(self._read)
        os.close(self._write)
        self._folder.cleanup()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, and its answer."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            line, found, self._rest = self._rest.partition(b"\0")
            if not found:
                data = os.read(self._read, 1 << 20)
                if not data:
                    raise EOFError("the browser has ended")
                self._rest = line + data
                continue
            answer = json.loads(line)
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(answer["error"]["message"])
                result: dict[str, Any] = answer["result"]
                return result

    def evaluate(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def open(self, url: str, expected: str) -> float:
        """Seconds until the JavaScript expression `expected` holds in the page."""
        self.call("Page.navigate", url="about:blank")
        began = time.monotonic()
        self.call("Page.navigate", url=url)
        while not self.evaluate(f"!!({expected})"):
            if time.monotonic() > began + PATIENCE:
                raise SystemExit(
                    f"{expected} never held at {url}; there was:\n{self.evaluate('document.body.innerText')}"
                )
            time.sleep(0.03)
        return time.monotonic() - began

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


def shows(text: str) -> str:
    return f"document.body && document.body.innerText.includes({json.dumps(text)})"


# ---------------------------------------------------------------- the measurement


def measure(root: Path, folder: Path, port: int, rounds: int, shots: Path | None) -> None:
    position = read_position(folder)
    assert position is not None
    state = replay(record.event for record, _ in read(folder / "journal.jsonl"))
    best = max((t for t in state.trials.values() if t.score), key=lambda t: t.score.mean if t.score else 0.0)
    waits = next(iter(state.pending), state.champion_id)
    key = tracking_page.campaign_key(state.campaign)
    with server(root, port) as base, Browser() as browser:
        links = {
            "blank": (f"{base}/#/experiments/0/runs?workflowType=machine_learning", shows("No runs")),
            "trials": (
                tracking_page.campaign_url(base, position.experiment_id, key),
                shows(tracking_page.run_name(best, state.entries[best.candidate_id].proposal.proposer)),
            ),
            "summary": (
                tracking_page.run_url(base, position.experiment_id, position.run_id),
                shows("Leaderboard") + " && [...document.images].some(i => i.src.includes('progress.png') && i.naturalWidth)",
            ),
            "candidate": (
                tracking_page.candidate_url(base, position.experiment_id, waits), shows(f"search {Steps.name}")
            ),
        }  # fmt: skip
        print(f"\nload of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        print("| page | first, s | again, s (median) | slowest, s |\n|---|---|---|---|")
        for name, (url, expected) in links.items():
            times = [browser.open(url, expected) for _ in range(1 + rounds)]
            again = times[1:] or times
            print(f"| {name} | {times[0]:.2f} | {statistics.median(again):.2f} | {max(again):.2f} |", flush=True)
            if shots is not None:
                time.sleep(1)
                browser.screenshot(shots / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5, help="loads of each page after the first")
    parser.add_argument("--keep", type=Path, help="folder of the store; measured as it is where it exists")
    parser.add_argument("--port", type=int, default=5123)
    parser.add_argument("--shots", type=Path, help="folder for a picture of each page")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = (arguments.keep or Path(temporary)).resolve()
        folder = root / "campaign"
        if not folder.exists():
            root.mkdir(parents=True, exist_ok=True)
            began = time.monotonic()
            make_campaign(folder, arguments.trials)
            print(f"campaign: {arguments.trials} trials in {time.monotonic() - began:.0f} s")
            tenths = carry(root, folder)
            print("tracker, ms a trial, by tenths of the campaign: " + ", ".join(f"{ms:.0f}" for _, ms in tenths))
        told = report.tell(record for record, _ in read(folder / "journal.jsonl"))
        pictures.draw(told.state)  # with the imports, which a campaign makes once
        began, used = time.monotonic(), time.process_time()
        drawn = pictures.draw(told.state)
        print(f"pictures: {time.monotonic() - began:.2f} s ({time.process_time() - used:.2f} s of CPU)")
        size = len(report.html(told, drawn, alive=False))
        print(f"report: {size / 1e3:.0f} kB of {len(told.state.trials)} trials", flush=True)
        measure(root, folder, arguments.port, arguments.rounds, arguments.shots)


if __name__ == "__main__":
    main()
