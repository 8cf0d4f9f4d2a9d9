"""Proposed evaluations from the model's answer to the next campaign's journal, through the real command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from openai_server import KEY, serving

from evolve import advisors, sandbox
from evolve.ports import Completion

from .cli import COMMAND, QUADRATIC, SECRET, Evolve, Terminal
from .conftest import made_once

pytestmark = pytest.mark.skipif(sandbox.find().name == "none", reason=f"no sandbox: {sandbox.find().reason}")
KEYS = "[a]pprove  [r]eject  [c]ode  [l]ater  [q]uit > "
AGENT = ("proposer=agent", "agent.model=openai/tiny", "agent.tools=true", "agent.price_in=0", "agent.price_out=0")
RANDOM = (*QUADRATIC, "proposer=random", "budget.trials=7", "secret_file=secret", "seed=1")


def make_proposed(evolve: Evolve) -> None:
    """A campaign `c` in which the scripted model has proposed an evaluation; one like it without any, `plain`."""
    (evolve.cwd / "secret").write_text(SECRET)
    with serving() as server:
        server.model = advisors.author
        evolve.env["OPENAI_API_KEY"] = KEY
        evolve("run", *QUADRATIC, *AGENT, f"agent.api_base={server.url}", "campaign=c", "budget.trials=7")
    evolve("run", *RANDOM, "campaign=plain")


@pytest.fixture(scope="session")
def _proposed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "proposed", make_proposed)


@pytest.fixture
def proposed(_proposed: Path, evolve: Evolve) -> Evolve:
    shutil.copytree(_proposed, evolve.cwd, dirs_exist_ok=True)
    return evolve


def proposal_of(evolve: Evolve) -> dict[str, Any]:
    (found,) = json.loads(evolve("review", "--json", "--campaign", "c"))["waiting"]
    assert isinstance(found, dict)
    return found


def approve(evolve: Evolve, found: dict[str, Any], first: str, last: str) -> Terminal:
    person = Terminal(evolve, [*COMMAND, "approve", found["candidate"][:8], "--campaign", "c"])
    person.answer(KEYS, "a")
    person.expect("the whole code first:")
    person.expect("-- end of the code, page 1 of 1 --")
    person.answer("type the first 6 digits of its content > ", first)
    if first == found["content_hash"][:6]:
        person.answer("type the last 6 digits of its content > ", last)
    return person


def suite_of(evolve: Evolve) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((evolve.cwd / ".evolve/evaluations/quadratic.json").read_text())
    return found


def scores(evolve: Evolve, campaign: str) -> list[tuple[Any, ...]]:
    """What was measured of each training, without the suite."""
    kinds = [(e["number"], e["score"]) for e in evolve.seen(campaign, "TrialFinished")]
    kinds += [(e["number"], e["evaluation"]) for e in evolve.seen(campaign, "Scored")]
    return [(n, s["mean"], s["stderr"], s["n"], s["groups"]) for n, s in kinds if s]


def test_from_a_models_proposal_to_the_next_campaigns_journal(proposed: Evolve) -> None:
    found = proposal_of(proposed)
    assert (found["kind"], found["form"], found["metric"]) == ("eval", "slice", "suite/not_easy")
    assert found["report"]["separation"] > 2 and found["report"]["agreement"] is not None
    assert found["code"].startswith("def select(prompt: str) -> bool:")
    assert found["claims"]["proposer"] == "agent"
    assert "evaluation not_easy" not in proposed("status", "--campaign", "plain")
    assert "decide with `evolve review`" in proposed("status", "--campaign", "c")

    content = found["content_hash"]
    line = proposed.refuses("approve", found["candidate"], "--yes", content, "--campaign", "c")
    assert "two separate confirmations" in line
    assert f"would have needed {content[:6]}" in approve(proposed, found, "no", "").close(code=1)
    assert f"would have needed {content[-6:]}" in approve(proposed, found, content[:6], content[:6]).close(code=1)
    assert not (proposed.cwd / ".evolve/evaluations").exists()
    screen = approve(proposed, found, content[:6], content[-6:]).close()
    assert "adopted: suite/not_easy" in screen
    assert "known good" in screen and "It is never an objective" in screen

    (changed,) = proposed.seen("c", "SuiteChanged")
    assert changed["version"] == 1 and changed["content_hash"] == content
    suite = suite_of(proposed)
    assert suite["version"] == 1
    assert [(m["name"], m["sha256"], m["campaign"]) for m in suite["metrics"]] == [
        ("not_easy", found["candidate"], "c")
    ]
    assert "evaluation, content" not in proposed("log", "--decisions")
    assert "suite/not_easy" in proposed("log", "--decisions", "--campaign", "c")

    guard = "+subject.guards=[{metric: suite/not_easy, direction: maximize, tolerance: 0.05}]"
    assert "suite      version 1: suite/not_easy" in proposed("run", *RANDOM, "--dry-run")
    assert "suite: version 1: suite/not_easy" in proposed("run", *RANDOM, "campaign=next", guard)
    (started,) = proposed.seen("next", "CampaignStarted")
    (before,) = proposed.seen("plain", "CampaignStarted")
    assert [m["name"] for m in started["subject"]["suite"]] == ["not_easy"]
    assert started["subject_version"] != before["subject_version"], "a new version of the evaluation"
    finished = [e["score"] for e in proposed.seen("next", "TrialFinished") if e["score"]]
    assert finished and all(0 <= s["metrics"]["suite/not_easy"] <= 1 and s["missing"] == {} for s in finished)
    gated = [e["evaluation"] for e in proposed.seen("next", "Scored") if e["split"] == "gate"]
    assert all("suite/not_easy" in e["metrics"] for e in gated)
    assert scores(proposed, "next") == scores(proposed, "plain"), "existing metrics are what they were, bit for bit"
    ids = [c["proposal"]["candidate"] for c in proposed.seen("next", "Proposed")]
    assert ids


def test_a_campaign_that_proposed_an_evaluation_never_uses_it(proposed: Evolve) -> None:
    found = proposal_of(proposed)
    approve(proposed, found, found["content_hash"][:6], found["content_hash"][-6:]).close()
    proposed("try", "y=0.6", "--campaign", "c")  # its model is not there any more
    proposed("resume", "c", "budget.trials=8")
    finished = [e["score"] for e in proposed.seen("c", "TrialFinished") if e["score"]]
    assert len(finished) == 8 and all(s["metrics"] == {} for s in finished)


def test_a_rejected_evaluation_is_told_to_the_agent_and_changes_nothing(proposed: Evolve) -> None:
    found = proposal_of(proposed)
    assert "rejected" in proposed("reject", found["candidate"][:8], "--reason", "too narrow", "--campaign", "c")
    assert "A person rejected the evaluation not_easy: too narrow" in proposed("memory", "--campaign", "c")
    assert "not_easy (slice): rejected by a person: too narrow" in proposed("prompt", "--campaign", "c")
    assert not (proposed.cwd / ".evolve/evaluations").exists()
    line = proposed.refuses("approve", found["candidate"][:8], "--campaign", "c")
    assert "it is declined (rejected by" in line


def test_the_suites_file_is_finished_by_sync_and_refused_where_it_was_edited(proposed: Evolve) -> None:
    found = proposal_of(proposed)
    approve(proposed, found, found["content_hash"][:6], found["content_hash"][-6:]).close()
    path = proposed.cwd / ".evolve/evaluations/quadratic.json"
    whole = path.read_text()
    path.unlink()
    (proposed.folder("c") / "projected.json").unlink()  # as a crash between journal and file leaves it
    assert "behind     the suite's file" in proposed("status", "--campaign", "c")
    assert "suite/not_easy" in proposed("run", *RANDOM, "--dry-run"), "the journal has it"
    assert "suite file: " in proposed("sync", "--campaign", "c")
    assert path.read_text() == whole
    assert "all projections are up to date" in proposed("sync", "--campaign", "c")

    path.write_text(whole.replace("> 0.1", "> 0.9"))
    assert "must be as evolve wrote it" in proposed.refuses("run", *RANDOM, "--dry-run")
    raw = json.loads(whole)
    raw["metrics"] = []
    path.write_text(json.dumps(raw))
    assert "must hold all that was adopted" in proposed.refuses("run", *RANDOM, "--dry-run")
    proposed("run", *RANDOM, "--dry-run", "suite=false")
    proposed("sync", "--campaign", "c")
    assert path.read_text() == whole
    assert "is not adopted; did you mean 'suite/not_easy'?" in proposed.refuses(
        "run", *RANDOM, "--dry-run", "+subject.guards=[{metric: suite/not_esy, direction: maximize}]"
    )


def test_code_that_breaks_its_contract_is_refused_with_a_message_and_told(evolve: Evolve) -> None:
    bad = 'def select(prompt):\n    return prompt["0"]\n'
    said: list[dict[str, Any]] = []

    def model(messages: list[dict[str, Any]]) -> Completion:
        said.append({"system": messages[0]["content"], "turn": messages[1]["content"]})
        answer = {"changes": {"y": 0.7 + len(said) / 100}, "rationale": "a step"}
        if len(said) == 1:
            answer["evaluation"] = {"name": "broken", "form": "slice", "code": bad, "rationale": "x"}
        elif len(said) == 2:
            answer["evaluation"] = {"name": "Bad Name", "form": "slice", "code": bad, "rationale": "x"}
        return Completion(json.dumps(answer), "m")

    with serving() as server:
        server.model = model
        evolve.env["OPENAI_API_KEY"] = KEY
        agent = [w for w in AGENT if w != "agent.tools=true"] + ["agent.style=single"]
        evolve("run", *QUADRATIC, *agent, f"agent.api_base={server.url}", "campaign=c", "budget.trials=8")
    assert "the key `evaluation` of your answer" in said[0]["system"]
    by_name = {e["proposal"]["name"]: e for e in evolve.seen("c", "EvalProposed")}
    assert by_name["broken"]["error"] == ""
    assert "must be 1 to 40 of a-z" in by_name["Bad Name"]["error"]
    (assessed,) = evolve.seen("c", "EvalAssessed")
    assert assessed["report"] is None
    assert assessed["error"] == "it raised TypeError at line 2 of its code; correct it"
    assert "broken (slice): refused: it raised TypeError at line 2" in evolve("prompt", "--style", "single")
    assert len(evolve.seen("c", "ProposalFailed")) == 0, "an evaluation uses up no candidate"
    assert evolve.seen("c", "ApprovalRequested") == []
