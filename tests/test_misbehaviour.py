"""Campaigns whose advisor's model is behind a server that misbehaves: each ends in recorded outcomes and goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from inline import Inline, Walk
from openai_server import KEY, Reply, serving

from evolve import journal as journals
from evolve.agent import AgentProposer
from evolve.fallbacks import CircuitBreaker
from evolve.ledger import Ledger, MeteredModel
from evolve.llm import LitellmModel
from evolve.proposers import AdvisedProposer
from evolve.types import AdviceStarted, Budget, ProposalFailed, Proposed, Suggested, TrialFinished

TIMEOUT = 0.5
GOOD = Reply('{"changes": {"x": 0.71}, "rationale": "nearer"}')
MISBEHAVIOURS = {
    "429 with Retry-After": Reply(status=429, headers={"Retry-After": "3600"}),
    "500": Reply(status=500),
    "401": Reply(status=401),
    "hang": Reply(hang=True),
    "drip": Reply(drip=True),
    "cut JSON": Reply('{"changes": {"x": 0.'),
    "cut by the limit": Reply('{"changes": {"x": 0.', finish="length"),
    "prose": Reply("I would try a smaller learning rate."),
    "wrong schema": Reply('{"x": 0.71}'),
    "wrong type": Reply('{"changes": {"x": "much"}, "rationale": "more"}'),
    "out of range": Reply('{"changes": {"x": 99}, "rationale": "more"}'),
    "a megabyte": Reply("{" * 1_000_000),
    "wrong content type": Reply(body=b"<html>login</html>", content_type="text/html"),
    "connection reset": Reply(reset=True),
    "connection lost in the body": Reply(cut=True),
    "no choices": Reply(body=b'{"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": []}'),
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def model(url: str, timeout: float = TIMEOUT) -> CircuitBreaker:
    pause = {"sleep": lambda seconds: None, "timeout_seconds": timeout, "max_tokens": 200}
    return CircuitBreaker(LitellmModel(model="openai/tiny", api_base=url, price_in=2.0, price_out=10.0, **pause))


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    """litellm's import and first call take seconds, which are no misbehaviour of the server's."""
    with pytest.MonkeyPatch.context() as patch, serving() as server:
        patch.setenv("OPENAI_API_KEY", KEY)
        server.replies = [Reply()]
        model(server.url, 120.0).complete([{"role": "user", "content": "hello"}])


@pytest.mark.parametrize("bad", MISBEHAVIOURS.values(), ids=MISBEHAVIOURS)
def test_the_outcome_is_recorded_and_no_worker_waits(bad: Reply, tmp_path: Path) -> None:
    with serving() as server:
        server.replies = [bad]
        guarded, ledger = model(server.url), Ledger()
        campaign = Inline(
            tmp_path / "c", AdvisedProposer(Walk(), 0.3), advisor=AgentProposer(MeteredModel(guarded, ledger)),
            advisor_paused=lambda: guarded.paused, budget=Budget(trials=30, llm_usd=1.0), ledger=ledger,
        )  # fmt: skip
        train, done, waits, first = campaign.executor.train, [time.monotonic()], [], True

        def timed(*arguments):  # type: ignore[no-untyped-def]
            nonlocal first
            waits.append(time.monotonic() - done[-1])
            result = train(*arguments)
            if len(waits) == 10:  # a training that takes long enough for some answers to come
                time.sleep(3 * TIMEOUT)
            done.append(time.monotonic())
            return result

        campaign.executor.train = timed  # type: ignore[method-assign]
        stopped = campaign.run()
        asked = len(server.requests)
    assert "30 of 30 spent" in stopped.reason
    found = [r.event for r, _ in journals.read(campaign.folder / "journal.jsonl")]
    assert len([e for e in found if isinstance(e, TrialFinished)]) == 30
    assert {e.proposal.proposer for e in found if isinstance(e, Proposed)} == {"walk"}, "in the sampler's own name"
    started = [e for e in found if isinstance(e, AdviceStarted)]
    failed = [e for e in found if isinstance(e, ProposalFailed)]
    assert not [e for e in found if isinstance(e, Suggested)]
    # All calls but one that was under way at the end have their outcome.
    assert len(failed) >= 1 and len(started) - 1 <= len(failed) <= len(started)
    assert all(e.advice and e.reason and "\n" not in e.reason and "canary" not in e.reason for e in failed)
    assert sum(e.spend.llm_calls for e in failed) <= asked
    assert campaign.state.spend.llm_tokens == sum(e.spend.llm_tokens for e in failed)
    assert sorted(waits)[-2] < TIMEOUT + 1.0, "the proposer's import may take one pause"


def test_no_key_is_in_anything_that_a_campaign_leaves_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    other = "another-canary-of-a-provider"
    monkeypatch.setenv("SOMEBODY_API_KEY", other)
    echo = {"error": {"message": f"Incorrect API key: {KEY}, {other} or {KEY[:8]}****{KEY[-4:]}", "type": "x"}}
    with serving() as server:
        server.replies = [
            Reply(status=401, body=json.dumps(echo).encode()),
            Reply(status=400, body=json.dumps(echo).encode()),
            Reply(status=400, body=f"{other} {KEY}".encode(), content_type="text/plain"),
            Reply(body=f'{{"{KEY}'.encode()),
            GOOD,
        ]
        ledger = Ledger()
        campaign = Inline(
            tmp_path / "c", AdvisedProposer(None), advisor=AgentProposer(MeteredModel(model(server.url, 60.0), ledger)),
            advice_share=1.0, budget=Budget(trials=5), ledger=ledger,
        )  # fmt: skip
        campaign.run()
        assert {r["key"] for r in server.requests} == {f"Bearer {KEY}"}
    kept = b"".join(p.read_bytes() for p in campaign.folder.rglob("*") if p.is_file())
    printed = "".join(capfd.readouterr())
    failed = [
        r.event for r, _ in journals.read(campaign.folder / "journal.jsonl") if isinstance(r.event, ProposalFailed)
    ]
    assert len(failed) >= 3
    assert any("[redacted]" in e.reason for e in failed)
    for text in (kept.decode(), printed):
        assert KEY.removeprefix("sk-") not in text and other not in text and KEY[-4:] + " " not in text


def test_a_child_process_gets_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from evolve.processes import environment

    monkeypatch.setenv("SOMEBODY_API_KEY", "another-canary-of-a-provider")
    assert "canary" not in str(environment())
