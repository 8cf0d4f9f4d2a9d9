"""Promotion and rollback are one event each, whatever is killed, away or changed by hand; then all projections follow it."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evolve import sandbox
from evolve.tracking import connect

from .cli import COMMAND, PATIENCE, QUADRATIC, SMALL_GATE, Evolve, Terminal, bench_subject, digits, wait_for
from .conftest import GOOD, made_once

TRACKED = ("subject=quadratic", "tracking=mlflow", *SMALL_GATE, "proposer=default", "campaign=c", "budget.trials=60")
FIRST = "[a]pprove  [r]eject  [m]ore evidence  [l]ater  [q]uit > "
SECOND = "type the first 6 digits of its content > "


def make_tracked(evolve: Evolve) -> None:
    evolve("run", *TRACKED)
    evolve("try", *GOOD)
    evolve("resume")
    assert len(evolve.status()["pending"]) == 1


@pytest.fixture(scope="session")
def _tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "tracked", make_tracked)


@pytest.fixture
def tracked(_tracked: Path, evolve: Evolve) -> Evolve:
    """A campaign `c` in MLflow with one candidate that waits; the store names absolute paths, which follow the copy."""
    shutil.copytree(_tracked, evolve.cwd, dirs_exist_ok=True)
    position = evolve.folder("c") / "tracking.json"
    position.write_text(position.read_text().replace(str(_tracked), str(evolve.cwd)))
    database = sqlite3.connect(evolve.cwd / ".evolve" / "mlflow.db")
    with contextlib.closing(database), database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(_tracked), str(evolve.cwd)))
    return evolve


def approve(evolve: Evolve) -> str:
    """Approves the candidate that has waited for the shortest time, the best of those here."""
    person = Terminal(evolve, [*COMMAND, "approve", evolve.status()["pending"][-1]])
    person.answer(FIRST, "approve")
    person.answer(SECOND, digits(person.screen))
    return person.close()


def killed(evolve: Evolve, *words: str) -> list[dict[str, Any]]:
    script = Path(__file__).parent / "killed.py"
    done = subprocess.run(
        [sys.executable, str(script), str(evolve.cwd / ".evolve"), *words], cwd=evolve.cwd,
        env=evolve.env, capture_output=True, text=True, check=False, timeout=40 * PATIENCE,
    )  # fmt: skip
    shutil.rmtree(evolve.cwd / ".backup", ignore_errors=True)
    assert done.returncode == 0, done.stderr[-3000:]
    told: list[dict[str, Any]] = json.loads(done.stdout)
    return told


def check(told: list[dict[str, Any]], least: int) -> None:
    """Wherever it was killed: nothing at all, before the command was given, and else what an undisturbed one leads to."""
    *kills, undisturbed = told
    assert len(kills) >= least
    expected = undisturbed["found"]
    for kill in kills:
        where = f"killed at step {kill['at']}: {kill}"
        assert kill["signal"] == 9, where
        if kill["given"]:
            assert kill["found"] == expected, where
        else:
            assert kill["at"] <= 2, where
            assert kill["found"] != expected, where
        assert kill["again"][0] == 0, where
        assert kill["again"][1].strip() == "all projections are up to date", where


@pytest.mark.timeout(900)
def test_an_approval_that_is_killed_at_any_step_is_finished_by_the_next_command(tracked: Evolve) -> None:
    told = killed(tracked, "approve", "both", "coarse")
    check(told, least=20)
    found = told[-1]["found"]
    assert found["journal"] == ["Decided", "Promoted"]
    assert found["models"] == [["evolve-quadratic", {"champion": 2, "previous": 1}]]
    assert len(found["versions"]) == 2


@pytest.mark.timeout(900)
def test_a_rollback_that_is_killed_at_any_step_is_finished_by_the_next_command(tracked: Evolve) -> None:
    approve(tracked)
    told = killed(tracked, "rollback", "both", "coarse")
    check(told, least=10)
    found = told[-1]["found"]
    assert found["journal"] == ["Decided", "Promoted", "RolledBack"]
    assert found["models"] == [["evolve-quadratic", {"champion": 1}]]
    assert len(found["versions"]) == 2


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("finish", ["sync", "review"])
@pytest.mark.parametrize("what", ["approve", "rollback"])
def test_a_kill_at_any_commit_of_the_store_is_finished_too(tracked: Evolve, what: str, finish: str) -> None:
    if what == "rollback":
        approve(tracked)
    check(killed(tracked, what, finish, "fine"), least=20)


# ---------------------------------------------------------------- changed by hand


def store(evolve: Evolve) -> Any:
    return connect(f"sqlite:///{evolve.cwd}/.evolve/mlflow.db")


def synced(evolve: Evolve) -> list[str]:
    """What a sync says that it has put right, after which another one has nothing to do."""
    lines = evolve("sync").splitlines()
    assert lines.pop() == "all projections are up to date"
    assert evolve("sync") == "all projections are up to date\n"
    return lines


MODEL = "evolve-quadratic"


def test_a_registry_that_was_changed_by_hand_is_put_right_where_the_journal_knows(tracked: Evolve) -> None:
    approve(tracked)
    client = store(tracked)
    champion, start = tracked.status()["champion"], tracked.events("CampaignStarted")[0]["start"]

    client.set_registered_model_alias(MODEL, "champion", "1")
    client.delete_registered_model_alias(MODEL, "previous")
    assert synced(tracked) == [
        f"{MODEL}: champion was version 1, is version 2",
        f"{MODEL}: previous is version 1",
    ]

    client.set_model_version_tag(MODEL, "2", "evolve.candidate", "me")
    client.delete_model_version_tag(MODEL, "1", "evolve.promotion")
    first, second = synced(tracked)
    assert first.startswith(f"{MODEL} version 1: evolve.promotion was missing, is ")
    assert second == f"{MODEL} version 2: evolve.candidate was 'me', is {champion!r}"
    assert len(client.search_model_versions(f"name = '{MODEL}'")) == 2

    client.delete_model_version(MODEL, "2")
    assert synced(tracked) == [f"{MODEL} version 3: candidate {champion[:8]}", f"{MODEL}: champion is version 3"]
    assert client.get_model_version_by_alias(MODEL, "champion").tags["evolve.candidate"] == champion

    client.rename_registered_model(MODEL, "mine")
    renamed = synced(tracked)
    assert renamed[0] == f"{MODEL}: registered"
    assert renamed[-2:] == [f"{MODEL}: champion is version 2", f"{MODEL}: previous is version 1"]
    client.delete_registered_model(MODEL)
    assert synced(tracked) == renamed
    assert start["params"]["x"] == 0.0003


def weights_of(evolve: Evolve, version: str) -> Path:
    """Where the store keeps a version's weights."""
    registered = store(evolve).get_model_version(MODEL, version)
    folder = registered.source.partition(f"{registered.run_id}/")[2]
    (found,) = (evolve.cwd / ".evolve" / "mlartifacts").rglob(f"{registered.run_id}/artifacts/{folder}")
    return found / "weights.safetensors"


def test_registered_weights_that_were_changed_are_refused_and_nothing_else_is_touched(tracked: Evolve) -> None:
    approve(tracked)
    client = store(tracked)
    file = weights_of(tracked, "2")
    approved = file.read_bytes()
    file.write_bytes(approved[:-1] + bytes([approved[-1] ^ 1]))
    client.set_registered_model_alias(MODEL, "previous", "2")
    line = refused_sync(tracked)
    assert "Registered weights must be those that were approved" in line
    assert f"{MODEL} version 2 holds " in line
    assert int(client.get_registered_model(MODEL).aliases["previous"]) == 2, "nothing was changed"
    file.unlink()
    assert f"{MODEL} version 2 holds none" in refused_sync(tracked)
    # the way out that the line names
    client.delete_model_version(MODEL, "2")
    synced(tracked)
    assert weights_of(tracked, "3").read_bytes() == approved


def refused_sync(evolve: Evolve) -> str:
    """The line on standard error of a sync that must not say that all is well."""
    done = evolve.raw("sync")
    assert done.returncode == 1
    assert done.stdout == "the registry is behind\n"
    (line,) = done.stderr.splitlines()
    return line


# ---------------------------------------------------------------- MLflow is away


def test_an_approval_while_the_store_cannot_be_opened_is_in_the_journal_and_carried_out_by_a_sync(
    tracked: Evolve,
) -> None:
    database = tracked.cwd / ".evolve" / "mlflow.db"
    away = database.with_name("away.db")
    database.rename(away)
    database.mkdir()  # cannot be opened, by root neither
    screen = approve(tracked)
    assert "approved and promoted" in screen
    assert screen.count("MLflow at") == 1
    assert "Traceback" not in screen
    champion = tracked.status()["champion"]
    assert tracked.status()["promoted"] == [champion]
    assert (tracked.cwd / ".evolve/champions/quadratic.yaml").exists(), "what needs no MLflow is done"
    assert "behind     the registry: `evolve sync` finishes it" in tracked("status")
    done = tracked.raw("sync")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    database.rmdir()
    away.rename(database)
    assert f"{MODEL} version 2: candidate {champion[:8]}" in synced(tracked)
    assert "behind" not in tracked("status")


def test_an_approval_while_the_server_is_dead_is_in_the_journal(tmp_path: Path) -> None:
    evolve = Evolve(tmp_path)
    evolve("run", *TRACKED, "tracking.uri=http://127.0.0.1:9")
    evolve("try", *GOOD)
    evolve("resume")
    screen = approve(evolve)
    assert "approved and promoted" in screen
    assert screen.count("MLflow at") == 1
    assert len(evolve.seen("c", "Promoted")) == 1
    assert "behind     the registry" in evolve("status")
    assert evolve.raw("sync").returncode == 1


# ---------------------------------------------------------------- the champion's file


def test_a_run_does_not_start_from_a_champions_file_that_was_edited_or_deleted(waiting: Evolve) -> None:
    approve_in(waiting, "c")
    file = waiting.cwd / ".evolve" / "champions" / "quadratic.yaml"
    text = file.read_text()
    plan = ("run", *QUADRATIC, "--dry-run")
    assert "start      champion" in waiting(*plan)

    file.write_text(text.replace("x: 0.01", "x: 0.9"))
    line = waiting.refuses(*plan)
    assert "has x=0.9, where the journal has 0.01; `evolve sync` puts it right" in line
    assert "start=default" in line
    assert "default config" in waiting(*plan, "start=default")
    assert "has x=0.9, where the journal has 0.01; put right" in waiting("sync")
    assert file.read_text() == text

    file.unlink()
    assert "is not there; `evolve sync` puts it right" in waiting.refuses(*plan)
    waiting("sync")
    file.write_text("half of it: [")
    assert "cannot be read; `evolve sync` puts it right" in waiting.refuses(*plan)
    waiting("sync")
    file.write_text(text.replace("campaign: c", "campaign: other"))
    assert "start      champion" in waiting(*plan), "of a journal that is not here, with the params of its id"
    file.write_text(text.replace("campaign: c", "campaign: other").replace("x: 0.01", "x: 0.9"))
    assert "its journal is not here" in waiting.refuses(*plan)


def approve_in(evolve: Evolve, campaign: str) -> str:
    """The same in one of several campaigns."""
    pending = json.loads(evolve("status", "--json", "--campaign", campaign))["pending"]
    person = Terminal(evolve, [*COMMAND, "approve", pending[-1], "--campaign", campaign])
    person.answer(FIRST, "approve")
    person.answer(SECOND, digits(person.screen))
    return person.close()


def test_a_crash_before_the_champions_file_does_not_make_a_run_start_from_the_old_one(waiting: Evolve) -> None:
    approve_in(waiting, "c")
    folder = waiting.folder("c")
    (waiting.cwd / ".evolve" / "champions" / "quadratic.yaml").unlink()
    (folder / "projected.json").unlink()  # as it is right after the event
    assert "start      champion" in waiting("run", *QUADRATIC, "--dry-run")
    assert "behind     the champion's file" in waiting("status")


def test_the_subjects_champion_is_that_of_the_campaign_that_promoted_last(waiting: Evolve) -> None:
    # `d` begins after `c` and promotes first; what `c` promotes later is the subject's champion whatever is synced when
    evolve = waiting
    evolve("run", *QUADRATIC, "proposer=default", "campaign=d", "budget.trials=40")
    evolve("try", "y=0.5", "size=32", "mode=curved", "--campaign", "d")
    evolve("resume", "d")
    approve_in(evolve, "d")
    approve_in(evolve, "c")
    champion = evolve.status("--campaign", "c")["champion"]
    file = evolve.cwd / ".evolve" / "champions" / "quadratic.yaml"
    text = file.read_text()
    assert champion in text
    assert evolve("sync", "--campaign", "d") == "all projections are up to date\n"
    assert file.read_text() == text
    said = evolve("rollback", "--campaign", "d")
    assert "the subject's champion stays that of campaign c, which promoted later" in said
    assert file.read_text() == text
    # decisions of both campaigns, the newest last
    decided = [json.loads(line) for line in evolve("log", "--decisions", "--json").splitlines()]
    assert [(d["campaign"], d["what"]) for d in decided] == [("d", "approve"), ("c", "approve"), ("d", "rollback")]


def test_a_rollback_says_what_it_has_led_to(waiting: Evolve) -> None:
    approve_in(waiting, "c")
    before = waiting.status()
    said = waiting("rollback", "--reason", "slow")
    restored = waiting.status()["champion"]
    assert f"rolled back: {before['champion'][:8]} -> {restored[:8]} (the start config)" in said
    assert "1 candidate(s) that waited must renew their evidence" in said
    log = waiting("log", "--decisions")
    assert max(map(len, log.splitlines())) <= 100
    assert "rolled back" in log
    assert "95 % interval" in log
    assert "not signed" in log
    assert "gate       custom: " in log


def test_an_approval_while_a_controller_runs_is_everywhere_at_once(waiting: Evolve) -> None:
    waiting("try", "pause=600.0")
    waiting.start("resume")
    wait_for(lambda: waiting.lines("c")[-1]["type"] == "TrialStarted", "the pause is being trained")
    approve_in(waiting, "c")
    champion = waiting.status()["champion"]
    assert champion in (waiting.cwd / ".evolve" / "champions" / "quadratic.yaml").read_text()
    assert waiting.status()["state"] == "running"
    waiting("stop")


# ---------------------------------------------------------------- edited code


def repository(root: Path, *words: str) -> str:
    """Git in the subject's repository, as its owner."""
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    done = subprocess.run(["git", "-C", str(root), *who, *words], capture_output=True, text=True, check=True)
    return done.stdout.rstrip("\n")


@pytest.mark.skipif(sandbox.find().name == "none", reason="edited code runs in the sandbox alone")
def test_a_promoted_edit_is_on_a_branch_and_the_next_campaign_starts_with_it(evolve: Evolve) -> None:
    root = evolve.cwd / "subject"
    words = ("subject=quadratic", "tracking=none", *SMALL_GATE, "proposer=default", "budget.trials=40")
    bench_subject(root)
    repository(root, "init", "-q", "-b", "main")
    repository(root, "add", "-A")
    repository(root, "commit", "-qm", "begin")
    recipe = root / "train/quadratic/recipe.py"
    right = recipe.read_text()
    evolve("run", *words, f"subject.root={root}", "campaign=c")
    recipe.write_text(right.replace("1 + (y - 0.5)", "1.0"))
    (evolve.cwd / "edit.diff").write_text(repository(root, "diff") + "\n")
    recipe.write_text(right)
    evolve("try", "--patch", "edit.diff", *GOOD, "--why", "the optimum of y is known")
    evolve("resume")
    (waits,) = json.loads(evolve("review", "--json"))["waiting"]
    screen = evolve("approve", waits["candidate"], "--yes", waits["content_hash"])
    champion = evolve.status()["champion"]
    title = f"Promote {champion[:8]}: the optimum of y is known"
    assert title in screen
    assert repository(root, "log", "--format=%s", "main..evolve/quadratic") == title
    assert "+        1.0," in repository(root, "diff", "main", "evolve/quadratic", "--", "train/quadratic/recipe.py")
    assert repository(root, "status", "--porcelain") == ""
    assert "behind" not in evolve("status")

    run = ("run", *words, f"subject.root={root}")
    assert f"champion {champion[:8]} of campaign c, with its patch" in evolve(*run, "--dry-run")
    evolve(*run, "campaign=d", "budget.trials=6")
    (started,) = evolve.seen("d", "CampaignStarted")
    assert "+        1.0," in started["start"]["patch"]
    trained = [e for e in evolve.seen("d", "TrialFinished") if e["state"] == "COMPLETE"]
    assert trained and all(e["integrity"] is not None for e in trained), "as edited code"

    repository(root, "merge", "-q", "evolve/quadratic")
    assert f"champion {champion[:8]} of campaign c, whose patch the sources have" in evolve(*run, "--dry-run")
    assert "Roll back" in evolve("rollback", "--campaign", "c")
    assert repository(root, "log", "--format=%s", "main..evolve/quadratic").startswith(f"Roll back {champion[:8]} to ")
    assert repository(root, "diff", "main~1", "evolve/quadratic") == ""
