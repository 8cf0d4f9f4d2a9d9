"""Language models behind `ports.LanguageModel`: any provider or local server through litellm, and a scripted one.

Nothing here builds prompts or reads answers (`agent.py` does): a model is called, its bounded retries are made, its
reasoning text is cut off, and what the call cost is counted. `llm_errors.py` reads what went wrong, `fallbacks.py` asks
another model or none for a while, `local_model.py` is a small model in this process. litellm is imported by the first
call (its import takes seconds), never with this module. Keys come from the environment alone, in litellm's own way,
and leave it in no message.
"""

from __future__ import annotations

import json
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import tenacity

from evolve import llm_errors
from evolve.errors import BadInput, ModelFailed
from evolve.ports import Completion, ToolCall
from evolve.types import Spend

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]
Tier = Literal["standard", "high_speed"]

_RANGES = ("minimum", "maximum", "multipleOf")
LOCAL = "local/"  # models in this process, see `local_model.py`
_MAY_COST = 2  # attempts of one call that may have cost something: the second is the last
_MESSAGE_TOKENS = 16  # a chat template's frame around one message, generously
_TOKEN_CHARS = 32  # more characters for each token that was allowed are no answer, but a server gone wrong
_FAST = ("-highspeed", "-lightning", "-fast")  # ends of a fast variant's name in litellm's price map


@dataclass(frozen=True, kw_only=True)
class LitellmModel:
    """Any model that litellm reaches: `openai/...`, `anthropic/...`, `ollama/...`, or a server at `api_base`.

    Args:
        timeout_seconds: of one call, with all its attempts and the pauses between them, whatever a server does.
        temperature: left out for a model that litellm knows to refuse it; None never sends one.
        price_in, price_out: US dollars per million tokens; both or none. They override litellm's price map.
        attempts: tries of one call in all; only 408, 409, 425, 429, 5xx, a lost connection and an unreadable body are
            tried again, and only where there is time left for it and for what `Retry-After` asks.
        tools: whether the model calls tools; None asks litellm, which knows nothing of private servers.
        tier: `high_speed` asks for the provider's faster and dearer service of the same model.
        clock, sleep: for tests.

    Raises `BadInput` where a setting breaks a rule.
    """

    model: str
    api_base: str | None = None
    max_tokens: int = 4096
    temperature: float | None = 0.7
    timeout_seconds: float = 120.0
    price_in: float | None = None
    price_out: float | None = None
    attempts: int = 4
    tools: bool | None = None
    tier: Tier = "standard"
    clock: Callable[[], float] = field(default=time.monotonic, repr=False, compare=False)
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False, compare=False)

    paused = False

    def __post_init__(self) -> None:
        if not self.model:
            raise BadInput("agent.model must name a model, but is empty; set agent.model=PROVIDER/MODEL.")
        for name in ("max_tokens", "timeout_seconds", "attempts"):
            if not getattr(self, name) > 0:
                raise BadInput(f"agent.{name} > 0 must hold, but got {getattr(self, name)}; raise it.")
        prices = [p for p in (self.price_in, self.price_out) if p is not None]
        if len(prices) == 1 or any(not p >= 0 for p in prices):
            raise BadInput(
                "agent.price_in and agent.price_out must both be dollars per million tokens, at least 0, or both be"
                f" left out, but got {self.price_in} and {self.price_out}; set both."
            )
        if self._local:
            from evolve.local_model import check

            check(self.model)
        if self.tier == "high_speed":
            fast_variant(self.model)

    @property
    def name(self) -> str:
        return self._fast[0]

    @property
    def calls_tools(self) -> bool:
        if self.tools is None:
            return not self._local and bool(_litellm().supports_function_calling(model=self.name))
        return self.tools

    @property
    def price_known(self) -> bool:
        """Whether dollars can be counted: prices were given, or litellm's map has them. A free model counts as known."""
        return self._prices() is not None

    def ceiling(self, messages: Messages) -> Spend:
        """Upper bound of one call with its retries, from a count of characters: no tokenizer is asked.

        What the provider refused costs nothing; at most two attempts of a call may cost something. A schema and tools
        that are passed to `complete` become part of what is sent; add their JSON as one more message.
        """
        return sum([self._at_most(messages)] * _MAY_COST, Spend())

    def complete(self, messages: Messages, schema: Mapping[str, Any] | None = None, tools: Tools = ()) -> Completion:
        litellm = _litellm()
        if self._local:
            from evolve.local_model import register

            register(litellm)
        arguments = self._arguments(litellm, messages, schema, tools)
        deadline, failed = self.clock() + self.timeout_seconds, list[Spend]()

        def attempt() -> Completion:
            began = self.clock()
            try:
                left = max(deadline - began, 0.001)
                response = _within(left, lambda: litellm.completion(**arguments, timeout=left))
                return self._completion(arguments, response, self.clock() - began)
            except llm_errors.foreign_errors() as error:
                cost = Spend() if llm_errors.cost_nothing(error) else self._at_most_of(arguments)
                failed.append(replace(cost, llm_calls=1, llm_seconds=self.clock() - began))
                raise

        def again(error: BaseException) -> bool:
            return llm_errors.worth_retrying(error) and sum(s.llm_tokens > 0 for s in failed) < _MAY_COST

        retrying = tenacity.Retrying(
            stop=lambda state: state.attempt_number >= self.attempts or self.clock() + state.upcoming_sleep >= deadline,
            wait=_wait,
            retry=tenacity.retry_if_exception(again),
            sleep=self.sleep,
            reraise=True,
        )
        try:
            completion = retrying(attempt)
        except llm_errors.foreign_errors() as error:
            # `from None`: the original text, and with it possibly a key, must not come back through a traceback.
            text, down = llm_errors.explain(self.name, error), llm_errors.is_down(error)
            raise ModelFailed(text, sum(failed, Spend()), down=down) from None
        return replace(completion, spend=sum(failed, completion.spend))

    def _arguments(
        self, litellm: Any, messages: Messages, schema: Mapping[str, Any] | None, tools: Tools
    ) -> dict[str, Any]:
        name, extra = self._fast
        sent = [dict(message) for message in messages]
        arguments: dict[str, Any] = {
            "model": name,
            "messages": sent,
            "max_tokens": self.max_tokens,
            "max_retries": 0,  # of the provider's SDK, which would retry without being counted
            "num_retries": 0,
            "drop_params": True,  # a model that takes no temperature gets none
            **extra,
        }
        if self.temperature is not None:
            arguments["temperature"] = self.temperature
        if self.api_base is not None:
            arguments["api_base"] = self.api_base
        if tools:
            arguments["tools"] = [dict(tool) for tool in tools]
            arguments["_skip_mcp_handler"] = True  # which would want the package mcp, for tools that are not ours
        if schema is not None and (self._local or litellm.supports_response_schema(model=name)):
            asked = schema if self._local else _without_ranges(schema)
            answer = {"name": "answer", "schema": asked, "strict": False}
            arguments["response_format"] = {"type": "json_schema", "json_schema": answer}
        elif schema is not None:
            ask = "Answer with one JSON object of this JSON schema and nothing else:\n" + json.dumps(schema)
            sent[-1]["content"] = f"{sent[-1]['content'] or ''}\n\n{ask}"
        return arguments

    def _completion(self, arguments: Mapping[str, Any], response: Any, seconds: float) -> Completion:
        if not response.choices:
            raise ValueError("the server answered without any choice")
        choice = response.choices[0]
        # A refusal comes back as its own words: it was paid for, and whoever asked sees that it holds no answer.
        text = choice.message.content or getattr(choice.message, "refusal", None) or ""
        calls = tuple(
            ToolCall(str(call.id or ""), str(call.function.name or ""), str(call.function.arguments or ""))
            for call in choice.message.tool_calls or ()
        )
        size, most = len(text) + sum(len(c.name) + len(c.arguments) for c in calls), _TOKEN_CHARS * self.max_tokens
        if size > most:
            raise ValueError(f"an answer of {self.max_tokens} tokens has at most {most} characters, but got {size}")
        spend = replace(self._spend(arguments, response), llm_calls=1, llm_seconds=seconds)
        return Completion(strip_reasoning(text), self.name, spend, choice.finish_reason == "length", calls)

    def _spend(self, arguments: Mapping[str, Any], response: Any) -> Spend:
        usage = getattr(response, "usage", None)
        tokens_in = int(getattr(usage, "prompt_tokens", 0) or 0)
        tokens_out = int(getattr(usage, "completion_tokens", 0) or 0)
        cached = int(getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", 0) or 0)
        if tokens_in + tokens_out == 0:  # a server that does not count: the bound stands for it, never zero
            return self._at_most_of(arguments)
        prices = self._prices() or (0.0, 0.0)
        dollars = (tokens_in * prices[0] + tokens_out * prices[1]) / 1e6
        if self.price_in is None:  # litellm's own figure knows the discount on cached tokens
            reported = response._hidden_params.get("response_cost")
            dollars = dollars if reported is None else float(reported)
        return Spend(
            llm_tokens=tokens_in + tokens_out,
            llm_tokens_out=tokens_out,
            llm_tokens_cached=min(cached, tokens_in),
            llm_usd=dollars,
        )

    def _at_most_of(self, arguments: Mapping[str, Any]) -> Spend:
        """Upper bound of one attempt, of all that it sends."""
        beside = [arguments[key] for key in ("tools", "response_format") if key in arguments]
        return self._at_most([*arguments["messages"], *({"content": json.dumps(value)} for value in beside)])

    def _at_most(self, messages: Messages) -> Spend:
        tokens_in, tokens_out = estimate_tokens(messages), self.max_tokens
        price_in, price_out = self._prices() or (0.0, 0.0)
        return Spend(
            llm_tokens=tokens_in + tokens_out,
            llm_tokens_out=tokens_out,
            llm_usd=(tokens_in * price_in + tokens_out * price_out) / 1e6,
            llm_calls=1,
        )

    @property
    def _local(self) -> bool:
        return self.model.startswith(LOCAL)

    @property
    def _fast(self) -> tuple[str, dict[str, str]]:
        """Name and further arguments of what is asked."""
        return (self.model, {}) if self.tier == "standard" else fast_variant(self.model)

    def _prices(self) -> tuple[float, float] | None:
        """Dollars per million tokens (in, out), each the highest of its tiers; None where nobody knows them."""
        if self.price_in is not None and self.price_out is not None:
            return self.price_in, self.price_out
        if self._local:
            return 0.0, 0.0
        name, extra = self._fast
        entry = _entry(name)
        if entry is None:
            return None
        end = "_priority" if "service_tier" in extra else ""
        tiers = [
            [
                float(v)
                for k, v in entry.items()
                if re.fullmatch(rf"{key}(_above_\d+k_tokens)?{end}", k) and v is not None
            ]
            for key in ("input_cost_per_token", "output_cost(?:_per_reasoning_token|_per_token)")
        ]
        if not all(tiers):
            return None
        factor = float(entry["provider_specific_entry"]["fast"]) if "speed" in extra else 1.0
        return max(tiers[0]) * 1e6 * factor, max(tiers[1]) * 1e6 * factor


def fast_variant(model: str) -> tuple[str, dict[str, str]]:
    """(model, further arguments of a call) of the same model's faster service, as litellm's price map knows it.

    It is a model of its own (`-highspeed` and the like; dearer than the first, else it is a smaller one), OpenAI's
    priority tier, or Anthropic's fast mode. Raises `BadInput` where there is none.
    """
    entry = _entry(model) or {}
    for end in _FAST if entry else ():
        fast = _entry(model + end) or {}
        if (fast.get("output_cost_per_token") or 0) > (entry.get("output_cost_per_token") or 0):
            return model + end, {}
    takes = (_litellm().get_supported_openai_params(model=model) or ()) if entry else ()
    if "service_tier" in takes and entry.get("output_cost_per_token_priority") is not None:
        return model, {"service_tier": "priority"}
    if "speed" in takes and "fast" in (entry.get("provider_specific_entry") or {}):
        return model, {"speed": "fast"}
    raise BadInput(
        f"agent.tier=high_speed needs a model with a fast variant, but litellm knows none of {model!r};"
        " use agent.tier=standard, or name the fast model itself as agent.model."
    )


def _entry(model: str) -> dict[str, Any] | None:
    """litellm's prices and abilities of a model; None where it does not know it."""
    entries = _litellm().model_cost
    provider, _, bare = model.partition("/")
    entry = entries.get(model)
    if entry is None and entries.get(bare, {}).get("litellm_provider") == provider:
        entry = entries[bare]
    return entry  # type: ignore[no-any-return]


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """What `call` returns or raises; `TimeoutError` where that takes longer, and its thread is left behind.

    The HTTP client's own time-out bounds each wait for bytes alone: a server that sends one now and then is waited for
    without end. The client gets it all the same, so that only such a server keeps a thread.
    """
    done: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def body() -> None:
        try:
            done.put((call(), None))
        except BaseException as error:  # noqa: BLE001  raised again below, in the thread that waits
            done.put((None, error))

    # The name goes on to the helper: whoever looks for calls under way finds it.
    threading.Thread(target=body, name=threading.current_thread().name, daemon=True).start()
    try:
        result, error = done.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"Timeout: no whole answer within {seconds:.3g} s") from None
    if error is not None:
        raise error
    return result


def _without_ranges(schema: Any) -> Any:
    """`schema` as every provider takes it: some refuse a request whose numbers have limits."""
    if isinstance(schema, list):
        return [_without_ranges(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    kept = schema if "type" not in schema else {k: v for k, v in schema.items() if k not in _RANGES}
    return {key: _without_ranges(value) for key, value in kept.items()}


def estimate_tokens(messages: Messages) -> int:
    """An upper bound of the tokens of ordinary text: a digit or a non-ASCII byte is a token, two letters are one.

    The names and arguments of tool calls count as text does.

    >>> estimate_tokens([{"role": "user", "content": "rate 10"}])
    21
    """
    text = "".join(_texts(messages))  # counted by methods of str: a loop over characters takes 20 times as long
    digits, ascii_only = sum(map(text.count, "0123456789")), len(text.encode("ascii", "ignore"))
    dense = digits + len(text.encode("utf-8", "replace")) - ascii_only
    rest = ascii_only - digits
    return dense + (rest + 1) // 2 + _MESSAGE_TOKENS * len(messages)


def _texts(messages: Messages) -> list[str]:
    found = []
    for message in messages:
        calls = message.get("tool_calls")
        answered = str(message.get("tool_call_id", ""))
        found += [message["content"] or "", json.dumps(calls) if calls else "", answered]
    return found


def strip_reasoning(text: str) -> str:
    """`text` without `<think>` parts, also where a part was never closed or its opening was left out.

    >>> strip_reasoning("<think>hm</think> yes")
    'yes'
    """
    kept, position = list[str](), 0  # by hand: a pattern takes minutes for many openings that are never closed
    while (start := text.find("<think>", position)) >= 0 and (end := text.find("</think>", start)) >= 0:
        kept.append(text[position:start])
        position = end + len("</think>")
    rest = "".join(kept) + text[position:]
    return rest.rpartition("</think>")[2].partition("<think>")[0].strip()


def _litellm() -> Any:
    """litellm, quiet, without its fetches at import: no price map from the network, no keys from a `.env` file."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
    os.environ.setdefault("LITELLM_LOG", "CRITICAL")
    import litellm

    litellm.suppress_debug_info = True
    litellm.telemetry = False
    return litellm


def price_map() -> Mapping[str, Mapping[str, Any]]:
    """litellm's prices as they are on this machine: model -> entry, US dollars per token."""
    prices: Mapping[str, Mapping[str, Any]] = _litellm().model_cost
    return prices


_back_off = tenacity.wait_random_exponential(multiplier=1.0, max=20.0)


def _wait(state: tenacity.RetryCallState) -> float:
    asked = llm_errors.retry_after(state.outcome.exception() if state.outcome else None)
    return asked if asked is not None else float(_back_off(state))


class ScriptedModel:
    """The fake that ships: gives prepared answers in order, deterministic, without a network.

    Args:
        answers: texts, completions (which may call tools) or exceptions (raised), or a function of the messages that
            returns a text or a completion.
        repeat: begin again after the last answer; otherwise the call after it raises `ModelFailed`.
        spend: what each call costs, and its ceiling. A `Completion` among the answers carries its own; one that a function
            returns without any costs this.
        calls_tools: whether it says that it calls tools; its completions may then hold `tool_calls`.

        calls_tools: whether it says that tools may be passed.

    `calls` holds the messages of each call so far, `tools` the tools that were passed with them.
    """

    price_known = True
    paused = False

    def __init__(
        self,
        answers: Sequence[str | Completion | Exception] | Callable[[Messages], str | Completion],
        *,
        repeat: bool = False,
        spend: Spend | None = None,
        name: str = "scripted",
        calls_tools: bool = False,
    ) -> None:
        self.name, self.calls_tools = name, calls_tools
        self.calls, self.tools = list[Messages](), list[Tools]()
        self._answers, self._repeat, self._spend = answers, repeat, spend or Spend()

    def ceiling(self, messages: Messages) -> Spend:
        return self._spend

    def complete(self, messages: Messages, schema: Mapping[str, Any] | None = None, tools: Tools = ()) -> Completion:
        self.calls.append(messages)
        self.tools.append(tools)
        answer = self._answers(messages) if callable(self._answers) else self._next()
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Completion):
            return replace(answer, model=self.name)
        return Completion(strip_reasoning(answer), self.name, self._spend)

    def _next(self) -> str | Completion | Exception:
        assert not callable(self._answers)
        number = len(self.calls) - 1
        if self._repeat and self._answers:
            number %= len(self._answers)
        if number >= len(self._answers):
            raise ModelFailed(f"A scripted model must have an answer left, but all {number} are given; add more.")
        return self._answers[number]
