"""What Ray costs a trial, against the local executor; with `--campaign N`, N trials over two nodes one of which is killed.

    python benchmarks/cluster.py [--repeats 40] [--campaign 200]

A cluster of two nodes on this machine (`ray.cluster_utils`). Trainings and scores of the quadratic subject, which take
milliseconds, in turns locally and on the cluster; medians in ms, and their ratio in the same run. The campaign is the real
command, with MLflow; afterwards journal, registry and MLflow must say the same of each trial.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import ray  # noqa: E402
from ray.cluster_utils import Cluster as LocalCluster  # noqa: E402

from evolve import config, sandbox  # noqa: E402
from evolve.executors import LocalExecutor, LocalProcesses, LocalScorer  # noqa: E402
from evolve.journal import read  # noqa: E402
from evolve.ports import Cancel  # noqa: E402
from evolve.ray_executor import Asked, Cluster, RayExecutor, RayScorer  # noqa: E402
from evolve.types import ApprovalRequested, Candidate, Promoted, Trial, TrialFinished, TrialInterrupted  # noqa: E402
from evolve.weights import WeightStore  # noqa: E402
from evolve.workspace import Snapshot  # noqa: E402

GOOD = {"x": 0.01, "y": 0.5, "size": 32, "mode": "curved", "z": 0.25}
OBJECTS = 80_000_000


def overhead(folder: Path, repeats: int) -> None:
    subject = config.load(["subject=quadratic"]).subject
    cluster = Cluster(Asked("auto", 1, 1, 0, {}), print)
    sides: dict[str, tuple[Any, Any]] = {}
    for name in ("local", "ray"):
        (folder / name / "code").mkdir(parents=True)
        snapshot = Snapshot.take(config.data_root(), subject.sources, folder / name / "code")
        local = LocalProcesses(subject, snapshot, folder / name / "trials", WeightStore(folder / name / "weights"))
        if name == "ray":
            cluster.begin(local, warm=True)
            sides[name] = RayExecutor(cluster, local, "ab" * 32), RayScorer(cluster, local, "ab" * 32)
        else:
            sides[name] = LocalExecutor(local), LocalScorer(local, "ab" * 32)
    took: dict[str, list[float]] = {name: [] for name in sides}
    same = set()
    for number in range(repeats + 3):
        for name, (executor, scorer) in sides.items():
            started = time.monotonic()
            trial = Trial(number, "c", "search", 0, number)
            weights = executor.train(trial, Candidate(GOOD, "v"), lambda point: None, Cancel()).weights
            [score] = scorer.score([Trial(number, "c", "search", 0, number, weights=weights)], "search", 0, Cancel())
            if number >= 3:  # the first make workers and caches
                took[name].append((time.monotonic() - started) * 1000)
            same.add((number, weights, score.mean))
    a, b = median(took["local"]), median(took["ray"])
    print(
        f"train + score, median of {repeats}: local {a:.1f} ms, ray {b:.1f} ms, {b - a:+.1f} ms a trial, ratio {b / a:.3f}"
    )
    print(f"equal results: {len(same) == repeats + 3}")
    cluster.close()


def slow_subject(root: Path) -> Path:
    """The quadratic subject whose trainings take a third of a second more, so that a kill meets some of them."""
    for part in ("train/quadratic", "evals/quadratic"):
        shutil.copytree(config.data_root() / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    run = root / "train/quadratic/run.py"
    run.write_text(run.read_text().replace("    save(Path(", "    import time\n\n    time.sleep(0.3)\n    save(Path("))
    return root


def killed_campaign(folder: Path, nodes: Any, trials: int) -> None:
    victim = nodes.add_node(num_cpus=2, object_store_memory=OBJECTS)
    nodes.wait_for_nodes()
    evolve = [sys.executable, "-m", "evolve.cli"]
    words = [
        "run", "subject=quadratic", f"subject.root={slow_subject(folder / 'subject')}", "campaign=c", "gate=cheap",
        "proposer=evolve", f"budget.trials={trials}", "executor=ray", f"executor.address={nodes.address}",
        "executor.workers=4",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "MLFLOW_DISABLE_TELEMETRY": "true"}
    path, said = folder / ".evolve/campaigns/c/journal.jsonl", folder / "out"

    def ended() -> int:
        return path.read_bytes().count(b'"type":"TrialFinished"') if path.exists() else 0

    started, killed = time.time(), 0.0
    with (
        said.open("w") as out,
        subprocess.Popen([*evolve, *words], cwd=folder, env=environment, stdout=out, stderr=out) as run,
    ):
        while run.poll() is None:
            if not killed and ended() >= trials // 3:
                killed = time.time()
                kill(nodes, victim)
            time.sleep(0.1)
    records = [r for r, _ in read(path)]
    finished = Counter(r.event.number for r in records if isinstance(r.event, TrialFinished))
    lost = [(r.time - killed, r.event) for r in records if isinstance(r.event, TrialInterrupted)]
    print(
        f"exit code {run.returncode} after {time.time() - started:.0f} s, the node killed at {killed - started:.0f} s"
    )
    print(
        f"trials ended: {len(finished)}, more than once: {sum(n > 1 for n in finished.values())}, interrupted: {len(lost)}"
    )
    for seconds, event in lost:
        print(f"  {seconds:.1f} s after the kill trial {event.number}: {event.reason}")
    request = next((r.event.request for r in records if isinstance(r.event, ApprovalRequested)), None)
    if request is not None:
        approve = [*evolve, "approve", request.candidate_id, "--yes", request.content_hash, "--by", "benchmark"]
        done = subprocess.run(approve, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        print(f"approved: exit code {done.returncode}")
    compare(folder, finished, [r.event for r, _ in read(path)])


def kill(nodes: Any, victim: Any) -> None:
    """All of a node at once, as a machine goes: a killed raylet alone leaves its workers a second to finish in."""
    [raylet] = victim.all_processes["raylet"]
    for pid in sandbox.family(raylet.process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    nodes.remove_node(victim, allow_graceful=False)


def compare(folder: Path, finished: Counter[int], events: list[Any]) -> None:
    """Whether MLflow and its registry say what the journal says."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/.evolve/mlflow.db")
    runs, token = [], None
    while True:
        page = client.search_runs([e.experiment_id for e in client.search_experiments()], page_token=token)
        runs += page
        if not (token := page.token):
            break
    numbers = Counter(int(r.data.tags["evolve.trial"]) for r in runs if "evolve.trial" in r.data.tags)
    print(f"runs in MLflow: {len(numbers)} trials; each as often as the journal ends it: {numbers == finished}")
    promoted = [e.weights for e in events if isinstance(e, Promoted)][-1:]
    champions = [
        client.get_model_version_by_alias(m.name, "champion").tags.get("evolve.weights")
        for m in client.search_registered_models()
    ]
    print(
        f"the registry's champion has the weights of the journal's last promotion: {bool(promoted) and champions == promoted}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--campaign", type=int, default=0)
    arguments = parser.parse_args()
    os.environ["RAY_health_check_period_ms"] = "1000"  # noqa: SIM112  Ray reads it so
    nodes = LocalCluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": OBJECTS, "include_dashboard": False}
    )
    ray.init(nodes.address, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory(prefix="evolve-") as place:
        if arguments.repeats:
            overhead(Path(place), arguments.repeats)
        if arguments.campaign:
            killed_campaign(Path(place), nodes, arguments.campaign)
    ray.shutdown()
    nodes.shutdown()


if __name__ == "__main__":
    main()
