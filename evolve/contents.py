"""sha256 of files and trees: what was taken is what runs."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path


def file_hash(path: Path) -> str:
    """sha256 of a file's content, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_hash(root: Path, files: Iterable[Path], of: Callable[[Path], str] = file_hash) -> str:
    """sha256 over names and contents of `files` (relative to `root`); `of` says the hash of one content."""
    total = hashlib.sha256()
    for relative in files:
        total.update(f"{relative.as_posix()}\0{of(root / relative)}\n".encode())
    return total.hexdigest()


class Contents:
    """`file_hash`, by which a file is read again only where its device, inode, size or times have changed: the time of the
    change (ctime) is the kernel's, and no program can set it back. For several threads: each file is read by one of them."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[tuple[int, ...], str]] = {}
        self._lock = threading.Lock()

    def hash(self, path: Path) -> str:
        """Raises `OSError` where it cannot be read."""
        with self._lock:
            stamp = _stamp(path)  # before its content: what is written meanwhile is seen the next time
            seen = self._seen.get(path)
            if seen is None or seen[0] != stamp:
                seen = self._seen[path] = stamp, file_hash(path)
            return seen[1]


def _stamp(path: Path) -> tuple[int, ...]:
    info = path.stat()
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns
