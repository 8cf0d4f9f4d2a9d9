"""What every `ports.LanguageModel` keeps, on the scripted fake and on litellm against a loopback server.

The server speaks the OpenAI protocol, and misbehaves as told: the second half of this file holds litellm to a recorded
outcome for each misbehaviour.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai_server import KEY, Reply, Server, serving

from evolve.errors import ModelFailed
from evolve.llm import LitellmModel, ScriptedModel
from evolve.ports import Completion, LanguageModel
from evolve.types import Spend

HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello."}]
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
        fixed = {"model": "openai/tiny", "max_tokens": 50, "price_in": 2.0, "price_out": 10.0}
        return LitellmModel(**{**fixed, "api_base": server.url, "sleep": waits.append, **settings})

    return build


@pytest.fixture(params=["scripted", "litellm"])
def build(request: pytest.FixtureRequest) -> Callable[..., LanguageModel]:
    """build(reply, ...) -> a model of each kind that gives these replies in order."""
    if request.param == "litellm":
        return request.getfixturevalue("reach")  # type: ignore[no-any-return]

    def scripted(*replies: Reply) -> ScriptedModel:
        spend = Spend(llm_tokens=42, llm_usd=0.00018)
        answers: list[str | Completion | Exception] = [
            ModelFailed("A model must answer, but got 401; check the key.")
            if r.status != 200
            else Completion(r.text or "", "x", spend, truncated=True)
            if r.finish == "length"
            else r.text or ""
            for r in replies
        ]
        return ScriptedModel(answers, spend=spend)

    return scripted


# ---------------------------------------------------------------- the contract


def test_an_answer_carries_its_text_the_models_name_and_what_it_cost(build):
    model = build(Reply("hello"))
    completion = model.complete(HELLO)
    assert (completion.text, completion.model, completion.truncated) == ("hello", model.name, False)
    # 30 tokens in at 2 dollars a million, 12 out at 10
    assert completion.spend.llm_tokens == 42
    assert completion.spend.llm_usd == pytest.approx(0.00018)
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


def test_the_ceiling_is_found_without_a_request(reach, server):
    assert reach(Reply()).ceiling(HELLO).llm_tokens > 50
    assert server.requests == []


def test_a_server_that_counts_no_tokens_is_charged_the_ceiling(reach):
    model = reach(Reply(tokens=None))
    assert model.complete(HELLO).spend == model.ceiling(HELLO) != Spend()


def test_a_known_model_is_priced_by_litellms_map_and_an_unknown_one_by_nobody(reach):
    unpriced = {"price_in": None, "price_out": None}
    known = reach(Reply(tokens=(1000, 100)), model="openai/gpt-4o", **unpriced)
    assert known.price_known
    assert known.complete(HELLO).spend.llm_usd == pytest.approx(1000 * 2.5e-6 + 100 * 10e-6)
    unknown = reach(Reply(), **unpriced)
    assert not unknown.price_known
    assert unknown.complete(HELLO).spend == Spend(llm_tokens=42)
    assert reach(Reply()).price_known


# ---------------------------------------------------------------- litellm: a server that misbehaves

OK = Reply("fine")


def test_too_many_requests_is_tried_again_after_what_the_server_asks(reach, server, waits):
    model = reach(Reply(status=429, headers={"Retry-After": "7"}), OK)
    assert model.complete(HELLO).text == "fine"
    assert (waits, len(server.requests)) == ([7.0], 2)


@pytest.mark.parametrize(
    "bad",
    [Reply(status=500), Reply(status=503), Reply(status=408), Reply(reset=True), Reply(body=b'{"id": "1", "choi')],
    ids=["500", "503", "408", "connection reset", "cut body"],
)
def test_a_passing_fault_is_tried_again_after_growing_pauses(reach, server, waits, bad):
    assert reach(bad, bad, OK).complete(HELLO).text == "fine"
    assert len(server.requests) == 3
    assert len(waits) == 2
    assert all(0 <= wait <= 20 for wait in waits)


def test_a_lasting_fault_ends_after_the_attempts(reach, server, waits):
    with pytest.raises(ModelFailed, match="openai/tiny must answer, but: InternalServerError 500"):
        reach(Reply(status=500), attempts=3).complete(HELLO)
    assert (len(server.requests), len(waits)) == (3, 2)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422])
def test_what_will_not_pass_is_not_tried_again(reach, server, waits, status):
    with pytest.raises(ModelFailed, match=str(status)):
        reach(Reply(status=status), OK).complete(HELLO)
    assert (len(server.requests), waits) == (1, [])


def test_a_server_that_asks_to_wait_an_hour_is_not_waited_for(reach, server, waits):
    with pytest.raises(ModelFailed, match="429"):
        reach(Reply(status=429, headers={"Retry-After": "3600"}), OK).complete(HELLO)
    assert (len(server.requests), waits) == (1, [])


def test_a_server_that_hangs_ends_with_the_time_out(reach, server):
    with pytest.raises(ModelFailed, match="Timeout"):
        reach(Reply(hang=True), attempts=1, timeout_seconds=0.2).complete(HELLO)
    assert len(server.requests) == 1


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


def test_an_answer_without_text_is_empty_and_paid_for(reach):
    completion = reach(Reply(text=None)).complete(HELLO)
    assert (completion.text, completion.spend.llm_tokens) == ("", 42)


def test_a_megabyte_of_answer_arrives_whole(reach):
    assert len(reach(Reply("x" * 1_000_000)).complete(HELLO).text) == 1_000_000


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
