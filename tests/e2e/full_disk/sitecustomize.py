"""A disk that is full from the n-th write on, for a controller that finds this folder on PYTHONPATH.

FULL_AT: from which write on; FULL_PLACE: below which folder; FULL_COUNT: a file that the number of writes is left in. A write
is whatever needs room: a file opened for writing, made, renamed or synced, a folder made, bytes written by descriptor.
"""

from __future__ import annotations

import atexit
import builtins
import errno
import io
import os
import sys
import threading
from typing import Any

_at, _place = int(os.environ["FULL_AT"]), os.environ["FULL_PLACE"]
_count, _lock = 0, threading.Lock()
_open, _io_open = os.open, io.open


def _needs_room(place: Any) -> None:
    global _count
    if isinstance(place, int):
        place = os.readlink(f"/proc/self/fd/{place}")
    place = os.path.abspath(os.fsdecode(place))
    if not place.startswith(_place):
        return
    with _lock:
        _count += 1
        if _count >= _at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), place)


def _guard(name: str, which: int) -> None:
    real = getattr(os, name)

    def guarded(*words: Any, **options: Any) -> Any:
        _needs_room(words[which])
        return real(*words, **options)

    setattr(os, name, guarded)


for _name, _which in (("write", 0), ("fsync", 0), ("mkdir", 0), ("replace", 1), ("rename", 1), ("link", 1)):
    _guard(_name, _which)


def _guarded_os_open(path: Any, flags: int, *words: Any, **options: Any) -> int:
    if flags & os.O_CREAT and options.get("dir_fd") is None:
        _needs_room(path)
    return _open(path, flags, *words, **options)


def _guarded_open(file: Any, mode: str = "r", *words: Any, **options: Any) -> Any:
    if set(mode) & set("wax+") and not isinstance(file, int):
        _needs_room(file)
    return _io_open(file, mode, *words, **options)


def _leave_count() -> None:
    with _io_open(os.environ["FULL_COUNT"], "w") as file:
        file.write(str(_count))


if sys.argv[0] != "-c":
    os.open = _guarded_os_open
    io.open = builtins.open = _guarded_open
    atexit.register(_leave_count)
