"""The journal's spend and the provider's bill, over a real HTTP server, also when killed in the middle of a call."""

from __future__ import annotations

import json
import signal

from openai_server import KEY, Reply, serving

from .cli import QUADRATIC, Evolve, wait_for

TOKENS = (30, 12)  # in and out, of each answer


def say(number: int) -> Reply:
    return Reply(json.dumps({"changes": {"y": 1.0 + number / 100}, "rationale": "further away"}), tokens=TOKENS)


def test_after_a_kill_in_the_middle_of_a_call_the_spend_is_exact_for_answers_and_an_upper_bound_for_the_call(
    evolve: Evolve,
) -> None:
    evolve.env = {**evolve.env, "OPENAI_API_KEY": KEY}
    kills = (2, 5, 8)  # in the call with this number, from 0
    with serving() as server:
        server.replies = [Reply(hang=True) if n in kills else say(n) for n in range(200)]
        words = [
            "run", *QUADRATIC, "campaign=c", "proposer=agent", "budget.trials=30", "budget.llm_usd=2",
            "agent.model=openai/tiny", f"agent.api_base={server.url}", "agent.price_in=2", "agent.price_out=10",
            "agent.max_tokens=400",
        ]  # fmt: skip
        for session, kill in enumerate(kills, start=1):
            controller = evolve.start(*words)
            wait_for(lambda session=session: len(evolve.seen("c", "SessionStarted")) == session, "the session begins")
            wait_for(lambda kill=kill: len(server.requests) > kill, f"call {kill} is under way")
            controller.kill()
            controller.communicate()
            assert controller.returncode == -signal.SIGKILL
            words = ["resume", "c"]
        evolve("resume", "c", "budget.trials=18", timeout=200)
        requests = len(server.requests)
    started = {e["call"]: e["reserved"] for e in evolve.seen("c", "ModelCallStarted")}
    finished = {e["call"]: e for e in evolve.seen("c", "ModelCallFinished")}
    assert len(started) == len(finished) == requests, "each request has its reservation, and each is settled"
    unknown = {call for call, e in finished.items() if e["error"]}
    assert unknown >= set(kills)
    assert all("not known" in finished[call]["error"] for call in unknown)
    assert all(finished[call]["spend"] == started[call] for call in unknown)
    answered = requests - len(unknown)
    exact = [e["spend"]["llm_tokens"] for call, e in finished.items() if call not in unknown]
    assert sum(exact) == answered * sum(TOKENS)
    spend = evolve.status()["spend"]
    assert spend["llm_tokens"] == answered * sum(TOKENS) + sum(started[c]["llm_tokens"] for c in unknown)
    assert spend["llm_tokens"] > requests * sum(TOKENS), "never less than the bill"
    assert 0 < spend["llm_usd"] <= 2
    told = json.loads(evolve("cost", "c", "--json"))["campaign"]
    assert (told["calls"], told["calls_unsettled"]) == (requests, 0)
    assert told["model_usd"] == spend["llm_usd"]
    assert "open when its session was killed" in evolve("log")
