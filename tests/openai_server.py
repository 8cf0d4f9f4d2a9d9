"""A server on loopback that speaks the OpenAI protocol, and misbehaves as told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from evolve.ports import Completion

KEY = "sk-canary-0123456789abcdef"


@dataclass(frozen=True)
class Reply:
    """One answer of the server. `body` replaces the well-formed one; `hang` keeps silent until the test is over.

    `drip` sends a byte now and then, often enough that no wait for bytes is long, until the test is over; `tool_calls`
    are (id, name, arguments). `cut` breaks the connection in the middle of the body.
    """

    text: str | None = "hello"
    finish: str = "stop"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str = "application/json"
    tokens: tuple[int, int] | None = (30, 12)
    hang: bool = False
    reset: bool = False
    drip: bool = False
    cut: bool = False
    tool_calls: tuple[tuple[str, str, str], ...] = ()
    cached: int = 0

    def payload(self) -> bytes:
        if self.body is not None:
            return self.body
        if self.status != 200:
            return json.dumps({"error": {"message": f"status {self.status} for key {KEY}", "type": "x"}}).encode()
        answer: dict[str, Any] = {"id": "1", "object": "chat.completion", "created": 1, "model": "served"}
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.tool_calls:
            message["tool_calls"] = [
                {"id": i, "type": "function", "function": {"name": name, "arguments": arguments}}
                for i, name, arguments in self.tool_calls
            ]
        answer["choices"] = [{"index": 0, "finish_reason": self.finish, "message": message}]
        if self.tokens:
            prompt, completion = self.tokens
            answer["usage"] = {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
                "prompt_tokens_details": {"cached_tokens": self.cached},
            }
        return json.dumps(answer).encode()


class Server(ThreadingHTTPServer):
    """Gives its replies in order, the last one for ever, and keeps the requests; or what `model` says to the messages."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[Reply] = []
        self.model: Callable[[list[dict[str, Any]]], Completion] | None = None
        self.requests: list[dict[str, Any]] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: object) -> None: ...

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        number = len(self.server.requests)
        self.server.requests.append({**body, "key": self.headers["authorization"]})
        if self.server.model is not None:
            said = self.server.model(body["messages"])
            reply = Reply(said.text, tool_calls=tuple((c.id, c.name, c.arguments) for c in said.tool_calls))
        else:
            reply = self.server.replies[min(number, len(self.server.replies) - 1)]
        if reply.hang:
            self.server.over.wait(30)
        if reply.hang or reply.reset:
            self.close_connection = True
            return
        payload = reply.payload()
        self.send_response(reply.status)
        self.send_header("content-type", reply.content_type)
        self.send_header("content-length", str(10**6 if reply.drip else len(payload)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if reply.cut:
            self.wfile.write(payload[: len(payload) // 2])
            self.close_connection = True
            return
        with suppress(OSError):  # the client has gone
            while reply.drip and not self.server.over.wait(0.02):
                self.wfile.write(b" ")
                self.wfile.flush()
            self.wfile.write(payload)


@contextmanager
def serving() -> Iterator[Server]:
    """A running server, ended with all its waiting requests."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()
