"""Who is told that something waits: a command and a webhook, once, without a say in anything."""

from __future__ import annotations

import http.server
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from inline import Inline, Scripted

from evolve import gate, notify
from evolve.loop import Watcher
from evolve.notify import Notifier, payload, target
from evolve.state import State
from evolve.types import Approval, Decided, GateRules, Record, StopRequested

BEST = {"x": 0.8, "mode": "b", "z": 4}
TICK = Record(1, 0.0, StopRequested("", ""))  # any event: what counts is the state


@pytest.fixture
def pending(tmp_path: Path) -> State:
    campaign = Inline(tmp_path / "c", Scripted([BEST]))
    campaign.run()
    assert len(campaign.state.pending) == 1
    return campaign.state


class Server:
    """A webhook on loopback: keeps what it is sent, answers as told."""

    def __init__(self) -> None:
        self.got: list[dict[str, object]] = []
        self.status, self.delay, self.location = 200, 0.0, ""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                time.sleep(outer.delay)
                self.send_response(outer.status)
                if outer.location:
                    self.send_header("Location", outer.location)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook?token=hush"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


class Sent:
    """A way to send that keeps what it got, and fails where it is told to."""

    def __init__(self, fails: int = 0) -> None:
        self.bodies: list[dict[str, object]] = []
        self.tries, self._fails = 0, fails

    def __call__(self, body: bytes) -> None:
        self.tries += 1
        if self.tries <= self._fails:
            raise OSError("no route")
        self.bodies.append(json.loads(body))


def session(
    folder: Path, send: Callable[[bytes], None], *states: State, warn: Callable[[str], None] = lambda line: None
) -> None:
    """One session that sees these states, to its orderly end."""
    notifier = Notifier(Watcher(), send, folder / "notified.json", every_hours=None, warn=warn)
    for state in states:
        notifier.event(TICK, state)
        notifier.event(TICK, state)
    notifier.close()


def test_what_is_sent_says_what_waits_how_much_better_and_how_to_decide(pending: State) -> None:
    (request,) = pending.pending.values()
    body = payload(pending, request.candidate_id)
    assert body["event"] == "waiting"
    assert (body["campaign"], body["candidate"]) == ("inline", request.candidate_id)
    assert body["content_hash"] == request.content_hash
    assert body["decide"] == "evolve review --campaign inline"
    assert str(body["interval_text"]).startswith("better by 0.1")
    assert body["promise"] == gate.promise(GateRules()) and str(body["promise"]).startswith(
        "at most 5% that a campaign"
    )
    assert "This message decides nothing" in body["text"] and "evolve review" in body["text"]
    reminder = payload(pending, request.candidate_id, reminder=True)
    assert reminder["event"] == "reminder"
    assert "it approves nothing" in reminder["text"]
    raw = json.dumps(body)
    for secret in ("secret", "token", str(Path.home())):
        assert secret not in raw


def test_each_candidate_is_told_once_also_over_restarts(pending: State, tmp_path: Path) -> None:
    sent = Sent()
    session(tmp_path, sent, replace(pending, pending={}), pending)
    session(tmp_path, sent, pending)
    assert [b["event"] for b in sent.bodies] == ["waiting"]


def test_what_a_crash_or_a_failure_cut_off_is_tried_once_more_and_then_never_again(
    pending: State, tmp_path: Path
) -> None:
    sent, warnings = Sent(fails=99), list[str]()
    for _ in range(4):
        session(tmp_path, sent, pending, warn=warnings.append)
    assert sent.tries == 2
    assert len(warnings) == 2, "once a session"
    assert "no route" in warnings[0] and "the campaign goes on" in warnings[0]


def test_a_failure_is_one_warning_however_much_fails(pending: State, tmp_path: Path) -> None:
    (request,) = pending.pending.values()
    more = {request.candidate_id: request} | {
        c: replace(request, candidate_id=c) for c in pending.entries if c != request.candidate_id
    }
    warnings = list[str]()
    session(tmp_path, Sent(fails=99), replace(pending, pending=more), warn=warnings.append)
    assert len(more) > 1 and len(warnings) == 1


def test_reminders_come_while_it_waits_and_end_with_the_decision(pending: State, tmp_path: Path) -> None:
    sent = Sent()
    notifier = Notifier(Watcher(), sent, tmp_path / "n.json", every_hours=0.05 / 3600, warn=lambda line: None)
    notifier.event(TICK, pending)
    deadline = time.monotonic() + 20
    while len(sent.bodies) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [b["event"] for b in sent.bodies][:3] == ["waiting", "reminder", "reminder"]
    notifier.event(TICK, replace(pending, pending={}))
    time.sleep(0.1)
    count = len(sent.bodies)
    time.sleep(0.3)
    assert len(sent.bodies) == count
    notifier.close()


def test_the_watcher_inside_sees_every_event(pending: State, tmp_path: Path) -> None:
    class Inner(Watcher):
        seen = 0

        def event(self, record: Record, state: State) -> None:
            self.seen += 1

        def progress(self, trial: object, point: object) -> None:
            self.seen += 1

    inner = Inner()
    notifier = Notifier(inner, Sent(), tmp_path / "n.json", every_hours=None, warn=lambda line: None)
    notifier.event(Record(1, 0.0, Decided(Approval("", "reject", "", ""))), pending)
    notifier.progress(None, None)  # type: ignore[arg-type]
    notifier.close()
    assert inner.seen == 2


def test_a_webhook_gets_the_json_by_post(server: Server) -> None:
    target(server.url)(b'{"a": 1}')
    assert server.got == [{"a": 1}]


@pytest.mark.parametrize("status", [301, 302, 307, 404, 500])
def test_a_webhook_that_refuses_or_sends_elsewhere_has_failed(server: Server, status: int) -> None:
    server.status, server.location = status, f"{server.url}/elsewhere"
    with pytest.raises(OSError, match=f"it answered {status}") as caught:
        target(server.url)(b"{}")
    assert "hush" not in str(caught.value), "the address may hold a token"
    assert len(server.got) == 1


def test_a_webhook_that_is_not_there_has_failed_without_naming_its_address() -> None:
    with pytest.raises(OSError, match="ConnectionRefusedError") as caught:
        target("http://127.0.0.1:9/hook?token=hush")(b"{}")
    assert "hush" not in str(caught.value)


def test_who_hangs_costs_the_loop_nothing_and_is_a_warning(
    pending: State, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "SEND_SECONDS", 0.3)
    server.delay = 5.0
    for to in (server.url, [sys.executable, "-c", "import time; time.sleep(60)"]):
        warnings = list[str]()
        notifier = Notifier(
            Watcher(), target(to), tmp_path / f"{len(to)}.json", every_hours=None, warn=warnings.append
        )  # fmt: skip
        before = time.monotonic()
        notifier.event(TICK, pending)
        assert time.monotonic() - before < 0.25, "it is sent by another thread"
        notifier.close(timeout_seconds=20)
        assert len(warnings) == 1 and "must answer within" in warnings[0]


def test_a_command_gets_the_json_on_its_input_without_a_shell(tmp_path: Path) -> None:
    script = tmp_path / "tell me.py"
    out = tmp_path / "told"
    script.write_text("import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + repr(sys.argv[2:]))")
    target(f"{sys.executable} '{script}' {out} '$HOME;' > x")(b'{"a": 1}')
    assert out.read_text() == """{"a": 1}['$HOME;', '>', 'x']"""
    target([sys.executable, str(script), str(out)])(b"{}")
    assert out.read_text().endswith("{}[]")


def test_a_command_that_fails_says_how(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="exit code 3: no mail"):
        target(
            [
                sys.executable,
                "-c",
                "import sys; sys.stderr.write('no \\x1b[31m mail'.replace('[31m ', '')); sys.exit(3)",
            ]
        )(b"{}")
    with pytest.raises(OSError):
        target(["/no/such/command"])(b"{}")


def test_a_file_of_tries_that_cannot_be_read_or_written_is_no_fault(pending: State, tmp_path: Path) -> None:
    (tmp_path / "notified.json").write_text("[1, 2")
    sent = Sent()
    session(tmp_path, sent, pending)
    assert len(sent.bodies) == 1
    warnings = list[str]()
    session(tmp_path / "missing", sent, pending, warn=warnings.append)
    assert len(sent.bodies) == 2 and len(warnings) == 1
