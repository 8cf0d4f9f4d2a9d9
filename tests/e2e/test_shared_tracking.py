"""One MLflow for several controllers, on a PostgreSQL that is started here: what they write, and what an outage costs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from evolve.tracking import connect

from .cli import PATIENCE, ROOT, SMALL_GATE, Evolve, processes_of, wait_for
from .conftest import GOOD
from .test_promotion import approve

SUBJECT = ("subject=quadratic", *SMALL_GATE, "proposer=random")
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
MODEL = "evolve-quadratic"
PASSWORD = "hunter2"  # of nobody: the database trusts whoever reaches it, so that any will do


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Postgres:
    """A database server of its own in a folder of its own; it refuses to run as root."""

    def __init__(self, programs: Path, folder: Path, user: str | None) -> None:
        self._programs, self._folder = programs, folder
        self._as: dict[str, Any] = (
            {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
        )
        self.port = free_port()
        self._server: subprocess.Popen[bytes] | None = None
        words = ["-D", "data", "--auth=trust", "--username=evolve", "--no-sync", "--encoding=UTF8", "--locale=C"]
        subprocess.run([programs / "initdb", *words], cwd=folder, check=True, capture_output=True, **self._as)

    def start(self) -> None:
        log = open(self._folder / "log", "ab")  # noqa: SIM115 - the child's
        words = ["-D", "data", "-k", str(self._folder), "-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-F"]
        self._server = subprocess.Popen(
            [self._programs / "postgres", *words], cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, **self._as,
        )  # fmt: skip
        log.close()
        wait_for(self._answers, "PostgreSQL starts")

    def stop(self) -> None:
        """At once; whoever is connected loses the connection."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            self._server.wait(PATIENCE)
            self._server = None

    def _answers(self) -> bool:
        assert self._server is not None and self._server.poll() is None, (self._folder / "log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return self._sql("SELECT 1") == 0
        return False

    def _sql(self, statement: str) -> int:
        where = ["-h", str(self._folder), "-p", str(self.port), "-U", "evolve", "-d", "postgres"]
        return subprocess.run(
            [self._programs / "psql", "-X", *where, "-c", statement], capture_output=True, check=False
        ).returncode

    def database(self, name: str) -> str:
        """The address of a new, empty one."""
        assert self._sql(f"CREATE DATABASE {name}") == 0
        return f"postgresql+psycopg2://evolve:{PASSWORD}@127.0.0.1:{self.port}/{name}"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    pytest.importorskip("psycopg2", reason="needs psycopg2: pip install 'evolve[shared]'")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: float(p.parts[-3]))
    if not found:
        pytest.skip("needs a PostgreSQL server: Debian's package postgresql")
    user = "postgres" if os.geteuid() == 0 else None
    if user and not any(entry.pw_name == user for entry in pwd.getpwall()):
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    folder = Path(tempfile.mkdtemp(prefix="evolve-postgres-"))  # pytest's own folders are closed to other users
    if user:
        shutil.chown(folder, user)
    folder.chmod(0o755)
    server = Postgres(found[-1].parent, folder, user)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an `mlflow server` as in examples/shared-tracking/compose.yaml: a database, and the files through it."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    settings = {
        "MLFLOW_BACKEND_STORE_URI": postgres.database("shared"),
        "MLFLOW_ARTIFACTS_DESTINATION": (folder / "files").as_uri(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    words = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--serve-artifacts"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words], cwd=folder, env=os.environ | settings,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip

    def healthy() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer,
        ):
            return bool(answer.status == 200)
        return False

    try:
        wait_for(healthy, "mlflow server starts")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def two_at_once(root: Path, *words: str) -> Iterator[list[Evolve]]:
    """Campaigns `first` and `second` by controllers that start together, each in a folder of its own; both have ended."""
    people = []
    try:
        for name, seed in (("first", 1), ("second", 2)):
            (root / name).mkdir()
            people.append(Evolve(root / name))
            people[-1].start("run", *SUBJECT, f"campaign={name}", f"seed={seed}", "budget.trials=10", *words)
        for person in people:
            said, _ = person.started[0].communicate(timeout=PATIENCE)
            assert person.started[0].returncode == 0, said
            assert "MLflow at" not in said, "nothing is refused for there being another"
            assert PASSWORD not in said
            assert processes_of(person.cwd) == []
        yield people
    finally:
        for person in people:
            person.end()


@pytest.fixture(scope="module")
def two(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Evolve]]:
    with two_at_once(tmp_path_factory.mktemp("two"), f"tracking.uri={server}") as people:
        yield people


def runs_of(uri: str, campaign: str) -> list[Any]:
    client = connect(uri)
    experiment = client.get_experiment_by_name("evolve/quadratic")
    assert experiment is not None
    return list(
        client.search_runs([experiment.experiment_id], f"tags.`evolve.campaign` = '{campaign}'", max_results=1000)
    )


def check_agreement(evolve: Evolve, campaign: str, uri: str, status: str = "FINISHED") -> None:
    """MLflow shows what the journal says: every trial once, as it ended, with its score and its files, and no other."""
    evolve("sync")
    runs, client = runs_of(uri, campaign), connect(uri)
    (parent,) = [run for run in runs if run.data.tags["evolve.kind"] == "campaign"]
    assert parent.info.status == status
    trials = [run for run in runs if run.data.tags["evolve.kind"] == "trial"]
    begun = {event["number"] for event in evolve.seen(campaign, "TrialStarted")}
    assert sorted(int(run.data.tags["evolve.trial"]) for run in trials) == sorted(begun)
    candidates = {event["number"]: event["candidate_id"] for event in evolve.seen(campaign, "TrialScheduled")}
    ended = {event["number"]: event for event in evolve.seen(campaign, "TrialFinished")}
    for run in trials:
        number = int(run.data.tags["evolve.trial"])
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["evolve.candidate"] == candidates[number]
        if number not in ended:
            assert (run.info.status, status) == ("KILLED", "KILLED"), "what a stop has interrupted"
            continue
        event = ended[number]
        assert run.info.status == STATUS[event["state"]], number
        assert run.data.metrics.get("score") == (event["score"]["mean"] if event["score"] else None)
        assert "proposal.json" in [file.path for file in client.list_artifacts(run.info.run_id)]
    assert "pictures/progress.png" in [file.path for file in client.list_artifacts(parent.info.run_id, "pictures")]


def test_two_controllers_on_one_server_keep_their_campaigns_apart_and_whole(two: list[Evolve], server: str) -> None:
    for evolve, name in zip(two, ("first", "second"), strict=True):
        check_agreement(evolve, name, server)
    first, second = (runs_of(server, name) for name in ("first", "second"))
    keys = [{run.data.tags["evolve.campaign_key"] for run in runs} for runs in (first, second)]
    assert [len(found) for found in keys] == [1, 1] and keys[0] != keys[1]
    assert {run.info.artifact_uri.partition(":")[0] for run in [*first, *second]} == {"mlflow-artifacts"}


def test_a_promotion_in_one_is_the_champion_that_all_see(two: list[Evolve], server: str, tmp_path: Path) -> None:
    evolve = two[0]
    evolve("try", *GOOD)
    evolve("resume", "budget.trials=22")
    assert "approved and promoted" in approve(evolve)
    status, client = evolve.status(), connect(server)
    version = client.get_model_version_by_alias(MODEL, "champion")
    assert version.tags["evolve.candidate"] == status["champion"]
    assert version.tags["evolve.campaign"] == "first"
    path = f"{version.source.partition(version.run_id + '/')[2]}/weights.safetensors"
    weights = Path(client.download_artifacts(version.run_id, path, str(tmp_path))).read_bytes()
    assert hashlib.sha256(weights).hexdigest() == version.tags["evolve.weights"]
    check_agreement(evolve, "first", server)
    assert two[1]("sync") != ""
    assert client.get_model_version_by_alias(MODEL, "champion").version == version.version, (
        "nobody else's sync moves it"
    )


def test_a_database_that_stops_in_the_middle_costs_one_warning_and_sync_catches_up(
    postgres: Postgres, server: str, evolve: Evolve
) -> None:
    controller = evolve.start(
        "run", *SUBJECT, "campaign=third", "seed=3", "budget.trials=900", f"tracking.uri={server}"
    )
    wait_for(lambda: (evolve.folder("third") / "tracking.json").exists(), "the campaign is in MLflow")
    postgres.stop()
    try:
        before = len(evolve.seen("third", "TrialFinished"))
        wait_for(lambda: len(evolve.seen("third", "TrialFinished")) > before + 4, "trials go on without the database")
        controller.send_signal(signal.SIGINT)
        said, _ = controller.communicate(timeout=PATIENCE)
        away = evolve.raw("sync")
    finally:
        postgres.start()
    assert controller.returncode == 130, said
    assert said.count("MLflow at") == 1, said
    assert "not in MLflow yet: `evolve sync`" in said
    assert away.returncode == 1
    assert "Traceback" not in away.stderr
    check_agreement(evolve, "third", server, "KILLED")


def test_two_controllers_share_an_empty_database_without_a_server(postgres: Postgres, tmp_path: Path) -> None:
    uri, files = postgres.database("direct"), tmp_path / "files"
    with two_at_once(tmp_path, f"tracking.uri={uri}", f"tracking.artifacts={files}") as people:
        for evolve, name in zip(people, ("first", "second"), strict=True):
            check_agreement(evolve, name, uri)
            assert not (evolve.cwd / "mlruns").exists()
    assert list(files.glob("*/artifacts/proposal.json"))


# ---------------------------------------------------------------- what the documentation says


def test_the_compose_file_is_what_its_page_and_this_version_say() -> None:
    text = (ROOT / "examples/shared-tracking/compose.yaml").read_text()
    compose, page = yaml.safe_load(text), (ROOT / "docs/shared-tracking.md").read_text()
    services = compose["services"]
    assert set(services) == {"postgres", "mlflow"}
    pinned = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("mlflow=="))
    assert services["mlflow"]["image"] == f"ghcr.io/mlflow/mlflow:v{pinned.partition('==')[2]}-full"
    for service in services.values():
        assert f"`{service['image']}`" in page
        assert "healthcheck" in service
    assert services["mlflow"]["ports"] == ["127.0.0.1:5000:5000"]
    assert "ports" not in services["postgres"], "the database is for the server alone"
    used = {volume.partition(":")[0] for service in services.values() for volume in service["volumes"]}
    assert used == set(compose["volumes"])
    assert services["postgres"]["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")
    assert "@" in services["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"]
    assert ":@" not in text
