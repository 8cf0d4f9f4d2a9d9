"""What went wrong with a call of a language model: whether it cost anything, whether to try again, how to say it.

litellm maps the errors of all providers to one tree, but a lost connection and an unreadable answer come out of it as
a 500 that no server sent. What really happened is found in the chain of causes. No message holds a key.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

_TRANSIENT = {408, 409, 425, 429}  # and everything from 500 on
_UNKNOWN_COST = {408, 499, 504}  # somebody gave up waiting while the model may have gone on
_MISSING_KEY = re.compile(r"missing\b.{0,40}\b(credential|api.?key)", re.IGNORECASE)
_READ_CHARS = 4000  # of an error's text; some patterns below take quadratic time
_SHOWN_CHARS = 300


def foreign_errors() -> tuple[type[BaseException], ...]:
    """What a call may raise: litellm maps nearly everything to openai's tree; the rest is an answer out of shape."""
    import openai

    return (openai.OpenAIError, ValueError, TypeError, LookupError, AttributeError, OSError, ImportError)


def status_of(error: BaseException) -> int | None:
    """The HTTP status by its code, not the class: a 401 may come as BadRequestError."""
    code = getattr(error, "status_code", None)
    return code if isinstance(code, int) else None


def cost_nothing(error: BaseException) -> bool:
    """Whether the provider refused the request, or never saw it. False where it may have worked on an answer."""
    import httpx

    code = status_of(error)
    if code in _UNKNOWN_COST:
        return _never_sent(error)
    if code is not None and 400 <= code < 500:
        return True
    answered = any(isinstance(e, httpx.HTTPStatusError) for e in _chain(error))
    return answered or _never_sent(error) or lacks_key(error) or isinstance(error, ImportError)


def is_down(error: BaseException) -> bool:
    """Whether nobody is served at the moment, so that the next call will most likely fail too."""
    code = status_of(error)
    if lacks_key(error):
        return False
    return isinstance(error, OSError) or (code is not None and (code in _TRANSIENT or code >= 500))


def worth_retrying(error: BaseException) -> bool:
    code = status_of(error)  # a missing key comes as a 500 without any request
    return code is not None and (code in _TRANSIENT or code >= 500) and not lacks_key(error)


def lacks_key(error: BaseException) -> bool:
    return _MISSING_KEY.search(str(error)[:_READ_CHARS]) is not None


def _never_sent(error: BaseException) -> bool:
    import httpx

    return any(isinstance(e, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout) for e in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def retry_after(error: BaseException | None) -> float | None:
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


def explain(model: str, error: BaseException) -> str:
    """One line for a failed call: what happened, in the provider's words without a key, and the next step."""
    code = status_of(error)
    steps = {
        400: "see what the provider says",
        401: "check the key in the environment",
        403: "check the key's rights",
        404: "check agent.model and agent.api_base",
        429: "wait, or use another model",
    }
    step = steps.get(code or 0, "check the server and agent.api_base, or use another model")
    if lacks_key(error):
        step = "put the provider's key into the environment (any word where a local server needs none)"
    what = type(error).__name__ + (f" {code}" if code is not None else "")
    return f"The model {model} must answer, but: {what}: {_shown(error)}; {step}."


def _shown(error: BaseException) -> str:
    text = str(error)
    if len(text) > _READ_CHARS:  # the last word may be half a key
        text = re.sub(r"\S*\Z", "", text[:_READ_CHARS])
    return redact(" ".join(text.split()))[:_SHOWN_CHARS]


_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)(_ID)?$", re.IGNORECASE)
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
