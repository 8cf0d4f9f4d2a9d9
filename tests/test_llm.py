"""The parts of `llm.py` that need no server; `contracts/test_language_model.py` holds the rest."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from evolve.errors import BadInput, ModelFailed
from evolve.llm import LitellmModel, ScriptedModel, estimate_tokens, fast_variant, strip_reasoning
from evolve.llm_errors import redact, retry_after
from evolve.ports import Completion
from evolve.types import Spend

HELLO = [{"role": "user", "content": "hello"}]


def test_importing_the_module_does_not_import_litellm():
    code = "import sys, evolve.llm, evolve.agent, evolve.playbook; print('litellm' in sys.modules, 'openai' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": ""}, "agent.model must name a model"),
        ({"max_tokens": 0}, "agent.max_tokens > 0 must hold, but got 0"),
        ({"timeout_seconds": -1}, "agent.timeout_seconds > 0"),
        ({"price_in": 1.0}, "but got 1.0 and None"),
        ({"price_in": 1.0, "price_out": -2.0}, "but got 1.0 and -2.0"),
    ],
)
def test_settings_that_break_a_rule_are_refused(settings, message):
    with pytest.raises(BadInput, match=message):
        LitellmModel(**{"model": "openai/tiny", **settings})


def test_the_ceiling_counts_characters_and_the_longest_answer():
    model = LitellmModel(model="openai/tiny", max_tokens=100, price_in=2.0, price_out=10.0)
    # "hello": 5 letters are at most 3 tokens, 16 for the frame of a message, 100 for the answer; twice, for a retry
    dollars = pytest.approx(2 * (19 * 2 + 100 * 10) / 1e6)
    assert model.ceiling(HELLO) == Spend(llm_tokens=238, llm_tokens_out=200, llm_usd=dollars, llm_calls=2)


@pytest.mark.parametrize(("text", "tokens"), [("", 16), ("ab", 17), ("123", 19), ("é", 18), ("日", 19)])
def test_digits_and_foreign_letters_count_as_whole_tokens(text, tokens):
    assert estimate_tokens([{"role": "user", "content": text}]) == tokens


def test_in_a_mixture_every_character_counts_as_what_it_is():
    assert estimate_tokens([{"content": "a1é٣\ud800🙂b"}]) == 16 + 1 + 1 + 2 + 2 + 1 + 4


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("plain", "plain"),
        ("<think>a</think>b<think>c</think>d", "bd"),
        ("lost opening</think>answer", "answer"),
        ("answer<think>never closed", "answer"),
        ("<think>only thoughts", ""),
    ],
)
def test_reasoning_is_cut_also_where_its_marks_are_incomplete(text, answer):
    assert strip_reasoning(text) == answer


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-AbCd1234",
        "sk-abcde****wxyz",
        "AIzaSyA1234567890abcdef",
        "gsk_1234567890",
        "0123456789abcdef0123456789abcdef",
        "value-of-a-variable",
    ],
)
def test_what_looks_like_a_key_or_is_in_the_environment_is_redacted(secret, monkeypatch):
    monkeypatch.setenv("SOME_PROVIDER_API_KEY", "value-of-a-variable")
    assert redact(f"Incorrect key: {secret} given") == "Incorrect key: [redacted] given"


def test_the_rest_of_a_message_is_not_redacted():
    text = "RateLimitError: 429 Too Many Requests for openai/tiny at http://127.0.0.1:8000/v1 in 20.5 seconds"
    assert redact(text) == text
    assert redact("http://user:pass@host/?key=abc&x=1") == "http://[redacted]@host/?key=[redacted]&x=1"


class Asked(Exception):
    def __init__(self, value: str) -> None:
        self.litellm_response_headers = {"retry-after": value}


def test_retry_after_is_read_in_seconds_and_as_a_date():
    assert retry_after(Asked("7")) == 7.0
    assert retry_after(Asked("soon")) is None
    assert retry_after(ValueError()) is None
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 50 < (retry_after(Asked(in_a_minute)) or 0) <= 60


def test_the_scripted_model_ends_with_its_script():
    model = ScriptedModel(["a", ModelFailed("down"), Completion("b", "other", Spend(llm_tokens=9), truncated=True)])
    assert model.complete(HELLO).text == "a"
    with pytest.raises(ModelFailed, match="down"):
        model.complete(HELLO)
    assert model.complete(HELLO) == Completion("b", "scripted", Spend(llm_tokens=9), truncated=True)
    with pytest.raises(ModelFailed, match="all 3 are given"):
        model.complete(HELLO)
    assert len(model.calls) == 4


def test_the_scripted_model_repeats_when_told_and_answers_by_function():
    repeating = ScriptedModel(["a", "b"], repeat=True)
    assert [repeating.complete(HELLO).text for _ in range(5)] == ["a", "b", "a", "b", "a"]
    echo = ScriptedModel(lambda messages: messages[-1]["content"].upper(), spend=Spend(llm_tokens=3))
    assert echo.complete(HELLO) == Completion("HELLO", "scripted", Spend(llm_tokens=3))


def test_tool_calls_and_the_answers_of_tools_count_as_text():
    call = {"id": "c1", "type": "function", "function": {"name": "history", "arguments": "{}"}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    answer = {"role": "tool", "tool_call_id": "c1", "content": "none"}
    assert estimate_tokens([asked]) > estimate_tokens([{"role": "assistant", "content": ""}]) + 20
    assert estimate_tokens([answer]) > estimate_tokens([{"role": "tool", "content": "none"}])


def test_a_megabyte_of_openings_is_stripped_without_waiting_for_it():
    assert strip_reasoning("a<think>" * 125_000) == "a"


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        ("minimax/MiniMax-M2.5", ("minimax/MiniMax-M2.5-lightning", {})),
        ("novita/minimax/minimax-m2.7", ("novita/minimax/minimax-m2.7-highspeed", {})),
        ("openai/gpt-5.4", ("openai/gpt-5.4", {"service_tier": "priority"})),
        ("anthropic/claude-opus-4-8", ("anthropic/claude-opus-4-8", {"speed": "fast"})),
    ],
)
def test_the_fast_tier_is_a_variant_a_service_tier_or_a_mode_of_the_provider(model, asked):
    assert fast_variant(model) == asked
    standard, fast = LitellmModel(model=model), LitellmModel(model=model, tier="high_speed")
    assert fast.name == asked[0]
    assert fast.ceiling(HELLO).llm_usd > standard.ceiling(HELLO).llm_usd > 0


@pytest.mark.parametrize("model", ["ollama/qwen3", "openai/tiny", "minimax/MiniMax-M2.5-lightning"])
def test_a_model_without_a_fast_tier_is_refused_in_one_line(model):
    with pytest.raises(BadInput, match="agent.tier=high_speed needs a model with a fast variant"):
        LitellmModel(model=model, tier="high_speed")


def test_a_local_model_needs_its_packages_and_a_known_name(monkeypatch):
    from evolve import local_model

    with pytest.raises(BadInput, match="A local model must be known, but got 'local/gpt'"):
        LitellmModel(model="local/gpt")
    monkeypatch.setattr(local_model.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="needs the package xllamacpp, but it is not installed; run: pip install"):
        LitellmModel(model="local/smollm2")


def test_free_texts_of_a_local_answer_are_bounded_and_nothing_else():
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"enum": ["string"]}}}
    assert local_model_bounded(schema)["properties"] == {
        "a": {"type": "string", "maxLength": 200},
        "b": {"enum": ["string"]},
    }


def test_a_grammar_leaves_out_what_has_a_condition():
    schema = {"type": "object", "properties": {"a": {"enum": [1]}, "b": {"enum": [1], "description": "only where a"}}}
    assert set(local_model_bounded(schema)["properties"]) == {"a"}
    assert set(local_model_bounded({**schema, "required": ["b"]})["properties"]) == {"a", "b"}


def test_a_range_is_a_grid_within_it_for_a_grammar():
    rate, share, count = (
        local_model_bounded({"type": kind, "minimum": low, "maximum": high, **more})["enum"]
        for kind, low, high, more in (
            ("number", 3e-5, 3e-3, {}),
            ("number", 0.0, 0.2, {"multipleOf": 0.05}),
            ("integer", 4, 16, {}),
        )
    )
    assert (rate[0], rate[10], rate[-1], len(rate)) == (3e-5, 3e-4, 3e-3, 21)
    assert share == [0.0, 0.05, 0.1, 0.15, 0.2]
    assert count == list(range(4, 17))


def local_model_bounded(schema):
    from evolve.local_model import bounded

    return bounded(schema)


def test_fallbacks_are_names_or_servers_with_prices_of_their_own():
    from evolve import compose, config

    words = ["agent.model=openai/a", "agent.price_in=1", "agent.price_out=2", "budget.llm_usd=1"]
    server = "{model: openai/b, api_base: 'http://127.0.0.1:1/v1', price_in: 0, price_out: 0}"
    loaded = config.load([*words, f"agent.fallbacks=[openai/gpt-5.4, {server}]"])
    assert [f.model for f in loaded.agent.fallbacks] == ["openai/gpt-5.4", "openai/b"]
    assert compose.language_model(loaded).price_known
    with pytest.raises(BadInput, match="litellm knows none for 'openai/unpriced'"):
        compose.language_model(config.load([*words, "agent.fallbacks=[openai/unpriced]"]))
    with pytest.raises(BadInput, match="agent.fallbacks.0.modle is not a setting; did you mean 'model'"):
        config.load([*words, "agent.fallbacks=[{modle: x}]"])
    with pytest.raises(BadInput, match="agent.tier"):
        config.load([*words, "agent.tier=fast"])
