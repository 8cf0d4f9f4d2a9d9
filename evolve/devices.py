"""Which accelerators a training or a score sees: one each by default, a part of one, or several, on this machine.

No accelerator is touched here: the names are those of `CUDA_VISIBLE_DEVICES`, and a process that sees one device sees it as
number 0. A fraction divides nothing but the number of processes on a device; its memory is theirs to share.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from evolve.errors import BadInput

VARIABLE = "CUDA_VISIBLE_DEVICES"
_DRIVER = Path("/proc/driver/nvidia/gpus")


def visible(environment: Mapping[str, str] = os.environ, driver: Path = _DRIVER) -> list[str]:
    """The devices that this process may use, as `CUDA_VISIBLE_DEVICES` names them; all of the machine's where it is not set."""
    if (named := environment.get(VARIABLE)) is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    return [str(i) for i in range(len(list(driver.iterdir())))] if driver.is_dir() else []


def slots(names: Sequence[str], each: float) -> list[str]:
    """What the processes that run at once see, one entry for each of them.

    `each`: devices for one process, a whole number or a fraction below 1. Fractions fill the devices evenly.

    >>> slots(["0", "1", "2"], 1)
    ['0', '1', '2']
    >>> slots(["0", "1"], 0.5)
    ['0', '1', '0', '1']
    >>> slots(["0", "1", "2", "3"], 2)
    ['0,1', '2,3']
    """
    if not each > 0 or (each > 1 and each != int(each)):
        raise BadInput(
            f"executor.gpus_per_trial must be a whole number or a fraction below 1, but got {each}; correct it."
        )
    if each < 1:
        return [name for _ in range(math.floor(1 / each + 1e-9)) for name in names]
    size = int(each)
    return [",".join(names[i : i + size]) for i in range(0, len(names) - size + 1, size)]


class Devices:
    """Hands the slots out to threads, each to one at a time; the one that was given back last goes out last."""

    def __init__(self, free: Sequence[str]) -> None:
        self._free, self._changed = list(free), threading.Condition()

    @contextlib.contextmanager
    def one(self) -> Iterator[str]:
        """Waits for a free slot. Its value is for `CUDA_VISIBLE_DEVICES`."""
        with self._changed:
            self._changed.wait_for(lambda: self._free)
            slot = self._free.pop(0)
        try:
            yield slot
        finally:
            with self._changed:
                self._free.append(slot)
                self._changed.notify()
