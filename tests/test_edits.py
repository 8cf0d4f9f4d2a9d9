"""Edits of the harness as proposals: read, checked, tried, combined with parameters, judged. Over the inline ports."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from evolve import journal as journals
from evolve import memory, patches, policy
from evolve.agent import AgentProposer
from evolve.edits import Harness, declarations, difference
from evolve.errors import InvalidCandidate, ProposerFailed
from evolve.llm import ScriptedModel
from evolve.memory import View
from evolve.playbook import PlaybookProposer
from evolve.ports import Completion, ToolCall
from evolve.proposers import EditsProposer
from evolve.search import EvolveProposer
from evolve.space import extended
from evolve.state import State
from evolve.types import (
    Block,
    Budget,
    Candidate,
    EditChecked,
    Honeypot,
    IntegrityReport,
    Parameter,
    Params,
    Proposal,
    ProposalFailed,
    Proposed,
    ReadyEdit,
    TrialScheduled,
    VerdictReached,
)
from tests.inline import SPACE, Inline, skill

FILE = "recipe.py"
FILES = {FILE: "def train():\n    return 1\n", "other.py": "A = 1\n"}
BOOST = {"boost": Parameter("float", 0.2, low=0.0, high=0.3, role="boost")}
HARNESS = Harness(
    FILES,
    (
        ReadyEdit("a comment", "nowhere", (Block(FILE, "    return 1", "    # one\n    return 1"),)),
        ReadyEdit("a boost", "a paper", (Block(FILE, "    return 1", "    return 2"),), BOOST),
        ReadyEdit("of another time", "a paper", (Block(FILE, "    return 77", "    return 2"),)),
    ),
)
GOOD, BROKEN = "    return 2", "    return 3  # fail: it raised KeyError"


def patch(line: str, before: str | None = None) -> str:
    texts = HARNESS.texts(before)
    old = "    return 1" if before is None else GOOD
    return patches.make(FILES, patches.from_blocks(texts, [Block(FILE, old, line)]))


def boosted(params: Params, rng: random.Random) -> float:
    """The inline subject's skill, with what an edit's hyperparameter adds."""
    return skill(params, rng) + float(params.get("boost", 0.0))


@dataclass
class Steps:
    """Proposes what each step makes of the view; then nothing more."""

    steps: list[Any]
    name: str = "steps"
    views: list[View] = field(default_factory=list)

    def propose(self, view: View) -> Proposal:
        self.views.append(view)
        if view.turn >= len(self.steps):
            raise ProposerFailed("the script is over", self.name)
        return Proposal(self.steps[view.turn](view), self.name, "a step", (view.incumbent_id,))


def edit(line: str, declared: dict[str, Parameter] | None = None, **changes: Any) -> Any:
    def step(view: View) -> Candidate:
        added = {**view.declared, **(declared or {})}
        params = extended(view.space.parameters, declared or {}).overlay(view.incumbent, changes)
        return Candidate(params, view.subject_version, patch(line, view.patch), added)

    return step


def move(**changes: Any) -> Any:
    return lambda view: view.candidate(view.space.overlay(view.incumbent, changes))


def inline(folder: Path, *steps: Any, **settings: Any) -> Inline:
    changes = {"editable": tuple(FILES)} | settings.pop("changes", {})
    return Inline(folder, Steps(list(steps)), skill=boosted, changes=changes, **settings)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "campaign"


def events(campaign: Inline) -> list[Any]:
    return [r.event for r, _ in journals.read(campaign.folder / "journal.jsonl")]


def of(campaign: Inline, kind: type) -> list[Any]:
    return [e for e in events(campaign) if isinstance(e, kind)]


# ---------------------------------------------------------------- the way of an edit


def test_an_edit_is_checked_trained_judged_and_waits_with_its_patch(folder: Path) -> None:
    campaign = inline(folder, edit(GOOD, BOOST))
    campaign.run()
    (request,) = campaign.state.pending.values()
    candidate = campaign.state.candidate(request.candidate_id)
    assert candidate.patch == patch(GOOD) and candidate.params["boost"] == 0.2
    assert request.sandbox == "bubblewrap"
    order = [type(e).__name__ for e in events(campaign)]
    checked = order.index("EditChecked")
    trained = next(i for i, e in enumerate(events(campaign)) if isinstance(e, TrialScheduled) and e.purpose == "search")
    assert order.index("EditCheckStarted") < checked < trained


def test_an_edit_that_fails_a_check_is_not_trained_and_its_author_is_told(folder: Path) -> None:
    campaign = inline(folder, edit(BROKEN), edit(BROKEN, x=0.6))
    campaign.run()
    assert [e.purpose for e in of(campaign, TrialScheduled)] == ["bank"] * 4
    (checked,) = of(campaign, EditChecked)
    assert (checked.stage, checked.error) == ("smoke", " it raised KeyError")
    seen = memory.view(campaign.state, 0).history[-1]
    assert (seen.state, seen.error) == ("FAIL", " it raised KeyError")
    assert seen.candidate_id in memory.view(campaign.state, 0).news
    assert any("was tried and failed" in e.reason for e in of(campaign, ProposalFailed))


def test_a_patch_that_passed_is_not_checked_again(folder: Path) -> None:
    campaign = inline(
        folder, edit(GOOD, BOOST), lambda v: Candidate({"x": 0.7, "mode": "a", "boost": 0.1}, "v", patch(GOOD), BOOST)
    )
    campaign.run()
    assert len(of(campaign, EditChecked)) == 1
    assert len([e for e in of(campaign, TrialScheduled) if e.purpose == "search"]) == 2


def test_a_resume_checks_again_what_a_kill_interrupted(folder: Path) -> None:
    from tests.inline import Crash

    campaign = inline(folder, edit(GOOD, BOOST))
    started = next(i for i, e in enumerate(_whole(folder.parent / "whole")) if type(e).__name__ == "EditCheckStarted")
    campaign.crash_after = started  # without the first line; the check's own end is not written any more
    with pytest.raises(Crash):
        campaign.run()
    assert type(events(campaign)[-1]).__name__ == "EditCheckStarted"
    campaign.crash_after = None
    campaign.run()
    assert len(campaign.state.pending) == 1


def _whole(folder: Path) -> list[Any]:
    campaign = inline(folder, edit(GOOD, BOOST))
    campaign.run()
    return events(campaign)


def test_of_edited_code_the_training_is_repeated_before_anybody_is_asked(folder: Path) -> None:
    campaign = inline(folder, edit(GOOD, BOOST))
    campaign.run()
    (again,) = [e for e in of(campaign, TrialScheduled) if e.purpose == "rerun"]
    (request,) = (r for r in campaign.state.pending.values() if campaign.state.candidate(r.candidate_id).patch)
    first = campaign.state.trials[request.trial_number]
    assert (again.seed, again.seed_index) == (first.seed, first.seed_index)
    repeated = campaign.state.trials[again.number]
    assert repeated not in campaign.state.bank(request.candidate_id), "a repetition is no evidence"


def test_a_plain_candidate_is_not_repeated(folder: Path) -> None:
    campaign = inline(folder, move(x=0.8, mode="b"))
    campaign.run()
    assert campaign.state.pending and not [e for e in of(campaign, TrialScheduled) if e.purpose == "rerun"]


# ---------------------------------------------------------------- the sandbox of the session


def test_without_a_sandbox_an_edit_is_refused_with_the_way_out(folder: Path) -> None:
    campaign = inline(folder, edit(GOOD, BOOST), sandbox="unavailable")
    campaign.run()
    (failed, *_) = [e for e in events(campaign) if type(e).__name__ == "ProposalFailed"]
    assert "needs the sandbox" in failed.reason and "evolve doctor" in failed.reason
    assert not of(campaign, EditChecked)


def test_nothing_is_accepted_after_edited_code_ran_without_a_sandbox(folder: Path) -> None:
    campaign = inline(folder, edit(GOOD, BOOST), move(x=0.8, mode="b"), sandbox="none")
    stopped = campaign.run()
    assert campaign.state.tainted and not campaign.state.pending and not of(campaign, VerdictReached)
    assert "ran without a sandbox" in stopped.reason
    campaign.sandbox = "bubblewrap"  # a later session's sandbox does not make it undone
    campaign.run()
    assert not campaign.state.pending


def test_without_a_sandbox_parameters_are_accepted_as_ever(folder: Path) -> None:
    campaign = inline(folder, move(x=0.8, mode="b"), sandbox="none")
    campaign.run()
    assert campaign.state.pending and not campaign.state.tainted


# ---------------------------------------------------------------- what catches a cheat


def _report(campaign: Inline, report: IntegrityReport) -> None:
    original = campaign.executor.train

    def train(trial: Any, candidate: Candidate, *rest: Any) -> Any:
        training = original(trial, candidate, *rest)
        return replace(training, integrity=report) if candidate.patch else training

    campaign.executor.train = train  # type: ignore[method-assign]


def test_a_touched_canary_is_a_rejection(folder: Path) -> None:
    campaign = inline(folder, edit(GOOD, BOOST))
    _report(campaign, IntegrityReport(canary="touched"))
    campaign.run()
    verdict = of(campaign, VerdictReached)[-1].verdict
    assert verdict.decision == "REJECT" and "canary" in verdict.reason and not campaign.state.pending


def test_an_untouched_canary_is_none(folder: Path) -> None:
    campaign = inline(folder, edit(GOOD, BOOST))
    _report(campaign, IntegrityReport(canary="untouched", imports=("zlib",), compared=True))
    campaign.run()
    (request,) = campaign.state.pending.values()
    report = campaign.state.integrity(request.candidate_id)
    assert report is not None and report.rerun == "same weights" and report.imports == ("zlib",)
    assert any("zlib" in line for line in report.findings())


@pytest.mark.parametrize(("value", "accepted"), [(0.5, False), (0.01, True)])
def test_who_knows_the_unknowable_is_rejected(folder: Path, value: float, accepted: bool) -> None:
    changes = {"metrics": ("unsatisfiable",), "honeypot": Honeypot("unsatisfiable", 0.02)}
    campaign = inline(folder, edit(GOOD, BOOST), changes=changes)
    original = campaign.scorer.score

    def score(*arguments: Any) -> Any:
        return [replace(e, metrics={"unsatisfiable": value}) for e in original(*arguments)]

    campaign.scorer.score = score  # type: ignore[method-assign]
    campaign.run()
    assert bool(campaign.state.pending) == accepted


# ---------------------------------------------------------------- parameters on top of an edit


def test_after_an_accepted_edit_the_search_goes_on_with_it(folder: Path) -> None:
    campaign = inline(folder, edit(GOOD, BOOST), move(boost=0.3), budget=Budget(trials=40))
    campaign.run()
    last = of(campaign, Proposed)[-1].proposal.candidate
    assert last.patch == patch(GOOD) and last.params["boost"] == 0.3
    view = campaign.proposer.views[-1]  # type: ignore[attr-defined]
    assert "boost" in view.space.parameters and view.patch == patch(GOOD)


def test_a_sampler_learns_of_one_harness_at_a_time(folder: Path) -> None:
    campaign = Inline(
        folder, EvolveProposer(), skill=boosted, changes={"editable": tuple(FILES)}, budget=Budget(trials=12)
    )
    campaign.run()
    state = campaign.state
    before = EvolveProposer().propose(memory.view(state, 0)).candidate
    worse = Candidate(dict(before.params), "v", patch(GOOD))
    state.entries[worse.id] = replace(state.entries[state.champion_id], proposal=Proposal(worse, "human"))
    state.touched[worse.id] = None
    assert EvolveProposer().propose(memory.view(state, 0)).candidate == before, "another harness' trials change nothing"


def test_a_declared_hyperparameter_is_part_of_what_a_candidate_is() -> None:
    plain = Candidate({"x": 1.0}, "v", "p")
    assert plain.id == Candidate({"x": 1.0}, "v", "p", {}).id
    assert plain.id != Candidate({"x": 1.0}, "v", "p", BOOST).id


@pytest.mark.parametrize(
    "declared",
    [
        {"x": Parameter("float", 0.1, low=0.0, high=1.0)},
        {"PATH": Parameter("float", 0.1, low=0.0, high=1.0)},
        {"a b": Parameter("float", 0.1, low=0.0, high=1.0)},
        {"good": Parameter("float", 5.0, low=0.0, high=1.0)},
        {"good": Parameter("float", 0.1, low=1.0, high=0.0)},
        {f"p{i}": Parameter("float", 0.1, low=0.0, high=1.0) for i in range(9)},
    ],
)
def test_a_declaration_that_the_space_cannot_take_is_refused(declared: dict[str, Parameter]) -> None:
    with pytest.raises(InvalidCandidate):
        extended(SPACE, declared)
    assert "good" in extended(SPACE, {"good": Parameter("float", 0.1, low=0.0, high=1.0)}).parameters


@pytest.mark.parametrize(
    "raw",
    [
        [],
        {"a": 1},
        {"a": {"type": "float"}},
        {"a": {"type": "tensor", "default": 1}},
        {"a": {"type": "float", "default": 0.5, "low": "0", "high": 1}},
        {"a": {"type": "float", "default": 0.5, "low": True, "high": 1}},
        {"a": {"type": "float", "default": 0.5, "when": {"mode": ["b"]}}},
        {"a": {"type": "categorical", "default": "x", "choices": [["x"]]}},
    ],
)
def test_a_declaration_of_the_wrong_form_is_refused(raw: object) -> None:
    with pytest.raises(InvalidCandidate):
        declarations(raw)


def test_a_person_can_try_an_edit(folder: Path) -> None:
    campaign = inline(folder)
    campaign.command("try", params={"boost": 0.25}, patch=patch(GOOD), declared=BOOST)
    campaign.run()
    entry = list(campaign.state.entries.values())[-1]
    assert entry.proposal.candidate.patch == patch(GOOD) and entry.proposal.candidate.params["boost"] == 0.25
    assert len(of(campaign, EditChecked)) == 1


def test_a_patch_of_a_file_that_may_not_be_edited_is_refused(folder: Path) -> None:
    campaign = inline(folder)
    campaign.run()
    foreign = patches.make({"train/run.py": "a\n"}, {"train/run.py": "b\n"})
    with pytest.raises(InvalidCandidate, match="alone"):
        policy.check_new(campaign.state, Candidate({"x": 0.5, "mode": "a"}, "v", foreign))
    hidden = patch(GOOD).replace("return 2", "return 2  # \u202e")
    with pytest.raises(InvalidCandidate, match="reader sees"):
        policy.check_new(campaign.state, Candidate({"x": 0.5, "mode": "a"}, "v", hidden))


# ---------------------------------------------------------------- the playbook's menu


def view_of(folder: Path, *steps: Any, **settings: Any) -> tuple[View, State]:
    campaign = inline(folder, *steps, **settings)
    campaign.run()
    return memory.view(campaign.state, 0), campaign.state


def test_the_playbook_begins_with_an_edit_and_alternates(folder: Path) -> None:
    view, _ = view_of(folder)
    book = PlaybookProposer(HARNESS)
    first = book.propose(view)
    assert first.candidate.patch and "a comment" in first.rationale and "nowhere" in first.rationale
    view = replace(view, suggestions=(first,))
    second = book.propose(view)
    assert second.candidate.patch is None
    third = book.propose(replace(view, suggestions=(first, second)))
    assert "a boost" in third.rationale and third.candidate.params["boost"] == 0.2
    fourth = book.propose(replace(view, suggestions=(first, second, third)))
    assert fourth.candidate.patch is None, "an edit that fits no more is left out"


def test_the_playbook_has_no_edits_where_they_are_refused(folder: Path) -> None:
    view, _ = view_of(folder)
    assert PlaybookProposer().propose(view).candidate.patch is None


def test_an_edit_that_was_tried_is_not_offered_again(folder: Path) -> None:
    view, _ = view_of(folder, lambda v: Candidate(v.incumbent, "v", HARNESS.take(HARNESS.ready[0], None)))
    assert "a comment" not in PlaybookProposer(HARNESS).propose(view).rationale


def test_suggested_edits_are_taken_by_quota_and_the_sampler_does_not_rank_them(folder: Path) -> None:
    view, _ = view_of(folder)
    suggestion = PlaybookProposer(HARNESS).propose(view)
    proposer = EditsProposer(EvolveProposer())
    taken = proposer.propose(replace(view, suggestions=(suggestion,)))
    assert taken.candidate == suggestion.candidate and "an edit of the harness" in taken.decided
    stale = replace(suggestion, parents=("0" * 64,))
    assert proposer.propose(replace(view, suggestions=(stale,))).candidate.patch is None


# ---------------------------------------------------------------- the agent


def calls(*pairs: tuple[str, Any]) -> Completion:
    return Completion("", "", tool_calls=tuple(ToolCall(f"c{i}", n, json.dumps(a)) for i, (n, a) in enumerate(pairs)))


@pytest.fixture
def seen(folder: Path) -> View:
    return view_of(folder)[0]


def propose(view: View, *answers: Any, tools: bool = True) -> tuple[Proposal, ScriptedModel]:
    model = ScriptedModel([calls(("propose", a)) if tools else json.dumps(a) for a in answers], calls_tools=tools)
    return AgentProposer(model, files=FILES, harness=HARNESS).propose(view), model


FORMS: dict[str, dict[str, Any]] = {
    "blocks": {"blocks": [{"file": FILE, "search": "    return 1", "replace": GOOD}]},
    "a diff": {"diff": f"--- a/{FILE}\n+++ b/{FILE}\n@@ -2 +2 @@\n-    return 1\n+{GOOD}\n"},
    "a whole file": {"files": {FILE: f"def train():\n{GOOD}\n"}},
}


@pytest.mark.parametrize("tools", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_edit_becomes_the_same_patch(seen: View, form: str, tools: bool) -> None:
    answer = {"changes": {"boost": 0.1}, "rationale": "More.", "edit": FORMS[form] | {"parameters": {
        "boost": {"type": "float", "low": 0.0, "high": 0.3, "default": 0.2}}}}  # fmt: skip
    proposal, _ = propose(seen, answer, tools=tools)
    assert proposal.candidate.patch == patch(GOOD)
    assert proposal.candidate.params["boost"] == 0.1 and list(proposal.candidate.declared) == ["boost"]


def test_a_small_model_chooses_from_the_menu(seen: View) -> None:
    proposal, model = propose(seen, {"changes": {}, "rationale": "Yes.", "edit": {"ready": "a boost"}})
    assert proposal.candidate.patch == patch(GOOD) and proposal.candidate.params["boost"] == 0.2
    assert '"a boost": a paper' in str(model.calls[0][0]["content"])


WRONG: dict[str, tuple[Any, str]] = {
    "a block that does not match": (
        {"blocks": [{"file": FILE, "search": "    return 5", "replace": "x"}]},
        "2:     return 1",
    ),
    "a file that is protected": ({"files": {"run.py": "x"}}, "alone, but names 'run.py'"),
    "nothing": ({}, "exactly one of"),
    "two forms": (FORMS["blocks"] | FORMS["a diff"], "exactly one of"),
    "no change": ({"files": {FILE: FILES[FILE]}}, "must change something"),
    "an unknown ready edit": ({"ready": "a bost"}, "did you mean 'a boost'?"),
    "prose": ("make it better", "must be an object"),
    "an unknown form": ({"patch": "x"}, "has no 'patch'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_edit_that_cannot_be_used_goes_back_once_with_the_exact_reason(seen: View, name: str) -> None:
    wrong, reason = WRONG[name]
    bad = {"changes": {}, "rationale": "So.", "edit": wrong}
    good = {"changes": {}, "rationale": "Better.", "edit": FORMS["blocks"]}
    proposal, model = propose(seen, bad, good)
    assert reason in json.loads(model.calls[1][-1]["content"])["error"]
    assert proposal.candidate.patch == patch(GOOD)


def test_an_agent_without_a_harness_is_told_that_edits_are_not_taken(seen: View) -> None:
    answers = [calls(("propose", {"changes": {}, "rationale": "x", "edit": FORMS["blocks"]}))] * 2
    model = ScriptedModel(answers, calls_tools=True)
    with pytest.raises(ProposerFailed, match="not taken in this campaign"):
        AgentProposer(model, files=FILES).propose(seen)
    assert '"edit":' not in json.dumps(model.tools[0])


def test_an_edit_is_written_on_top_of_the_incumbents(folder: Path) -> None:
    view, _ = view_of(folder, edit(GOOD, BOOST))
    assert view.patch == patch(GOOD)
    answer = {
        "changes": {},
        "rationale": "Next.",
        "edit": {"blocks": [{"file": FILE, "search": GOOD, "replace": "    return 4"}]},
    }
    proposal, _ = propose(view, answer)
    assert patches.apply(FILES, proposal.candidate.patch or "")[FILE] == "def train():\n    return 4\n"
    assert list(proposal.candidate.declared) == ["boost"], "what the incumbent's edit declares stays"


def test_a_file_is_read_piece_by_piece(seen: View) -> None:
    from evolve.agent_tools import Tools

    text = "".join(f"line {i} of the file, made a little longer\n" for i in range(1, 301))
    tools = Tools(seen, files={FILE: text})
    lines: list[str] = []
    for _ in range(20):
        found = json.loads(tools.answer("files", json.dumps({"id": 1, "line": len(lines) + 1}), 4000))
        assert found["first_line"] == len(lines) + 1
        lines += found["text"]
        if "next_line" not in found:
            break
        assert found["next_line"] == len(lines) + 1
    assert "\n".join(lines) == text


def test_what_differs_is_said_in_words() -> None:
    plain, edited_ = Candidate({"x": 1}, "v"), Candidate({"x": 2}, "v", patch(GOOD))
    assert difference(edited_, plain) == "edit of recipe.py +1 -1; x 1 -> 2"
    assert difference(plain, replace(plain, patch=patch(GOOD))) == "the harness without an edit"
