"""Storage and stores that fail in other ways than by a full disk: nothing is lost, nobody waits for them, one line says it."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

from .cli import COMMAND, QUADRATIC, SMALL_GATE, Evolve
from .crash import Campaign, repository
from .test_recovery import RANDOM

BWRAP = [str(shutil.which("bwrap")), "--dev-bind", "/", "/"]
can_bind = pytest.mark.skipif(
    not shutil.which("bwrap") or subprocess.run([*BWRAP, "true"], capture_output=True, check=False).returncode != 0,
    reason="bubblewrap is not there or may not run",
)


# ---------------------------------------------------------------- a folder that cannot be written


def read_only(evolve: Evolve, *words: str) -> subprocess.CompletedProcess[str]:
    """A command for which the campaign's folder is on a file system mounted read-only."""
    here = str(evolve.cwd)
    return subprocess.run(
        [*BWRAP, "--ro-bind", here, here, "--", *COMMAND, *words],
        cwd=here, env=evolve.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


LOOKS = [
    ["status"],
    ["log"],
    ["review"],
    ["report", "--out", "{away}/r.html"],
    ["export-study", "--storage", "{away}/s.db"],
]
WRITES = [
    ["resume", "budget.trials=20"], ["try", "y=0.5"], ["rollback"], ["gc"], ["sync"], ["report"], ["export-study"],
    ["run", *QUADRATIC, "campaign=second"],
]  # fmt: skip


@can_bind
def test_a_read_only_campaign_can_be_looked_at_and_whatever_writes_says_so_in_one_line(
    finished: Evolve, tmp_path_factory: pytest.TempPathFactory
) -> None:
    away = tmp_path_factory.mktemp("away")
    for words in LOOKS:
        done = read_only(finished, *(word.format(away=away) for word in words))
        assert (done.returncode, done.stderr) == (0, ""), words
        assert done.stdout
    before = (finished.folder("first") / "journal.jsonl").read_bytes()
    for words in WRITES:
        done = read_only(finished, *words)
        assert done.returncode in (1, 2), words
        assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("evolve: "), (words, done.stderr)
        assert "must be" in done.stderr, words
    assert (finished.folder("first") / "journal.jsonl").read_bytes() == before
    finished("resume", "budget.trials=16")
    assert [e["number"] for e in finished.seen("first", "TrialFinished")] == list(range(16))


# ---------------------------------------------------------------- a full /dev/shm


@can_bind
def test_a_campaign_needs_no_room_in_dev_shm(finished: Evolve, secret: str) -> None:
    other = Evolve(finished.cwd / "other")
    other.cwd.mkdir()
    full = 'head -c 4096 /dev/zero > /dev/shm/full; if echo more > /dev/shm/more; then exit 9; fi; exec "$@"'
    done = subprocess.run(
        [*BWRAP, "--size", "4096", "--tmpfs", "/dev/shm", "--", "bash", "-c", full, "-", *COMMAND, "run", *QUADRATIC,
         *RANDOM, secret],
        cwd=other.cwd, env=other.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert other.stable() == finished.stable()


# ---------------------------------------------------------------- MLflow


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_an_mlflow_that_never_answers_holds_nobody_up(finished: Evolve, secret: str, silent_server: str) -> None:
    other = Evolve(finished.cwd / "other")
    other.cwd.mkdir()
    done = other.raw("run", "subject=quadratic", *SMALL_GATE, f"tracking.uri={silent_server}", *RANDOM, secret)
    assert done.returncode == 0, done.stderr
    assert "not in MLflow yet: `evolve sync`" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert other.stable() == finished.stable()


@pytest.fixture
def tracked(evolve: Evolve) -> Campaign:
    """A finished campaign of 12 trials that is in MLflow."""
    root = evolve.cwd / "subject"
    repository(root)
    words = ("subject=quadratic", *SMALL_GATE, "proposer=random", f"subject.root={root}", "seed=1")
    campaign = Campaign(evolve, root, words, seed=1)
    evolve("run", *words, "campaign=c", "budget.trials=12")
    return campaign


def in_agreement(campaign: Campaign) -> list[str]:
    """What of MLflow is not as in the journal."""
    from evolve import campaign as files

    campaign.check_mlflow(files.load(files.Folder(campaign.folder)))
    return campaign.told.violations


def test_after_a_repair_mlflow_shows_what_the_journal_says(tracked: Campaign) -> None:
    assert in_agreement(tracked) == []
    evolve, path = tracked.evolve, tracked.folder / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if b'"TrialFinished"' in line and b'"number":8,' in line)
    path.write_bytes(b"".join([*lines[:at], lines[at].replace(b'"mean":0.', b'"mean":1.'), *lines[at + 1 :]]))
    evolve("repair", "--yes")
    assert in_agreement(tracked) == [], "between the repair and the resume"
    evolve("resume", "budget.trials=13")
    assert [e["number"] for e in evolve.seen("c", "TrialFinished")] == list(range(13))
    assert in_agreement(tracked) == []
