"""Tells people elsewhere that something waits: a command that reads JSON, or a webhook that takes it.

It is a `loop.Watcher`, wrapped around the one that draws the progress: it needs each event as it happens together with
the state that includes it, in microseconds and without a say. A tracker's place would be wrong: a tracker is fed the whole
journal again at each start and must then carry everything over; a notification that is hours late, or comes again for
all of history, is worse than none. What is sent leaves in a thread of its own, with a time-out; what fails is a warning,
once a session, and changes no decision.

Across restarts `notified.json` in the campaign's folder counts the tries of each content before they are made: one that a
crash may have cut off is sent once more, no more often. Reminders come while a controller runs and the candidate
waits; they approve nothing, and say so.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import shlex
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evolve import durable, waiting
from evolve.loop import Watcher
from evolve.state import State
from evolve.tracking_page import plain
from evolve.types import Progress, Record, Trial, short

SEND_SECONDS = 15.0
_TRIES = 2  # of one content, over all sessions
_KEPT = 200  # contents in notified.json
_NOTE = "This message decides nothing, and no answer to it does."
_REMINDER_NOTE = "This is a reminder: it approves nothing, and without a person's decision nothing is promoted, however long it waits."


def payload(state: State, candidate_id: str, *, reminder: bool = False) -> dict[str, Any]:
    """What is sent about a candidate that waits: facts, how to decide, and its claims, cleaned. No secret and no path."""
    request = waiting.request_of(state, candidate_id)
    assert request is not None, "only what waits is told of"
    data = waiting.describe(state, request)
    if request.kind == "eval":
        return _evaluation_payload(state, data, reminder=reminder)
    keep = ("campaign", "candidate", "content_hash", "kind", "metric", "direction", "interval", "interval_text", "gate",
            "promise", "parameters", "approvals_needed", "claims")  # fmt: skip
    decide = f"evolve review --campaign {data['campaign']}"
    still = "still waits" if reminder else "waits"
    text = (
        f"{short(candidate_id)} of {data['campaign']} {still} for a person: {data['metric']} {data['interval_text']};"
        f" promise: {data['promise']}. Decide with `{decide}`."
    )
    return {
        "event": "reminder" if reminder else "waiting",
        "text": f"{text} {_REMINDER_NOTE if reminder else _NOTE}",
        "subject": state.campaign.subject.name,
        **{key: data[key] for key in keep},
        "decide": decide,
    }


def _evaluation_payload(state: State, data: dict[str, Any], *, reminder: bool) -> dict[str, Any]:
    """The same about a proposed evaluation, without its code: that is read at the prompt."""
    keep = ("campaign", "candidate", "content_hash", "kind", "metric", "form", "facts", "approvals_needed",
            "confirmations_needed", "claims")  # fmt: skip
    decide = f"evolve review --campaign {data['campaign']}"
    text = f"The evaluation {short(data['candidate'])} of {data['campaign']} {'still waits' if reminder else 'waits'} for a person"
    return {
        "event": "reminder" if reminder else "waiting",
        "text": f"{text}, who must confirm twice. Decide with `{decide}`. {_REMINDER_NOTE if reminder else _NOTE}",
        "subject": state.campaign.subject.name,
        **{key: data[key] for key in keep},
        "decide": decide,
    }


def target(to: str | Sequence[str]) -> Callable[[bytes], None]:
    """Who is told: a URL (http, https) gets a POST, anything else is a command without a shell, the JSON on its input.

    The function raises `OSError` or `ValueError` where that failed.
    """
    if isinstance(to, str) and is_url(to):
        return lambda body: _post(to, body)
    command = shlex.split(to) if isinstance(to, str) else list(to)
    return lambda body: _run(command, body)


def is_url(to: str) -> bool:
    return to.lower().startswith(("http://", "https://"))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What was sent to one address goes to no other."""

    def redirect_request(self, *arguments: Any, **more: Any) -> None:
        return None


def _post(url: str, body: bytes) -> None:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", "User-Agent": "evolve"})
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=SEND_SECONDS):
            pass
    except urllib.error.HTTPError as error:
        raise OSError(f"it answered {error.code}") from None  # its own text may hold the address, and that a token
    except urllib.error.URLError as error:
        raise OSError(type(error.reason).__name__) from None
    except http.client.HTTPException as error:
        raise OSError(type(error).__name__) from None


def _run(command: Sequence[str], body: bytes) -> None:
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        _, said = process.communicate(body, timeout=SEND_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):  # what it started goes with it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise OSError(f"it took more than {SEND_SECONDS:.0f} s") from None
    if process.returncode != 0:
        raise OSError(f"exit code {process.returncode}: {plain(said.decode(errors='replace'), 120)}")


class Notifier(Watcher):
    """Sends what begins to wait, and reminders; hands every event on to `inner`.

    Args:
        send: as `target` makes it.
        tried: the file that counts tries.
        every_hours: between reminders; None sends none.
        warn: gets one line at most.
    """

    def __init__(
        self,
        inner: Watcher,
        send: Callable[[bytes], None],
        tried: Path,
        *,
        every_hours: float | None,
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner, self._send, self._path, self._warn, self._clock = inner, send, tried, warn, clock
        self._every = None if every_hours is None else every_hours * 3600
        self._tried = _read_tried(tried)
        self._open: dict[str, tuple[dict[str, Any], float]] = {}  # content that waits -> its reminder, when it is due
        self._lock = threading.Lock()
        self._outgoing: queue.SimpleQueue[tuple[str, dict[str, Any]] | None] = queue.SimpleQueue()
        self._warned = False
        self._thread: threading.Thread | None = None

    # ------------------------------------------------ in the loop's thread

    def event(self, record: Record, state: State) -> None:
        self._inner.event(record, state)
        if self._waits(state).keys() != self._open.keys():
            try:
                self._changed(state)
            except Exception as error:  # noqa: BLE001  whatever is wrong with a message, the campaign goes on
                self._fail(repr(error))

    def progress(self, trial: Trial, point: Progress) -> None:
        self._inner.progress(trial, point)

    @staticmethod
    def _waits(state: State) -> dict[str, str]:
        """content -> its id, of all that can be decided on."""
        return {r.content_hash: r.candidate_id for r in waiting.requests(state) if r.candidate_id not in state.stale}

    def _changed(self, state: State) -> None:
        now = self._waits(state)
        with self._lock:
            for content in [c for c in self._open if c not in now]:
                del self._open[content]
            for content in [c for c in now if c not in self._open]:
                due = self._clock() + (self._every or 0.0)
                self._open[content] = (payload(state, now[content], reminder=True), due)
                self._outgoing.put((content, payload(state, now[content])))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="evolve-notify", daemon=True)
            self._thread.start()

    def close(self, timeout_seconds: float = SEND_SECONDS) -> None:
        """Waits so long for what is to be sent; what is not by then is left, and tried once more by the next session."""
        if self._thread is not None:
            with self._lock:
                self._open.clear()
            self._outgoing.put(None)
            self._thread.join(timeout_seconds)

    # ------------------------------------------------ in the thread

    def _work(self) -> None:
        while True:
            try:
                message = self._outgoing.get(timeout=self._until_due())
            except queue.Empty:
                self._remind()
                continue
            if message is None:
                return
            content, body = message
            if self._tried.get(content, 0) >= _TRIES or self._tried.get(content, 0) < 0:
                continue
            self._count(content, self._tried.get(content, 0) + 1)
            if self._deliver(body):
                self._count(content, -1)

    def _until_due(self) -> float | None:
        """Seconds to the next reminder; None without any."""
        if self._every is None:
            return None
        with self._lock:
            due = min((due for _, due in self._open.values()), default=None)
        return self._every if due is None else max(0.0, due - self._clock())

    def _remind(self) -> None:
        assert self._every is not None
        now, bodies = self._clock(), []
        with self._lock:
            for content, (body, due) in self._open.items():
                if due <= now:
                    self._open[content] = (body, now + self._every)
                    bodies.append(body)
        for body in bodies:
            self._deliver(body)

    def _deliver(self, body: dict[str, Any]) -> bool:
        """Bounded also where the other side answers a byte at a time or a name is not resolved: left behind after the time."""
        failed: list[str] = [f"it took more than {SEND_SECONDS:.0f} s"]
        data = json.dumps(body, allow_nan=False).encode()

        def send() -> None:
            try:
                self._send(data)
                failed.clear()
            except (OSError, ValueError) as error:
                failed[:] = [str(error) or type(error).__name__]

        thread = threading.Thread(target=send, name="evolve-notify-send", daemon=True)
        thread.start()
        thread.join(SEND_SECONDS + 1)
        if failed:
            self._fail(failed[0])
        return not failed

    def _fail(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            self._warn(
                f"notify: whoever is told must answer within {SEND_SECONDS:.0f} s, but {plain(reason)}; the campaign goes"
                " on, and `evolve review` shows what waits"
            )

    def _count(self, content: str, tries: int) -> None:
        """-1: it has been sent. Written before the try, so that no crash makes one free."""
        self._tried.pop(content, None)
        self._tried[content] = tries
        try:
            durable.write(self._path, json.dumps(dict(list(self._tried.items())[-_KEPT:])))
        except OSError as error:
            if not self._warned:
                self._warned = True
                self._warn(
                    f"notify: {self._path.name} must be writable, but {error}; a restart may tell the same again"
                )


def _read_tried(path: Path) -> dict[str, int]:
    """Content -> tries; nothing where the file is not one of ours."""
    try:
        raw = json.loads(path.read_text())
        return {str(k): int(v) for k, v in raw.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
