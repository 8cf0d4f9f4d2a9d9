"""A whole campaign with a language model behind a real HTTP server that gives every kind of bad answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from openai_server import KEY, Reply, serving

from evolve import journal as journals
from evolve.types import (
    AdviceStarted,
    ModelCallFinished,
    ProposalFailed,
    Proposed,
    Suggested,
    TrialFinished,
    TrialStarted,
)


def say(**changes: object) -> Reply:
    return Reply(json.dumps({"changes": changes, "rationale": "nearer to the optimum"}))


# In the order in which the model is asked; a bad answer gets one repair round, so that two in a row fail the turn.
ANSWERS = [
    say(y=0.6),  # good at once
    Reply("I would try a smaller learning rate."),
    say(y=0.55),  # prose, repaired
    Reply('{"changes": {"y": 0.', finish="length"),
    Reply('{"changes": {"y": 0.', finish="length"),  # truncated twice
    say(y=99),
    say(x=2.0),  # out of range twice
    say(lr=0.1),
    say(momentum=0.9),  # unknown names
    say(y="0.5"),
    say(mode="curved"),  # wrong type, repaired
    Reply(status=400),  # refused by the provider
    Reply("[[[" * 100),
    Reply(""),  # neither JSON nor text
]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, object]], str]:
    """(the journal, the requests that the server saw, all that was printed)"""
    folder = tmp_path_factory.mktemp("agent")
    with serving() as server:
        server.replies = [*ANSWERS, *(say(y=0.7 + i / 100) for i in range(40))]
        words = ["subject=quadratic", "campaign=c", "proposer=agent", "budget.trials=26"]
        words += ["agent.model=openai/tiny", f"agent.api_base={server.url}", "agent.price_in=2", "agent.price_out=10"]
        done = subprocess.run(
            [sys.executable, "-m", "evolve.cli", "run", *words, "budget.llm_usd=1"],
            cwd=folder, capture_output=True, text=True, check=False, env=os.environ | {"OPENAI_API_KEY": KEY},
        )  # fmt: skip
        requests = list(server.requests)
    assert done.returncode == 0, done.stderr
    return folder / ".evolve" / "campaigns" / "c", requests, done.stdout + done.stderr


def events(folder: Path) -> list[object]:
    return [r.event for r, _ in journals.read(folder / "journal.jsonl")]


def test_every_bad_answer_ends_in_a_recorded_outcome_with_its_reason(campaign: tuple[Path, list, str]) -> None:
    failed = [e for e in events(campaign[0]) if isinstance(e, ProposalFailed)]
    assert {e.proposer for e in failed} == {"agent"}
    reasons = " | ".join(e.reason for e in failed)
    for words in (
        "cut at agent.max_tokens",
        "x must lie in",
        "'momentum' is not a parameter",
        "status 400",
        "one whole JSON object",
    ):
        assert words in reasons
    assert "\n" not in reasons


def test_good_and_repaired_answers_become_trials_in_the_agents_name(campaign: tuple[Path, list, str]) -> None:
    mine = [e.proposal for e in events(campaign[0]) if isinstance(e, Proposed) and e.proposal.proposer == "agent"]
    assert [p.candidate.params["y"] for p in mine[:2]] == [0.6, 0.55]
    assert {p.model for p in mine} == {"openai/tiny"}
    assert [m.role for m in mine[1].transcript] == ["user", "assistant", "user", "assistant"]
    assert all(p.prompt_hash for p in mine)


def test_the_campaign_goes_on_and_nobody_else_proposes(campaign: tuple[Path, list, str]) -> None:
    found = events(campaign[0])
    assert len([e for e in found if isinstance(e, TrialFinished)]) == 26
    assert {e.proposal.proposer for e in found if isinstance(e, Proposed)} == {"agent"}


def test_the_next_answer_is_asked_for_while_a_training_runs(campaign: tuple[Path, list, str]) -> None:
    kinds = [type(e) for e in events(campaign[0])]
    first = kinds.index(AdviceStarted)
    assert kinds.index(TrialStarted) < first < kinds.index(TrialFinished), "beside the noise floor"


def test_the_journals_spend_is_what_the_server_saw(campaign: tuple[Path, list, str]) -> None:
    spends = [
        e.spend if isinstance(e, ProposalFailed) else e.proposal.spend
        for e in events(campaign[0])
        if isinstance(e, Proposed | Suggested | ProposalFailed)
    ]
    answered = len(campaign[1]) - 1  # the refused request cost nothing
    assert sum(s.llm_tokens for s in spends) == answered * 42
    assert sum(s.llm_usd for s in spends) == pytest.approx(answered * (30 * 2 + 12 * 10) / 1e6)
    settled = [e.spend for e in events(campaign[0]) if isinstance(e, ModelCallFinished)]
    assert len(settled) == len(campaign[1]), "every request was reserved and settled"
    assert sum(s.llm_tokens for s in settled) == answered * 42
    assert sum(s.llm_usd for s in settled) == pytest.approx(answered * (30 * 2 + 12 * 10) / 1e6)


def test_the_key_is_in_the_request_and_nowhere_else(campaign: tuple[Path, list, str]) -> None:
    folder, requests, printed = campaign
    assert {r["key"] for r in requests} == {f"Bearer {KEY}"}
    assert KEY not in printed
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert files
    assert not [p for p in files if KEY.encode() in p.read_bytes()]


def test_what_was_said_is_a_trace_in_mlflow_of_the_run_that_it_led_to(campaign: tuple[Path, list, str]) -> None:
    from evolve.tracking import connect

    client = connect(f"sqlite:///{campaign[0].parent.parent / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'evolve/quadratic'")
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    names = {run.info.run_id: run.info.run_name for run in runs}
    traces = {run_id: client.search_traces(locations=[experiment.experiment_id], run_id=run_id) for run_id in names}
    of = {name: [str(t.info.state.value) for t in traces[run_id]] for run_id, name in names.items() if traces[run_id]}
    found = events(campaign[0])
    failed = [e for e in found if isinstance(e, ProposalFailed)]
    mine = [e for e in found if isinstance(e, Proposed) and e.proposal.proposer == "agent"]
    assert of.pop("c") == ["ERROR"] * len(failed)
    assert len(of) == len(mine)
    assert all(name.endswith("search agent") and states == ["OK"] for name, states in of.items())
    text = " ".join(str(t.info.trace_metadata) for t in traces[next(r for r, n in names.items() if n == "c")])
    assert "I would try" not in text, "that answer was repaired, its trace belongs to the trial"


def test_a_dollar_budget_without_a_price_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "evolve.cli", "run", "subject=quadratic", "agent.model=openai/nobody-knows", "budget.llm_usd=1"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "budget.llm_usd needs a price" in done.stderr
    assert not (tmp_path / ".evolve").exists()


def test_a_model_that_never_answers_holds_up_neither_the_trainings_nor_the_end(tmp_path: Path) -> None:
    words = ["subject=quadratic", "campaign=c", "tracking=none", "budget.trials=8", "agent.model=openai/tiny"]
    with serving() as server:
        server.replies = [Reply(hang=True)]
        done = subprocess.run(
            [sys.executable, "-m", "evolve.cli", "run", *words, f"agent.api_base={server.url}"],
            cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ | {"OPENAI_API_KEY": KEY},
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found = events(tmp_path / ".evolve" / "campaigns" / "c")
    assert len([e for e in found if isinstance(e, TrialFinished)]) == 8
    assert not [e for e in found if isinstance(e, Suggested | ProposalFailed)]
