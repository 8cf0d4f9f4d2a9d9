"""Language models behind `ports.LanguageModel`: any provider or local server through litellm, and a scripted one.

Nothing here builds prompts or reads answers (`agent.py` does): a model is called, its bounded retries are made, its
reasoning text is cut off, and what the call cost is counted. litellm is imported by the first call (its import takes
seconds), never with this module. Keys come from the environment alone, in litellm's own way, and leave it in no
message.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any

import tenacity

from evolve.errors import BadInput, ModelFailed
from evolve.ports import Completion
from evolve.types import Spend

Messages = Sequence[Mapping[str, Any]]

_TRANSIENT = {408, 409, 425, 429}  # and everything from 500 on
_MAX_WAIT_SECONDS = 60.0
_MESSAGE_TOKENS = 16  # a chat template's frame around one message, generously
_MISSING_KEY = re.compile(r"missing\b.{0,40}\b(credential|api.?key)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class LitellmModel:
    """Any model that litellm reaches: `openai/...`, `anthropic/...`, `ollama/...`, or a server at `api_base`.

    Args:
        timeout_seconds: of one attempt, passed to the HTTP client: it bounds each wait for bytes.
        temperature: left out for a model that litellm knows to refuse it; None never sends one.
        price_in, price_out: US dollars per million tokens; both or none. They override litellm's price map.
        attempts: tries of one call in all; only 408, 409, 425, 429, 5xx, a lost connection and a time-out are tried
            again. A `Retry-After` above a minute is not waited for.
        sleep: for tests.

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
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False, compare=False)

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

    @property
    def name(self) -> str:
        return self.model

    @property
    def calls_tools(self) -> bool:
        return False

    @property
    def price_known(self) -> bool:
        """Whether dollars can be counted: prices were given, or litellm's map has them. A free model counts as known."""
        return self._prices() is not None

    def ceiling(self, messages: Messages) -> Spend:
        """Upper bound of one attempt, from a count of characters: no tokenizer is asked.

        A schema that is passed to `complete` becomes part of what is sent; add its JSON as one more message.
        """
        tokens_in, tokens_out = estimate_tokens(messages), self.max_tokens
        price_in, price_out = self._prices() or (0.0, 0.0)
        return Spend(llm_tokens=tokens_in + tokens_out, llm_usd=(tokens_in * price_in + tokens_out * price_out) / 1e6)

    def complete(
        self, messages: Messages, schema: Mapping[str, Any] | None = None, tools: Sequence[Mapping[str, Any]] = ()
    ) -> Completion:
        litellm = _litellm()
        arguments = self._arguments(litellm, messages, schema)
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.attempts),
            wait=_wait,
            retry=tenacity.retry_if_exception(_worth_retrying),
            sleep=self.sleep,
            reraise=True,
        )
        try:
            response = retrying(litellm.completion, **arguments)
            return self._completion(messages, response)
        except _foreign_errors() as error:
            # `from None`: the original text, and with it possibly a key, must not come back through a traceback.
            raise ModelFailed(self._explain(error)) from None

    def _arguments(self, litellm: Any, messages: Messages, schema: Mapping[str, Any] | None) -> dict[str, Any]:
        sent = [dict(message) for message in messages]
        arguments: dict[str, Any] = {
            "model": self.model,
            "messages": sent,
            "max_tokens": self.max_tokens,
            "timeout": self.timeout_seconds,
            "max_retries": 0,  # of the provider's SDK, which would retry without being counted
            "num_retries": 0,
            "drop_params": True,  # a model that takes no temperature gets none
        }
        if self.temperature is not None:
            arguments["temperature"] = self.temperature
        if self.api_base is not None:
            arguments["api_base"] = self.api_base
        if schema is not None and litellm.supports_response_schema(model=self.model):
            answer = {"name": "answer", "schema": dict(schema), "strict": False}
            arguments["response_format"] = {"type": "json_schema", "json_schema": answer}
        elif schema is not None:
            ask = "Answer with one JSON object of this JSON schema and nothing else:\n" + json.dumps(schema)
            sent[-1]["content"] += "\n\n" + ask
        return arguments

    def _completion(self, messages: Messages, response: Any) -> Completion:
        if not response.choices:
            raise ValueError("the server answered without any choice")
        choice = response.choices[0]
        # A refusal comes back as its own words: it was paid for, and whoever asked sees that it holds no answer.
        text = choice.message.content or getattr(choice.message, "refusal", None) or ""
        return Completion(
            strip_reasoning(text), self.model, self._spend(messages, response), choice.finish_reason == "length"
        )

    def _spend(self, messages: Messages, response: Any) -> Spend:
        usage = getattr(response, "usage", None)
        tokens_in = int(getattr(usage, "prompt_tokens", 0) or 0)
        tokens_out = int(getattr(usage, "completion_tokens", 0) or 0)
        if tokens_in + tokens_out == 0:  # a server that does not count: the bound stands for it, never zero
            return self.ceiling(messages)
        prices = self._prices() or (0.0, 0.0)
        dollars = (tokens_in * prices[0] + tokens_out * prices[1]) / 1e6
        if self.price_in is None:  # litellm's own figure knows the discount on cached tokens
            reported = response._hidden_params.get("response_cost")
            dollars = dollars if reported is None else float(reported)
        return Spend(llm_tokens=tokens_in + tokens_out, llm_usd=dollars)

    def _prices(self) -> tuple[float, float] | None:
        """Dollars per million tokens (in, out), each the highest of its tiers; None where nobody knows them."""
        if self.price_in is not None and self.price_out is not None:
            return self.price_in, self.price_out
        entries = _litellm().model_cost
        provider, _, bare = self.model.partition("/")
        entry = entries.get(self.model)
        if entry is None and entries.get(bare, {}).get("litellm_provider") == provider:
            entry = entries[bare]
        if entry is None:
            return None
        tiers = [
            [float(v) for k, v in entry.items() if re.fullmatch(rf"{key}(_above_\d+k_tokens)?", k) and v is not None]
            for key in ("input_cost_per_token", "output_cost(?:_per_reasoning_token|_per_token)")
        ]
        return (max(tiers[0]) * 1e6, max(tiers[1]) * 1e6) if all(tiers) else None

    def _explain(self, error: BaseException) -> str:
        code, text = getattr(error, "status_code", None), redact(" ".join(str(error).split()))[:300]
        steps = {
            400: "see what the provider says",
            401: "check the key in the environment",
            403: "check the key's rights",
            404: "check agent.model and agent.api_base",
            429: "wait, or use another model",
        }
        step = steps.get(code or 0, "check the server and agent.api_base, or use another model")
        if _lacks_key(error):
            step = "put the provider's key into the environment (any word where a local server needs none)"
        what = type(error).__name__ + (f" {code}" if code is not None else "")
        return f"The model {self.model} must answer, but: {what}: {text}; {step}."


def estimate_tokens(messages: Messages) -> int:
    """An upper bound of the tokens of ordinary text: a digit or a non-ASCII byte is a token, two letters are one.

    >>> estimate_tokens([{"role": "user", "content": "rate 10"}])
    21
    """
    text = "".join(message["content"] for message in messages)
    dense = sum(c in "0123456789" for c in text) + len(text.encode("utf-8", "replace")) - sum(map(str.isascii, text))
    rest = sum(c.isascii() and c not in "0123456789" for c in text)
    return dense + (rest + 1) // 2 + _MESSAGE_TOKENS * len(messages)


def strip_reasoning(text: str) -> str:
    """`text` without `<think>` parts, also where a part was never closed or its opening was left out.

    >>> strip_reasoning("<think>hm</think> yes")
    'yes'
    """
    text = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
    return text.rpartition("</think>")[2].partition("<think>")[0].strip()


_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)$", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|hf|key|token)[-_][\w*.-]{4,}"
    r"|\bAIza[\w-]{10,}"
    r"|\b(?:Bearer|Basic)\s+[\w.~+/=*-]{6,}"
    r"|(?<=//)[^\s/@]+:[^\s/@]+(?=@)"
    r"|(?<=[?&]key=)[^\s&]+|(?<=[?&]api_key=)[^\s&]+"
    r"|\b(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{24,}"
    r"|[\w-]{3,}\*{3,}[\w-]*",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """`text` without anything that is, or looks like, a key: better a word too many than one key in a journal."""
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= 6:
            text = text.replace(value, "[redacted]")
    return _SECRET_TEXT.sub("[redacted]", text)


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


def _foreign_errors() -> tuple[type[BaseException], ...]:
    """What a call may raise: litellm maps nearly everything to openai's tree; the rest is an answer out of shape."""
    import openai

    return (openai.OpenAIError, ValueError, TypeError, LookupError, AttributeError, OSError, ImportError)


def _lacks_key(error: BaseException) -> bool:
    return _MISSING_KEY.search(str(error)) is not None


def _worth_retrying(error: BaseException) -> bool:
    # By its code, not its class: a 401 may come as BadRequestError; a missing key comes as a 500 without any request.
    code = getattr(error, "status_code", None)
    if not isinstance(code, int) or _lacks_key(error):
        return False
    return (code in _TRANSIENT or code >= 500) and (_retry_after(error) or 0.0) <= _MAX_WAIT_SECONDS


def _retry_after(error: BaseException | None) -> float | None:
    """Seconds that the server asks to wait, from either form of the header; None where it asks nothing readable."""
    response = getattr(error, "response", None)
    headers = getattr(error, "litellm_response_headers", None) or getattr(response, "headers", None) or {}
    value = str(headers.get("retry-after", "")).strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


_back_off = tenacity.wait_random_exponential(multiplier=1.0, max=20.0)


def _wait(state: tenacity.RetryCallState) -> float:
    asked = _retry_after(state.outcome.exception() if state.outcome else None)
    return asked if asked is not None else float(_back_off(state))


class ScriptedModel:
    """The fake that ships: gives prepared answers in order, deterministic, without a network.

    Args:
        answers: texts, completions or exceptions (raised), or a function of the messages that returns a text or a
            completion.
        repeat: begin again after the last answer; otherwise the call after it raises `ModelFailed`.
        spend: what each call costs, and its ceiling. A `Completion` among the answers carries its own; one that a function
            returns without any costs this.
        calls_tools: whether it says that it calls tools; its completions may then hold `tool_calls`.

    `calls` holds the messages of each call so far.
    """

    price_known = True

    def __init__(
        self,
        answers: Sequence[str | Completion | Exception] | Callable[[Messages], str | Completion],
        *,
        repeat: bool = False,
        spend: Spend | None = None,
        name: str = "scripted",
        calls_tools: bool = False,
    ) -> None:
        self.name, self.calls, self.calls_tools = name, list[Messages](), calls_tools
        self._answers, self._repeat, self._spend = answers, repeat, spend or Spend()

    def ceiling(self, messages: Messages) -> Spend:
        return self._spend

    def complete(
        self, messages: Messages, schema: Mapping[str, Any] | None = None, tools: Sequence[Mapping[str, Any]] = ()
    ) -> Completion:
        self.calls.append(messages)
        if callable(self._answers):
            said = self._answers(messages)
            if isinstance(said, str):
                return self._wrap(said)
            return replace(said, model=self.name, spend=self._spend if said.spend == Spend() else said.spend)
        number = len(self.calls) - 1
        if self._repeat and self._answers:
            number %= len(self._answers)
        if number >= len(self._answers):
            raise ModelFailed(f"A scripted model must have an answer left, but all {number} are given; add more.")
        answer = self._answers[number]
        if isinstance(answer, Exception):
            raise answer
        return replace(answer, model=self.name) if isinstance(answer, Completion) else self._wrap(answer)

    def _wrap(self, text: str) -> Completion:
        return Completion(strip_reasoning(text), self.name, self._spend)
