"""A stand-in for the Hugging Face hub on loopback: one repository with one commit, for tests of what is fetched from there."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "ab" * 20


@contextmanager
def hub(repo: str, files: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Serves `repo` as a model; yields the endpoint and the requests so far."""
    asked: list[str] = []
    listed = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
    tree = [{"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()} for n, c in files.items()]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            if self.path.startswith(f"/api/models/{repo}/"):
                self.answer(json.dumps(tree if "/tree/" in self.path else listed).encode(), {})
            elif self.path.startswith(f"/{repo}/resolve/") and (name := self.path.rsplit("/", 1)[1]) in files:
                tag = hashlib.sha1(files[name]).hexdigest()
                self.answer(files[name], {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})
            else:
                self.send_error(404)

        do_HEAD = do_GET

        def answer(self, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(200)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
