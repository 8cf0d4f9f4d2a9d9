"""What a training has used so far, in a small file: it is counted also where the training dies together with its controller.

    begin: before the process starts     look: while it runs     over: what the kernel counted at its end     remove: journalled

`Account` is the side of the session that runs it, `left` that of the next one, for what has no end in the journal.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from evolve import sandbox
from evolve.types import Usage

_LOOK_SECONDS = 0.5  # between two looks at most; well below what `left` adds
UNSEEN_SECONDS = 1.0  # between the last look and the end, at most
_BYTES = 4000  # of the file: one write of a line that covers the one before, so that a kill leaves one or the other


class Account:
    """The file of one training. Not for several threads at once."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._begun = self._looked = time.monotonic()
        self._write(Usage(0.0, 0.0, 0.0), {}, over=False)

    def look(self, first: int) -> None:
        """At the process `first` and all that it has made; does nothing where the last look was a moment ago."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_SECONDS / 2:
            seen = sandbox.family(first)
            self._looked = now
            self._write(Usage(sum(seen.values()), now - self._begun, 0.0), seen, over=False)

    def over(self, usage: Usage) -> None:
        self._write(usage, {}, over=True)

    def close(self) -> None:
        os.close(self._fd)

    def _write(self, usage: Usage, seen: dict[int, float], *, over: bool) -> None:
        told = {"cpu": usage.cpu_seconds, "wall": usage.wall_seconds, "over": over}
        line = json.dumps(told | {"seen": dict(list(seen.items())[:100])})
        os.pwrite(self._fd, line.ljust(_BYTES).encode(), 0)


def left(path: Path, alive: dict[int, float]) -> Usage | None:
    """The most that a killed session's training can have used; None where it never began.

    That is what was seen last, a second on all processors, and what those of its processes that are `alive` (CPU seconds by
    process id) have used since.
    """
    try:
        told = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:  # killed before the first write, and the process starts after it
        return None
    if told["over"]:
        return Usage(told["cpu"], told["wall"], 0.0)
    since = sum(max(0.0, seconds - told["seen"].get(str(pid), 0.0)) for pid, seconds in alive.items())
    cpu = told["cpu"] + since + UNSEEN_SECONDS * (os.cpu_count() or 1)
    return Usage(cpu, told["wall"] + UNSEEN_SECONDS, 0.0)
