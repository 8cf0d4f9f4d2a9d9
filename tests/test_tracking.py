"""The MLflow tracker: what it shows, and that crashes, dead servers and foreign text change nothing else."""

from __future__ import annotations

import copy
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from evolve import tracking
from evolve.state import replay
from evolve.tracking import MlflowTracker, read_position
from evolve.tracking_page import (
    PAGE_LIMIT,
    VIEW_TAG,
    campaign_key,
    campaign_url,
    candidate_url,
    escape,
    page,
    plain,
    run_url,
)
from evolve.tracking_values import CURVE_POINTS, curve_points, log_name, trial_note
from evolve.types import (
    Budget,
    Candidate,
    EditChecked,
    EditCheckStarted,
    Evaluation,
    GateRules,
    Message,
    Progress,
    Proposal,
    Proposed,
    Record,
    Rules,
    Spend,
    TrialFinished,
    TrialStarted,
    VerdictReached,
)
from tests.tracking_campaign import EVIL, Campaign, all_runs, new_store, write_journal

KILLED_IN_THE_MIDDLE = """
import os, signal, sys
import sqlalchemy
from evolve.tracking import connect


@sqlalchemy.event.listens_for(sqlalchemy.engine.Engine, "after_cursor_execute")
def look(connection, cursor, statement, *rest):
    if "CREATE TABLE latest_metrics" in statement:  # a step of a migration is there, its version is not
        os.kill(os.getpid(), signal.SIGKILL)


connect(sys.argv[1]).search_experiments()
"""
DEAD = "http://127.0.0.1:9"  # the discard port, where nothing listens
SMALL = Rules(budget=Budget(trials=9), gate=GateRules(baseline_seeds=2, max_seeds=3))


class Desk:
    """A campaign's folder and a store, with as many trackers one after the other as there are crashes."""

    def __init__(self, root: Path) -> None:
        self.uri = new_store(root / "store")
        self.artifacts = root / "artifacts"
        self.folder = root / "campaign"
        self.folder.mkdir()
        self.warnings: list[str] = []

    def tracker(self, uri: str | None = None) -> MlflowTracker:
        return MlflowTracker(uri or self.uri, self.folder, warn=self.warnings.append, artifacts=self.artifacts)

    def carry(self, records: list[Record], uri: str | None = None) -> int:
        """One process' life: everything is recorded, then it ends. Returns the backlog."""
        tracker = self.tracker(uri)
        for record in records:
            tracker.record(record)
        backlog = tracker.flush(60)
        tracker.close()
        return backlog


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def resumed_campaign() -> list[Record]:
    """Every kind of event: killed in the middle of trial 3, resumed, and a person's yes and rollback at the end."""
    campaign = Campaign(rules=SMALL).play(until=lambda event: event == TrialStarted(3, 1))
    campaign.session()
    return campaign.play().command("approve").command("rollback", "too slow").records


@pytest.fixture(scope="session")
def journal() -> list[Record]:
    return resumed_campaign()


@pytest.fixture(scope="session")
def expected(journal: list[Record], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the store shows when nothing was interrupted."""
    desk = Desk(tmp_path_factory.mktemp("expected"))
    assert desk.carry(journal) == 0
    assert desk.warnings == []
    return all_runs(desk.uri)


def test_a_store_whose_making_was_killed_is_made_by_the_next_process(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    killed = subprocess.run([sys.executable, "-c", KILLED_IN_THE_MIDDLE, uri], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(tracking.connect(uri).search_experiments()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


# ---------------------------------------------------------------- what is shown


def test_there_is_one_run_for_the_campaign_and_one_for_each_trial(expected: dict[str, Any]) -> None:
    assert sorted(expected)[:4] == ["0000 bank default", "0001 bank default", "0002 search tpe", "0003 search tpe"]
    assert len(expected) == 9 + 1
    assert expected["toy-1"]["tags"]["evolve.kind"] == "campaign"


def test_a_trial_shows_params_scores_curve_environment_and_files(expected: dict[str, Any]) -> None:
    run = expected["0000 bank default"]
    assert run["params"] == {"learning_rate": "0.0003", "steps": "100", "method": "sft"}
    assert {"score", "stderr", "score/addition", "score/sorting", "cpu_seconds", "peak_memory_mb"} <= set(
        run["metrics"]
    )
    assert [step for step, _, _ in run["metrics"]["progress/loss"]] == list(range(0, 50, 5))
    assert run["tags"]["evolve.hardware"] == "2x cpu"
    assert run["tags"]["evolve.changes"] == "(none)"
    assert run["files"] == ["log_tail.txt", "proposal.json"]
    assert run["status"] == "FINISHED"


def test_a_trials_page_says_its_score_in_the_subjects_own_words(expected: dict[str, Any]) -> None:
    run = expected["0000 bank default"]
    score = next(iter(run["metrics"]["score"]))[-1]
    assert run["tags"]["mlflow.note.content"].startswith(f"**COMPLETE** accuracy {score:.4f} ± ")


def test_the_campaigns_run_has_the_score_of_each_trial_and_the_best_so_far(expected: dict[str, Any]) -> None:
    metrics = expected["toy-1"]["metrics"]
    steps = [step for step, _, _ in metrics["score"]]
    assert steps == [step for step, _, _ in metrics["best"]]
    assert steps == [0, 1, 3, 4, 5, 6, 7, 8]  # trial 2 failed and has no score
    leader = expected["toy-1"]["tags"]["evolve.best"].split()[1]
    assert float(leader) == pytest.approx(metrics["best"][-1][2], rel=1e-5)


def test_a_failed_trial_is_failed_without_a_score(expected: dict[str, Any]) -> None:
    (failed,) = [run for run in expected.values() if run["tags"].get("evolve.state") == "FAIL"]
    assert failed["status"] == "FAILED"
    assert "score" not in failed["metrics"]
    assert failed["tags"]["evolve.error"].startswith("exit code 1")


def test_a_pruned_trial_is_killed_and_says_why_without_an_error_or_a_score(desk: Desk, journal: list[Record]) -> None:
    failed = next(r for r in journal if isinstance(r.event, TrialFinished) and r.event.state == "FAIL")
    ended = replace(failed.event, state="PRUNED", error="pruned at mark 6 of 20", log_tail="")
    assert desk.carry([replace(r, event=ended) if r is failed else r for r in journal]) == 0
    (pruned,) = [run for run in all_runs(desk.uri).values() if run["tags"].get("evolve.state") == "PRUNED"]
    assert pruned["status"] == "KILLED"
    assert pruned["tags"]["evolve.pruned"] == "pruned at mark 6 of 20"
    assert "evolve.error" not in pruned["tags"]
    assert "score" not in pruned["metrics"]


def test_an_interrupted_trial_goes_on_in_the_same_run(expected: dict[str, Any]) -> None:
    run = expected["0003 search tpe"]
    assert (run["tags"]["evolve.attempt"], run["tags"]["evolve.state"]) == ("2", "COMPLETE")


def test_verdict_approval_and_rollback_reach_the_candidates_runs(expected: dict[str, Any]) -> None:
    challenger = next(run for name, run in expected.items() if "gate" in name)
    assert challenger["tags"]["evolve.verdict"].startswith("ACCEPT")
    assert challenger["tags"]["evolve.vault"] == "yes"
    assert (challenger["tags"]["evolve.stage"], challenger["tags"]["evolve.reason"]) == ("declined", "too slow")
    assert expected["0000 bank default"]["tags"]["evolve.stage"] == "champion"
    assert "gate/score" in challenger["metrics"]


def test_a_model_that_was_asked_is_named_with_what_it_cost(expected: dict[str, Any]) -> None:
    asked = [run for name, run in expected.items() if name.endswith("agent")]
    assert asked
    assert all(run["tags"]["evolve.model"] == "local/m" for run in asked)
    assert [value for _, _, value in asked[0]["metrics"]["llm_usd"]] == [0.01]


def test_the_campaigns_page_says_what_waits_and_how_to_decide(desk: Desk) -> None:
    campaign = Campaign(rules=SMALL).play()
    desk.carry(campaign.records)
    text = all_runs(desk.uri)["toy-1"]["tags"]["mlflow.note.content"]
    pending = next(iter(campaign.state.pending))
    assert "1 waiting for approval: `evolve review`" in text.splitlines()[0]
    assert all_runs(desk.uri)["toy-1"]["tags"]["evolve.pending"] == pending[:8]
    assert f"- `{pending[:8]}` better by &#43;0.05" in text
    assert "95 &#37; interval &#43;0.0" in text and "2 fresh seeds against 2 of the champion" in text
    assert "| 1 | `" in text
    assert "**noise floor** 0.00" in text
    assert (
        "**Gate** custom&#58; at most 5&#37; that a campaign of 50 useless candidates promotes any&#59; not simulated"
        in text
    )


def test_the_campaigns_page_says_who_promoted_what_on_which_evidence(journal: list[Record]) -> None:
    promoted = page(replay(record.event for record in journal[:-1]), [])
    assert re.search(r"- `\w{8}` promoted by \*\*ada\*\*; better by &#43;0\.\d+ &#40;95 &#37; interval", promoted)
    rolled_back = page(replay(record.event for record in journal), [])
    assert re.search(r"- `\w{8}` rolled back to `\w{8}` by \*\*ada\*\*: too slow", rolled_back)
    assert "nothing waits for approval" in rolled_back


def test_no_tag_of_an_accepted_candidate_shows_the_naive_difference(expected: dict[str, Any]) -> None:
    challenger = next(run for name, run in expected.items() if "gate" in name)
    assert re.fullmatch(
        r"ACCEPT: \+0\.0\d+ \(95 % interval \+0\.0\d+ to \+0\.0\d+\)", challenger["tags"]["evolve.verdict"]
    )


def test_files_of_the_trials_folder_are_kept_with_the_run_but_no_link_is_followed(desk: Desk, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    first, second = (desk.folder / "trials" / name for name in ("00000", "00001"))
    first.mkdir(parents=True)
    second.mkdir()
    (first / "train.log").write_text("x" * 100_000 + "\nthe end\x1b[31m\n")
    (first / "evaluation-search-0.json").write_text('{"mean": 0.5}')
    (second / "evaluation-search-0.json").symlink_to(secret)
    desk.carry(Campaign(rules=SMALL).play().records)
    runs = all_runs(desk.uri)
    assert runs["0000 bank default"]["files"] == ["evaluation.json", "log_tail.txt", "proposal.json"]
    assert runs["0001 bank default"]["files"] == ["log_tail.txt", "proposal.json"]
    (log,) = [path.read_text() for path in desk.artifacts.rglob("log_tail.txt") if "the end" in path.read_text()]
    assert len(log) == 64_000
    assert "\x1b" not in log


def test_a_candidates_patch_is_a_file_of_its_trials_without_what_could_deceive_a_reader(desk: Desk) -> None:
    patch = "--- a/recipe.py\n+++ b/recipe.py\n@@ -1 +1 @@\n-lr = 1\n+lr = 2  # \u202eevil\x1b[31m\n"
    campaign = Campaign(rules=SMALL)
    plain_proposal = campaign._proposal

    def patched() -> Proposal:
        proposal = plain_proposal()
        return replace(proposal, candidate=replace(proposal.candidate, patch=patch))

    campaign._proposal = patched  # type: ignore[method-assign]
    desk.carry(campaign.play().records)
    runs = all_runs(desk.uri)
    assert runs["0003 search tpe"]["files"] == ["log_tail.txt", "patch.diff", "proposal.json"]
    assert runs["0000 bank default"]["files"] == ["log_tail.txt", "proposal.json"]
    text = next(desk.artifacts.rglob("patch.diff")).read_text()
    assert text == patch.replace("\u202e", " ").replace("\x1b", " ")
    stored = json.loads(next(desk.artifacts.rglob("patch.diff")).with_name("proposal.json").read_text())
    assert stored["candidate"]["patch"] == patch, "the proposal has it as it is"
    note = runs["0003 search tpe"]["tags"]["mlflow.note.content"]
    assert note.split("Patch:\n\n")[1].splitlines()[:2] == ["    --- a/recipe.py", "    +++ b/recipe.py"]


def test_a_long_patch_is_shown_in_part_and_each_line_stays_in_its_block() -> None:
    proposal = Proposal(
        Candidate({}, "v", "\n".join(["```", "# no heading", "</pre><script>", *["+x" * 200] * 97])), "a"
    )
    note = trial_note(TrialFinished(0, "COMPLETE"), proposal)
    head, body = note.split("Patch; 60 more lines in patch&#46;diff:\n\n")
    assert "```" not in head
    assert len(body.splitlines()) == 40
    assert all(line.startswith("    ") for line in body.splitlines())
    assert len(note) < 8000


def test_a_trace_takes_as_long_as_the_calls_took(desk: Desk) -> None:
    campaign = Campaign(rules=SMALL)
    plain_proposal = campaign._proposal

    def asked() -> Proposal:
        said = (Message("user", "what next?"), Message("assistant", "{}"))
        spend = Spend(llm_usd=0.01, llm_tokens=12, llm_calls=1, llm_seconds=2.5)
        return replace(plain_proposal(), transcript=said, model="local/m", spend=spend)

    campaign._proposal = asked  # type: ignore[method-assign]
    desk.carry(campaign.play().records)
    client = tracking.connect(desk.uri)
    run = run_of(desk.uri, "0003 search tpe").info
    (trace,) = client.search_traces(locations=[run.experiment_id], run_id=run.run_id)
    assert trace.info.execution_duration == 2500
    assert trace.data.spans[0].inputs == {"messages": [{"role": "user", "content": "what next?"}]}


def test_a_stopped_campaign_leaves_no_run_that_looks_as_if_it_ran(desk: Desk) -> None:
    campaign = Campaign(rules=SMALL).play(until=lambda event: isinstance(event, TrialStarted))
    campaign.command("stop").play()
    desk.carry(campaign.records)
    assert {run["status"] for run in all_runs(desk.uri).values()} == {"KILLED"}


# ---------------------------------------------------------------- once and only once


def test_a_second_process_that_reads_the_whole_journal_again_changes_nothing(
    desk: Desk, journal: list[Record], expected: dict[str, Any]
) -> None:
    desk.carry(journal)
    desk.carry(journal)
    assert all_runs(desk.uri) == expected


@pytest.mark.parametrize("share", [0.02, 0.2, 0.45, 0.7, 0.97])
def test_a_crash_between_the_store_and_the_position_doubles_no_run(
    desk: Desk, journal: list[Record], expected: dict[str, Any], share: float
) -> None:
    cut = 1 + int(share * len(journal))
    desk.carry(journal[:cut])
    position = desk.folder / "tracking.json"
    before = position.read_bytes()
    rest = iter(range(cut + 1, len(journal) + 1))
    while position.read_bytes() == before:  # up to the next event that the store shows
        desk.carry(journal[: next(rest)])
    position.write_bytes(before)
    assert desk.carry(journal) == 0
    assert all_runs(desk.uri) == expected


def test_a_lost_position_doubles_no_run(desk: Desk, journal: list[Record], expected: dict[str, Any]) -> None:
    desk.carry(journal)
    (desk.folder / "tracking.json").write_text("{ torn")
    assert desk.carry(journal) == 0
    assert all_runs(desk.uri) == expected


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.99])
def test_a_journal_that_lost_its_end_leaves_nothing_of_it_in_the_store(
    desk: Desk, journal: list[Record], tmp_path: Path, share: float
) -> None:
    desk.carry(journal)
    left = journal[: max(2, round(share * len(journal)))]
    write_journal(desk.folder, left)
    (desk.folder / "tracking.json").unlink()  # as `evolve repair` and the sight of an older copy do
    assert desk.carry(left) == 0
    (tmp_path / "fresh").mkdir()
    fresh = Desk(tmp_path / "fresh")
    assert fresh.carry(left) == 0
    again, wanted = all_runs(desk.uri), all_runs(fresh.uri)
    for name, run in wanted.items():
        assert again[name]["params"] == run["params"]
        assert again[name]["status"] == run["status"] or name == "toy-1"
        stale = {n for n, text in again[name]["tags"].items() if text != run["tags"].get(n, "")}
        assert stale <= {"evolve.attempt", "mlflow.note.content"} and (not stale or name == "toy-1"), (name, stale)
    assert set(again) == set(wanted)
    assert desk.carry(journal) == 0


def test_a_journal_that_went_on_otherwise_has_its_own_runs(desk: Desk, tmp_path: Path) -> None:
    """An older copy, then other candidates under the numbers of those that are gone."""
    begun = Campaign(rules=SMALL).play(until=lambda event: isinstance(event, TrialFinished) and event.number == 4)
    other = copy.deepcopy(begun)
    other.random.seed(9)
    first, second = begun.play().records, other.play().records
    assert first[: len(second)] != second
    desk.carry(first)
    write_journal(desk.folder, second)
    (desk.folder / "tracking.json").unlink()
    assert desk.carry(second) == 0
    (tmp_path / "fresh").mkdir()
    fresh = Desk(tmp_path / "fresh")
    assert fresh.carry(second) == 0
    again, wanted = all_runs(desk.uri), all_runs(fresh.uri)
    assert {name: run["params"] for name, run in again.items()} == {name: run["params"] for name, run in wanted.items()}
    assert desk.warnings == []


class Frail:
    """An MLflow client that fails for good at its n-th call, before or after having done what was asked."""

    def __init__(self, client: Any, calls: int, done_first: bool) -> None:
        self._client, self._calls, self._done_first = client, calls, done_first

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._calls -= 1
            if self._calls < 0 or (self._calls == 0 and not self._done_first):
                raise OSError("No space left on device")
            result = getattr(self._client, name)(*args, **kwargs)
            if self._calls == 0:
                raise OSError("No space left on device")
            return result

        return call


@pytest.mark.parametrize(
    ("calls", "done_first"), [(2, True), (3, True), (7, True), (12, True), (21, False), (45, False)]
)
def test_a_crash_within_an_event_doubles_no_run(
    desk: Desk,
    journal: list[Record],
    expected: dict[str, Any],
    calls: int,
    done_first: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        connect = tracking.connect
        patch.setattr(tracking, "connect", lambda uri: Frail(connect(uri), calls, done_first))
        assert desk.carry(journal) > 0
    (warning,) = desk.warnings
    assert "OSError: No space left on device" in warning
    assert desk.carry(journal) == 0
    assert all_runs(desk.uri) == expected


def test_a_trial_costs_the_store_no_more_calls_at_the_end_of_a_campaign(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    class Counting:
        def __init__(self, client: Any) -> None:
            self._client = client

        def __getattr__(self, name: str) -> Any:
            calls.append(name)
            return getattr(self._client, name)

    connect = tracking.connect
    monkeypatch.setattr(tracking, "connect", lambda uri: Counting(connect(uri)))
    rules = Rules(budget=Budget(trials=40), gate=GateRules(baseline_seeds=2, max_seeds=3))
    costs: list[int] = []
    tracker = desk.tracker()
    for record in Campaign(rules=rules).play().records:
        before = len(calls)
        tracker.record(record)
        assert tracker.flush(60) == 0
        if isinstance(record.event, TrialFinished):
            costs.append(len(calls) - before)
    tracker.close()
    assert len(costs) == 40
    assert max(costs[20:]) <= max(costs[:20]) <= 6


def test_an_experiment_that_another_campaign_makes_at_the_same_moment_is_taken(
    desk: Desk, journal: list[Record], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = tracking.connect(desk.uri)
    made: list[str] = []
    look = type(client).get_experiment_by_name

    def late(self: Any, name: str) -> Any:
        """There is none, and a moment later there is."""
        found = look(self, name)
        if not made:
            made.append(client.create_experiment(name, desk.artifacts.resolve().as_uri()))
        return found

    monkeypatch.setattr(type(client), "get_experiment_by_name", late)
    assert desk.carry(journal) == 0
    assert desk.warnings == []
    position = read_position(desk.folder)
    assert position is not None and [position.experiment_id] == made
    assert all_runs(desk.uri).keys() == expected.keys()


@pytest.mark.parametrize("kind", ["campaign", "trial"])
def test_a_run_that_a_server_made_twice_is_one_again(
    desk: Desk, journal: list[Record], expected: dict[str, Any], kind: str
) -> None:
    begun = [i + 1 for i, record in enumerate(journal) if isinstance(record.event, TrialStarted)]
    desk.carry(journal[: begun[3] if kind == "trial" else 1])
    client, position = tracking.connect(desk.uri), read_position(desk.folder)
    assert position is not None
    (run,) = client.search_runs([position.experiment_id], f"tags.`evolve.kind` = '{kind}' and status = 'RUNNING'")
    client.create_run(position.experiment_id, run.info.start_time, run.data.tags, run.info.run_name)
    if kind == "campaign":  # the answer was lost, and with it the position
        (desk.folder / "tracking.json").unlink()
    assert desk.carry(journal) == 0
    assert desk.warnings == []
    assert all_runs(desk.uri) == expected


def test_the_same_name_in_two_state_folders_is_two_campaigns(desk: Desk, tmp_path: Path) -> None:
    one, two = (
        Campaign("same", SMALL, seed).play(until=lambda event: isinstance(event, TrialStarted)) for seed in (1, 2)
    )
    desk.carry(one.records)
    desk.folder = tmp_path / "other"
    desk.folder.mkdir()
    desk.carry(two.records)
    client = tracking.connect(desk.uri)
    experiment = client.get_experiment_by_name("evolve/toy")
    runs = client.search_runs([experiment.experiment_id], "tags.`evolve.kind` = 'campaign'")
    keys = {run.data.tags["evolve.campaign_key"] for run in runs}
    assert keys == {campaign_key(one.state.campaign), campaign_key(two.state.campaign)}


# ---------------------------------------------------------------- a store that is away


def test_a_dead_server_warns_once_and_a_later_tracker_catches_up(
    desk: Desk, journal: list[Record], expected: dict[str, Any]
) -> None:
    tracker = desk.tracker(DEAD)
    for record in journal:
        tracker.record(record)
    assert tracker.flush(60) == len(journal)
    assert tracker.flush(60) == len(journal)  # tried again, not said again
    tracker.close()
    (warning,) = desk.warnings
    assert DEAD in warning
    assert "`evolve sync`" in warning
    assert "\n" not in warning
    assert desk.carry(journal) == 0
    assert all_runs(desk.uri) == expected


def test_a_store_that_comes_back_is_caught_up_by_the_same_tracker(
    desk: Desk, journal: list[Record], expected: dict[str, Any], tmp_path: Path
) -> None:
    away = tmp_path / "store-away"
    (tmp_path / "store").rename(away)
    tracker = desk.tracker()
    for record in journal:
        tracker.record(record)
    assert tracker.flush(60) == len(journal)
    away.rename(tmp_path / "store")
    assert tracker.flush(60) == 0
    tracker.close()
    assert all_runs(desk.uri) == expected
    assert len(desk.warnings) == 1


def test_a_folder_that_cannot_be_written_is_a_warning(desk: Desk, journal: list[Record], tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert desk.carry(journal, f"sqlite:///{blocked}/mlflow.db") == len(journal)
    assert "unable to open database file" in desk.warnings[0]
    desk.folder = blocked
    assert desk.carry(journal) == len(journal)  # no place to keep how far it came, so that the store is not asked
    assert "FileExistsError" in desk.warnings[1]


def test_a_password_in_the_uri_is_not_shown(desk: Desk, journal: list[Record]) -> None:
    desk.carry(journal[:1], "http://me:hunter2@127.0.0.1:9")
    assert "hunter2" not in desk.warnings[0]


def test_a_database_whose_driver_is_missing_is_said_with_what_to_install(desk: Desk, journal: list[Record]) -> None:
    desk.carry(journal, "postgresql+pg8000://me:hunter2@127.0.0.1/mlflow")
    (warning,) = desk.warnings
    assert "the module pg8000 of postgresql+pg8000://127.0.0.1/mlflow is not installed" in warning
    assert "pip install 'evolve[shared]'" in warning
    assert "hunter2" not in warning


def test_a_database_that_does_not_answer_is_asked_once(desk: Desk, journal: list[Record]) -> None:
    pytest.importorskip("psycopg2")
    began = time.monotonic()
    assert desk.carry(journal, "postgresql+psycopg2://me:hunter2@127.0.0.1:9/mlflow") == len(journal)
    assert time.monotonic() - began < 30, "MLflow itself tries ten times, for 100 seconds"
    (warning,) = desk.warnings
    assert "MLflow at postgresql+psycopg2://127.0.0.1:9/mlflow must take every event" in warning
    assert "hunter2" not in warning


def test_reading_on_where_nothing_is_new_asks_no_store(desk: Desk, journal: list[Record]) -> None:
    desk.carry(journal)
    Path(desk.uri.removeprefix("sqlite:///")).unlink()
    assert desk.carry(journal) == 0
    assert desk.warnings == []


def test_the_position_names_store_experiment_and_run(desk: Desk, journal: list[Record]) -> None:
    desk.carry(journal)
    position = read_position(desk.folder)
    assert position is not None
    assert (position.uri, position.seq) == (desk.uri, len(journal))
    assert tracking.connect(desk.uri).get_run(position.run_id).info.experiment_id == position.experiment_id
    (desk.folder / "tracking.json").write_text("[]")
    assert read_position(desk.folder) is None


# ---------------------------------------------------------------- what a person deletes in MLflow


def run_of(uri: str, name: str) -> Any:
    client = tracking.connect(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "evolve/toy"]
    (run,) = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
    return run


@pytest.mark.parametrize("restarted", [False, True])
def test_a_deleted_trial_stays_deleted_and_nothing_else_is_lost(
    desk: Desk, journal: list[Record], expected: dict[str, Any], restarted: bool
) -> None:
    verdict = next(k for k, record in enumerate(journal) if isinstance(record.event, VerdictReached))
    tracker = desk.tracker()
    for record in journal[:verdict]:
        tracker.record(record)
    assert tracker.flush(60) == 0
    tracking.connect(desk.uri).delete_run(run_of(desk.uri, "0003 search tpe").info.run_id)
    if restarted:
        tracker.close()
        tracker = desk.tracker()
    for record in journal:
        tracker.record(record)
    assert tracker.flush(60) == 0
    tracker.close()
    assert all_runs(desk.uri) == {name: run for name, run in expected.items() if name != "0003 search tpe"}
    (warning,) = desk.warnings
    assert warning == (
        "The run '0003 search tpe' was deleted in MLflow: it stays so, and what else happens to it is not shown there; the"
        " journal has everything."
    )


@pytest.mark.parametrize("what", ["run", "experiment"])
def test_without_the_campaigns_run_one_line_says_how_to_restore_it_and_then_nothing_is_lost(
    desk: Desk, journal: list[Record], expected: dict[str, Any], what: str
) -> None:
    desk.carry(journal[:20])
    client, run = tracking.connect(desk.uri), run_of(desk.uri, "toy-1").info
    place = {"run": run.run_id, "experiment": run.experiment_id}[what]
    getattr(client, f"delete_{what}")(place)
    assert desk.carry(journal) > 0
    (warning,) = desk.warnings
    assert f"deleted in MLflow; restore it: mlflow {what}s restore --{what}-id {place}" in warning
    assert "`evolve sync`" in warning and "\n" not in warning
    getattr(client, f"restore_{what}")(place)
    assert desk.carry(journal) == 0
    assert all_runs(desk.uri) == expected


# ---------------------------------------------------------------- foreign text


def test_markup_in_a_rationale_or_an_error_shows_as_itself(desk: Desk) -> None:
    desk.carry(Campaign(rules=SMALL, rationale=EVIL).play().records)
    for run in all_runs(desk.uri).values():
        for name, text in run["tags"].items():
            assert "\x1b" not in text
            if name == "mlflow.note.content":
                text = text.replace("![](get-artifact?path=pictures%2Fprogress.png&run_uuid=RUN)", "")  # our own
                assert not re.search(r"<script|javascript:|\]\(|!\[|http:|\n# ", text)
            elif name != "evolve.changes":
                assert "\n" not in text
                assert len(text) <= 500


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a | b", "a &#124; b"),
        ("<img src=x>", "&#60;img src&#61;x&#62;"),
        ("1. one\n- two", "1&#46; one &#45; two"),
        ("lr 0.0003 to 1e-05", "lr 0.0003 to 1e-05"),
        ("www.evil.example", "www&#46;evil&#46;example"),
        ("&#60;b", "&#38;&#35;60&#59;b"),
        ("\u202eabc\x00\u200b", "abc"),
    ],
)
def test_escaped_text_has_no_markup_left(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_plain_text_is_cut_to_its_limit() -> None:
    assert plain("x" * 300, 10) == "x" * 9 + "…"


def test_a_page_that_would_be_too_long_loses_rows_at_its_end() -> None:
    state = (
        Campaign(rules=Rules(budget=Budget(trials=40), gate=GateRules(baseline_seeds=2)), rationale=EVIL).play().state
    )
    for entry in state.entries.values():
        object.__setattr__(entry.proposal, "proposer", "*" * 40)
    leaders = [(c, Evaluation("accuracy", "search", 0.5, 0.1, 10)) for c in state.entries] * 10
    text = page(state, leaders)
    assert len(text) <= PAGE_LIMIT
    assert text.splitlines()[-1].endswith(" |")


def test_odd_metric_names_are_made_fit_for_mlflow() -> None:
    assert log_name("a'b\"; DROP TABLE") == "a_b__ DROP TABLE"
    assert curve_points((Progress(1, {"../../x": 1.0}),)) == [("progress/.._.._x", 1.0, 1)]


def test_a_long_curve_is_thinned_but_keeps_its_end() -> None:
    points = curve_points(tuple(Progress(step, {"loss": 1.0}) for step in range(10_001)))
    assert len(points) <= CURVE_POINTS + 1
    assert points[-1][2] == 10_000


# ---------------------------------------------------------------- links


def test_links_open_the_trials_table_a_run_and_a_candidates_trials() -> None:
    base = "http://127.0.0.1:5000/"
    assert campaign_url(base, "3", "ab12") == (
        "http://127.0.0.1:5000/#/experiments/3/runs?viewStateShareKey=evolve-ab12&workflowType=machine_learning"
    )
    assert run_url(base, "3", "r1") == "http://127.0.0.1:5000/#/experiments/3/runs/r1?workflowType=machine_learning"
    assert candidate_url(base, "3", "c1" * 32) == (
        "http://127.0.0.1:5000/#/experiments/3/runs?viewStateShareKey=evolve-c1c1c1c1c1c1c1c1&workflowType=machine_learning"
    )


def opened(uri: str, url: str) -> list[Any]:
    """The runs that MLflow's page shows at a link of ours, in its order: what the link's shared view asks of the store."""
    client = tracking.connect(uri)
    path, _, query = url.partition("/#/experiments/")[2].partition("?")
    experiment = client.get_experiment(path.split("/")[0])
    (key,) = parse_qs(query)["viewStateShareKey"]
    view = json.loads(experiment.tags[VIEW_TAG + key])
    order = f"{view['orderByKey']} {'ASC' if view['orderByAsc'] else 'DESC'}"
    runs = client.search_runs([experiment.experiment_id], view["searchFilter"], order_by=[order])
    for column in view["selectedColumns"]:
        kind, name = column.split(".", 1)
        assert any(name.strip("`") in getattr(run.data, kind) for run in runs), f"an empty column {name}"
    return list(runs)


def test_the_campaigns_link_opens_all_its_trials_best_first(desk: Desk, journal: list[Record]) -> None:
    desk.carry(journal)
    position = read_position(desk.folder)
    assert position is not None
    key = campaign_key(replay(record.event for record in journal).campaign)
    runs = opened(desk.uri, campaign_url("http://here", position.experiment_id, key))
    assert sorted(run.data.tags["evolve.trial"] for run in runs) == [str(n) for n in range(9)]
    scores = [run.data.metrics["score"] for run in runs if "score" in run.data.metrics]
    assert scores == sorted(scores, reverse=True) and len(scores) == 8
    assert "score" not in runs[-1].data.metrics, "what failed comes last"


def test_a_reviewers_link_opens_the_trials_of_the_candidate_that_waits(desk: Desk) -> None:
    campaign = Campaign(rules=SMALL).play()
    desk.carry(campaign.records)
    position = read_position(desk.folder)
    assert position is not None
    (waits,) = campaign.state.pending
    runs = opened(desk.uri, candidate_url("http://here", position.experiment_id, waits))
    trained = campaign.state.entries[waits].trials
    assert sorted(int(run.data.tags["evolve.trial"]) for run in runs) == trained
    assert {run.data.tags["evolve.purpose"] for run in runs} == {"search", "gate", "vault"}


def test_the_trials_table_is_kept_with_the_experiment(desk: Desk, journal: list[Record]) -> None:
    desk.carry(journal[:2])
    position = read_position(desk.folder)
    assert position is not None
    tags = tracking.connect(desk.uri).get_experiment(position.experiment_id).tags
    (view,) = [json.loads(value) for name, value in tags.items() if name.startswith("mlflow.sharedViewState.evolve-")]
    assert view["searchFilter"] == f"tags.mlflow.parentRunId = '{position.run_id}'"
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`score`", False)
    assert view["selectedColumns"][0] == "metrics.`score`"


def test_an_edit_that_failed_a_check_has_a_run_of_its_own_with_its_patch(desk: Desk) -> None:
    patch = "--- a/recipe.py\n+++ b/recipe.py\n@@ -1 +1 @@\n-a = 1\n+a = 2\n"
    campaign = Campaign(rules=SMALL)
    start = campaign.state.campaign.start
    broken = replace(start, patch=patch)
    campaign.add(Proposed(Proposal(broken, "agent", "an idea")))
    campaign.add(EditCheckStarted(broken.id))
    campaign.add(EditChecked(broken.id, "smoke", "it raised KeyError"))
    desk.carry(campaign.records)
    (run,) = [r for name, r in all_runs(desk.uri).items() if name.startswith("check ")]
    assert run["files"] == ["patch.diff"]
    assert run["tags"]["evolve.error"] == "smoke: it raised KeyError"
    assert run["tags"]["evolve.changes"] == "edit of recipe.py +1 -1"
    assert next(desk.artifacts.rglob("patch.diff")).read_text() == patch
