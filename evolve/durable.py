"""Files that are written as a whole: after a crash or a power cut the old content is there, or the new one."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def write(path: Path, data: bytes | str) -> None:
    """Replaces `path`, atomically and durably. Several threads and processes may at once: one of them is the last."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)  # of a full disk
        raise
