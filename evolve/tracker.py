"""The program that carries a campaign's journal to MLflow: `python -m evolve.tracker carry FOLDER`. mlflow lives here.

It follows the journal's file itself. What the controller says (`tracking_process.py`) comes on standard input: first a line
of JSON with the store, then one line each time: `SEQ` (the journal is written up to there) or `SEQ TURN` (and try now, also
after a failure). It answers in lines of JSON on standard output: `{"carried": SEQ}`, `{"held": SEQ, "turn": TURN}` after a
failure, `{"warn": TEXT}` for a person, `{"failed": TEXT}` before it gives up. Where standard input is closed it finishes the
event in hand and ends.

`python -m evolve.tracker register FOLDER` brings the model registry up to date once, and answers `{"lines": [...]}`.
"""

from __future__ import annotations

import gc
import json
import os
import select
import sys
import time
from pathlib import Path
from typing import Any

from evolve.campaign import Folder, load
from evolve.errors import EvolveError, TrackingFailed
from evolve.journal import Follower
from evolve.tracking import RETRY_SECONDS, Carrier
from evolve.types import Record
from evolve.weights import WeightStore

_REPORT_SECONDS = 1.0  # between two answers while there is a backlog


def main() -> int:
    what, folder = sys.argv[1], Path(sys.argv[2])
    orders = _Orders(sys.stdin.fileno())
    try:
        if what == "register":
            _register(Folder(folder), orders.settings())
        else:
            _carry(folder, orders)
    except BrokenPipeError:  # nobody listens any more
        return 1
    except Exception as error:  # noqa: BLE001 - said to the controller, which says it to the person
        _say(failed=str(error) if isinstance(error, EvolveError) else f"{type(error).__name__}: {error}")
        return 1
    return 0


def _say(**line: Any) -> None:
    print(json.dumps(line), flush=True)


class _Orders:
    """What the controller has said so far."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._rest = descriptor, b""
        self.seq, self.turn = 0, 0

    def settings(self) -> dict[str, Any]:
        """The first line."""
        while b"\n" not in self._rest:
            self._read()
        line, _, self._rest = self._rest.partition(b"\n")
        settings: dict[str, Any] = json.loads(line)
        return settings

    def listen(self, *, wait: bool) -> bool:
        """Takes up what has been said, and with `wait` waits for the next word. False where there will be none."""
        wait = wait and b"\n" not in self._rest  # which may have come with the first line
        try:
            while wait or select.select([self._descriptor], [], [], 0)[0]:
                wait = False
                self._read()
        except EOFError:
            return False
        finally:
            *lines, self._rest = self._rest.split(b"\n")
            for line in lines:
                seq, *turn = map(int, line.split())
                self.seq, self.turn = max(self.seq, seq), max([self.turn, *turn])
        return True

    def _read(self) -> None:
        data = os.read(self._descriptor, 65536)
        if not data:
            raise EOFError("the controller has closed the line")
        self._rest += data


def _carry(folder: Path, orders: _Orders) -> None:
    settings = orders.settings()
    carrier = Carrier(settings["uri"], folder, warn=lambda text: _say(warn=text), artifacts=settings["artifacts"])
    journal = Follower(folder / "journal.jsonl")
    waiting: list[Record] = []  # read, and not carried over yet: at most one, since a backlog stays in the file
    held: tuple[int, int] | None = None  # what had been said at the latest failure
    retry_at = said_at = 0.0
    frozen = False
    while orders.listen(wait=held is not None or (not waiting and journal.seq >= orders.seq)):
        if held is not None:
            if orders.turn == held[1] and (orders.seq == held[0] or time.monotonic() < retry_at):
                continue
            held = None
        for record in waiting or journal.read(orders.seq):
            waiting = [record]
            if not carrier.carry(record, behind=record.seq < orders.seq):
                held, retry_at = (orders.seq, orders.turn), time.monotonic() + RETRY_SECONDS
                _say(held=record.seq, turn=orders.turn)
                break
            waiting = []
            if not frozen and "mlflow" in sys.modules:
                frozen = True
                gc.freeze()  # a collection need not look at all that mlflow has imported
            if record.seq == orders.seq or time.monotonic() > said_at + _REPORT_SECONDS:
                said_at = time.monotonic()
                _say(carried=record.seq)
            if select.select([sys.stdin], [], [], 0)[0]:
                break  # there is news, perhaps of the end
    carrier.close()


def _register(folder: Folder, settings: dict[str, Any]) -> None:
    from evolve.registry import MlflowRegistry

    registry = MlflowRegistry(settings["uri"], folder.path, WeightStore(folder.weights).path)
    try:
        _say(lines=registry.sync(load(folder), check=settings["check"]))
    except TrackingFailed as error:
        _say(failed=str(error))


if __name__ == "__main__":
    sys.exit(main())
