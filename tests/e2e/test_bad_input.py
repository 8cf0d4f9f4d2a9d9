"""What a person may mistype: one line that says the rule, the value and the next step; and nothing is lost."""

from __future__ import annotations

import os

import pytest

from .cli import QUADRATIC, Evolve, bench_subject, faults
from .conftest import BETTER


def objectives(second: str, more: str = "tolerance: 1") -> str:
    first = "{metric: score, direction: maximize, tolerance: 0.1}"
    return f"subject.objective=[{first}, {{metric: {second}, direction: minimize, {more}}}]"


RUN = [
    # overrides, words of the line
    (
        ["subject=quadratc"],
        ["subject=quadratc", "arithmetic, arithmetic_pareto, quadratic", "did you mean 'quadratic'"],
    ),
    (["proposer=tpee"], ["proposer=tpee", "did you mean 'tpe'"]),
    (["trackng=none"], ["trackng", "did you mean 'tracking'"]),
    (["budget.trails=3"], ["'budget.trails' is not a setting", "did you mean 'budget.trials'"]),
    (["budget.trials=many"], ["budget.trials", "expected int", "got str"]),
    (["state_dir=null"], ["state_dir", "expected str", "got null"]),
    (["budget.trials=0"], ["budget.trials >= 1", "got 0", "null for no limit"]),
    (["executor.workers=0"], ["executor.workers >= 1", "got 0"]),
    (["subject.space.x.low=2"], ["space.x: low < high", "low=2", "high=1"]),
    (["subject.space.x.low=0"], ["space.x: low > 0", "log scale", "got 0"]),
    (["campaign=a/b"], ["campaign's name", "letters, digits", "'a/b'"]),
    (["secret_file=nowhere"], ["secret_file must be readable", "nowhere"]),
    (["proposer=optuna", "proposer.sampler._target_=optuna.samplers.TPESmpler"], ["TPESmpler", "'TPESampler'"]),
    (["proposer=optuna", "proposer.sampler._target_=os.system"], ["one of Optuna's samplers", "os.system"]),
    (["proposer=tpe", "+proposer.sampler.no_such=1"], ["TPESampler", "no_such"]),
    (["proposer=agent"], ["proposer=agent needs agent.model", "proposer=playbook"]),
    (["subject.sources=[nowhere]"], ["`sources` must exist", "nowhere"]),
    (["subject.objective=[]"], ["subject.objective", "empty list"]),
    ([objectives("train_secnds")], ["measured or declared", "'train_secnds'", "did you mean 'train_seconds'"]),
    ([objectives("speed")], ["measured or declared", "'speed'", "subject.metrics"]),
    ([objectives("score")], ["each metric once", "['score', 'score']"]),
    ([objectives("train_seconds", more="tolerence: 1")], ["tolerence", "did you mean 'tolerance'"]),
    ([objectives("train_seconds", more="relative_tolerance: 2")], ["0 <= relative_tolerance < 1", "got 2"]),
    ([objectives("train_seconds", more="tolerance: -1")], ["tolerance >= 0 of train_seconds", "got -1"]),
    ([objectives("train_seconds", more="tolerance: 0")], ["tolerance or relative_tolerance > 0 of train_seconds"]),
    (
        ["subject.objective=[{metric: peak_memory_mb, direction: minimize}]"],
        ["scorer's own metric first", "peak_memory_mb"],
    ),
    (["subject.objective=[{metric: score, direction: maximize, tolerance: 0.1}]"], ["the only objective", "got 0.1"]),
    (["approval.by=a,b"], ["approval.by", "KEY=VALUE"]),
    (["approval.by='*'"], ["approval.by must be letters", "'*'"]),
    (["approval.allowed_signers=nowhere"], ["approval.allowed_signers must be a text file", "nowhere"]),
    (["approval.allowed_signers=/dev/null"], ["must hold a line for each signer", "has 0 line(s)"]),
    (["notify=no-such-command at all"], ["a command that exists", "'no-such-command'"]),
    (["notify=[no-such-command]"], ["a command that exists", "'no-such-command'"]),
    (["notify='echo"], ["notify"]),
    (["notify=ftp://host/x"], ["notify must be a URL (http, https)", "ftp://"]),
    (["notify.every_hours=1"], ["notify.every_hours needs somebody to tell"]),
    (["notify=true", "notify.every_hours=0"], ["notify.every_hours > 0", "got 0"]),
    (["notify.too=true"], ["'notify.too' is not a setting", "did you mean 'notify.to'"]),
    (["seed='a"], ["KEY=VALUE", "seed='a"]),
    (["--dry-rnu"], ["--dry-rnu", "did you mean '--dry-run'"]),
]


@pytest.mark.parametrize(("overrides", "words"), RUN, ids=[" ".join(o) for o, _ in RUN])
def test_a_mistyped_run_is_refused_in_one_line(evolve: Evolve, overrides: list[str], words: list[str]) -> None:
    line = evolve.refuses("run", *QUADRATIC, "campaign=c", *overrides)
    for word in words:
        assert word in line
    assert not (evolve.folder("c") / "journal.jsonl").exists(), "nothing was started"


COMMANDS = [
    (["statsu"], ["'statsu' is not a command", "did you mean 'status'"]),
    ([], ["COMMAND"]),
    (["status", "--jsn"], ["--jsn", "did you mean '--json'"]),
    (["status", "first"], ["'first' is one argument too many", "evolve status --help"]),
    (["status", "--campaign", "frist"], ["no campaign 'frist'", "did you mean 'first'"]),
    (["resume", "secnd"], ["no campaign 'secnd'"]),
    (["resume", "budget.trials=many"], ["budget.trials must be a number", "'many'"]),
    (["resume", "budget.trails=9"], ["'budget.trails' cannot be changed", "did you mean 'budget.trials'"]),
    (["resume", "executor.workers=0", "budget.trials=99"], ["executor.workers >= 1", "got 0"]),
    (["try", "xx=0.5"], ["'xx' is not a parameter of this space"]),
    (["try", "y=5"], ["y must lie in [0, 2]", "5"]),
    (["try", "size=3.5"], ["size must be", "3.5"]),
    (["try", "mode=flat", "z=0.5"], ["z exists only where mode in ['curved']"]),
    (["try", "y"], ["KEY=VALUE", "'y'"]),
    (["try", "y={"], ["y must be a finite number", "'{'"]),
    (["try", "y=[1, 2]"], ["y must be a finite number", "'[1, 2]'"]),
    (["try", "y=.inf"], ["y must be a finite number", "'.inf'"]),
    (["approve", "nothex"], ["'nothex' is no candidate of first"]),
    (["approve", ""], ["is no candidate"]),
    (["reject", "nothex", "--reason", "no"], ["'nothex' is no candidate"]),
    (["reject", "nothex"], ["--reason"]),
    (["reproduce", "nothex"], ["'nothex' is no candidate"]),
    (["rollback"], ["A rollback needs a promotion", "promoted nothing"]),
    (["completion", "fish"], ["fish", "bash", "zsh"]),
]


@pytest.mark.parametrize(("command", "words"), COMMANDS, ids=[" ".join(c) or "nothing" for c, _ in COMMANDS])
def test_a_mistyped_command_is_refused_in_one_line_and_changes_nothing(
    finished: Evolve, command: list[str], words: list[str]
) -> None:
    journal = finished.folder("first") / "journal.jsonl"
    before = [line["data"] for line in finished.lines("first") if line["type"] != "CommandRefused"]
    line = finished.refuses(*command)
    for word in words:
        assert word in line
    after = [line["data"] for line in finished.lines("first") if line["type"] != "CommandRefused"]
    assert after == before
    assert not list((journal.parent / "inbox").iterdir())


def test_an_id_that_several_candidates_share_is_refused(finished: Evolve) -> None:
    ids = [line.split()[4] for line in finished("log").splitlines() if " proposed " in line]
    first_digits = [i[0] for i in ids]
    shared = next(d for d in first_digits if first_digits.count(d) > 1)
    line = finished.refuses("compare", shared, ids[0])
    assert f"must name one candidate, but {shared!r} begins {first_digits.count(shared)} of them" in line
    assert "give more digits" in line


def test_a_candidate_that_was_tried_before_is_refused(waiting: Evolve) -> None:
    before = waiting.status()["candidates"]
    line = waiting.refuses("try", *BETTER)
    assert "A candidate must be new" in line
    assert "proposed before by human (pending); change a parameter" in line
    assert waiting.status()["candidates"] == before


def test_only_a_pending_candidate_can_be_approved_or_rejected(finished: Evolve) -> None:
    default = finished.status()["champion"]
    assert "Only a pending candidate can be approved" in finished.refuses("approve", default)
    assert "Only a pending candidate can be decided on" in finished.refuses("reject", default, "--reason", "no")
    assert finished.status()["champion"] == default


def test_a_rejection_without_a_reason_is_refused(waiting: Evolve) -> None:
    pending = waiting.status()["pending"]
    assert "needs a reason" in waiting.refuses("reject", pending[0], "--reason", "  ")
    assert waiting.status()["pending"] == pending


def test_a_used_campaign_name_is_refused_and_the_campaign_goes_on(finished: Evolve) -> None:
    before = finished.stable()
    line = finished.refuses("run", *QUADRATIC, "campaign=first", "budget.trials=4")
    assert "needs a new name" in line
    assert "first exists" in line
    assert "evolve resume first" in line
    assert finished.stable() == before
    assert "is finished" in finished("resume", "first")


def test_a_name_stays_free_where_the_run_was_refused(evolve: Evolve) -> None:
    evolve.refuses("run", *QUADRATIC, "campaign=c", "subject.sources=[nowhere]")
    evolve("run", *QUADRATIC, "campaign=c", "proposer=default", "budget.trials=1")


def test_a_state_folder_that_cannot_be_made_is_said_so(evolve: Evolve) -> None:
    (evolve.cwd / "file").write_text("in the way")
    line = evolve.refuses("run", *QUADRATIC, "state_dir=file/state", code=1)
    assert "state folder must be writable" in line
    assert "set state_dir=" in line
    assert "must have been started" in evolve.refuses("status", "state_dir=file/state")
    evolve("run", *QUADRATIC, "state_dir=other", "proposer=default", "budget.trials=1")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_state_folder_without_permission_is_said_so(evolve: Evolve) -> None:
    (evolve.cwd / "state").mkdir(mode=0o555)
    assert "state folder must be writable" in evolve.refuses("run", *QUADRATIC, "state_dir=state", code=1)


def test_before_the_first_run_every_command_says_how_to_start(evolve: Evolve) -> None:
    for command in (["status"], ["review"], ["resume"], ["rollback"]):
        assert "use `evolve run`" in evolve.refuses(*command)


def test_overrides_may_stand_on_both_sides_of_an_option(evolve: Evolve) -> None:
    plan = evolve("run", "subject=quadratic", "--dry-run", "tracking=none", "budget.trials=7")
    assert "quadratic" in plan
    assert "trials     7, 1 at a time" in plan
    assert not (evolve.cwd / ".evolve").exists()


def test_text_that_is_not_unicode_is_kept_readable(waiting: Evolve) -> None:
    pending = waiting.status()["pending"][0]
    waiting("reject", pending, "--reason", os.fsdecode(b"caf\xe9"))
    assert "caf" in waiting("log")


def test_numbers_that_no_json_can_hold_are_refused(evolve: Evolve) -> None:
    for override in ("subject.model.noise=nan", "budget.train_seconds=inf"):
        evolve.refuses("run", *QUADRATIC, override, "proposer=default", "budget.trials=1")


def test_a_sampler_that_has_tried_everything_ends_the_campaign_in_order(evolve: Evolve) -> None:
    sampler = ("proposer=optuna", "proposer.sampler._target_=optuna.samplers.BruteForceSampler")
    subject = bench_subject(evolve.cwd / "subject")
    evolve("run", *subject, *faults(["crash", "nothing"]), *sampler, "budget.trials=30")
    assert "run out" in evolve.status()["reason"]
