"""Does a campaign find, and get accepted, an edit of the harness by itself? From the default harness, end to end.

    python benchmarks/edit_campaign.py playbook|scripted [--subject arithmetic] [--trials 40] [--workers 2]

In a clone of this repository, whose git history the promotion's commit goes to: `evolve run`, then the approval of the best edit that
waits, by its whole hash, then `evolve rollback`. `scripted` asks `advisors.editor`, a script and no language model, through a
server on loopback that speaks the OpenAI protocol. Printed: minutes until the first edit is accepted and in all, what waits,
the branch's log after promotion and rollback, and what has changed in the checkout (nothing may).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from evolve import advisors

ROOT = Path(__file__).parent.parent


class Handler(BaseHTTPRequestHandler):
    """Answers chat completions by `advisors.editor`."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        completion = advisors.editor(request["messages"])
        calls = [{"id": f"{time.time_ns()}-{n}", "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                 for n, c in enumerate(completion.tool_calls)]  # fmt: skip
        message = {"role": "assistant", "content": completion.text} | ({"tool_calls": calls} if calls else {})
        answer = {
            "id": "1", "object": "chat.completion", "created": 1, "model": "scripted",
            "choices": [{"index": 0, "finish_reason": "tool_calls" if calls else "stop", "message": message}],
            "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
        }  # fmt: skip
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("who", choices=["playbook", "scripted"])
    parser.add_argument("--subject", default="arithmetic")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_intermixed_args()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as name:
        clone, folder = Path(name) / "clone", Path(name) / "work"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        folder.mkdir()

        def evolve(*words: str, good: tuple[int, ...] = (0,)) -> str:
            done = subprocess.run([sys.executable, "-m", "evolve.cli", *words], cwd=folder, capture_output=True, text=True,
                                  check=False, env=os.environ | {"OPENAI_API_KEY": "sk-none"})  # fmt: skip
            if done.returncode not in good:
                sys.exit(f"evolve {' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
            return done.stdout

        def git(*words: str) -> str:
            return subprocess.run(
                ["git", "-C", str(clone), *words], capture_output=True, text=True, check=True
            ).stdout.strip()

        asked = [f"subject={arguments.subject}", f"subject.root={clone}", "campaign=edits", "start=default",
                 f"budget.trials={arguments.trials}", f"executor.workers={arguments.workers}"]  # fmt: skip
        if arguments.who == "scripted":
            asked += ["proposer=agent", "agent.model=openai/scripted", "agent.tools=true", "agent.price_in=0", "agent.price_out=0",
                      f"agent.api_base=http://127.0.0.1:{server.server_port}/v1"]  # fmt: skip
        else:
            asked += ["proposer=playbook"]
        before = (git("rev-parse", "HEAD"), git("status", "--porcelain"), (clone / ".git" / "index").read_bytes())
        print(
            f"{time.strftime('%Y-%m-%d %H:%M')} load {os.getloadavg()[0]:.1f}: evolve run {' '.join(asked)}", flush=True
        )
        started = time.time()
        evolve("run", *asked, *arguments.overrides)
        minutes = (time.time() - started) / 60
        log = [json.loads(line) for line in evolve("log", "--json").splitlines()]
        waiting = json.loads(evolve("review", "--json"))["waiting"]
        edits = [w for w in waiting if w["patch"]]
        requested = [e for e in log if e["type"] == "ApprovalRequested"
                     and e["data"]["request"]["candidate_id"] in {w["candidate"] for w in edits}]  # fmt: skip
        first = (requested[0]["time"] - log[0]["time"]) / 60 if requested else float("nan")
        print(f"{minutes:.1f} minutes in all; the first edit was accepted after {first:.1f}")
        print(evolve("status"))
        for w in waiting:
            what = w["claims"]["rationale"].split(";")[0][:110]
            print(
                f"waits {w['candidate'][:8]} {'edit' if w['patch'] else 'parameters'}: {w['interval_text']}; by {w['claims']['proposer']}: {what}"
            )
            if w["patch"]:
                print(f"      {w['integrity']}")
        if not edits:
            sys.exit("no edit was accepted")
        best = max(edits, key=lambda w: w["interval"]["estimate"])
        print(evolve("approve", best["candidate"], "--yes", best["content_hash"], "--by", "Ada"))
        branch = f"evolve/{arguments.subject}"
        print(git("log", "-1", "--stat", "--format=%an %s%n%n%b", branch))
        print(evolve("rollback", "--reason", "to show that it goes back"))
        print(git("log", "--oneline", "-3", branch))
        print("content is the start's again:", not git("diff", "HEAD", branch, "--stat"))
        after = (git("rev-parse", "HEAD"), git("status", "--porcelain"), (clone / ".git" / "index").read_bytes())
        print("checkout, index and HEAD untouched:", after == before)


if __name__ == "__main__":
    main()
