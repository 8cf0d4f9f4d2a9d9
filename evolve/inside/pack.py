"""The files that a training leaves, as one file: a safetensors file with one tensor of bytes for each, by its relative path.

Used on both sides of the sandbox's wall: by `launch.py` inside, and by the controller for trainings outside; standard library
only. Nothing may still run that could change the folder.
"""

import fnmatch
import json
import os
import stat
import struct

MOST_FILES = 1000
MOST_NAME = 200  # characters of a path


class Unpackable(ValueError):
    """A rule that the folder breaks, on one line."""


def pack(root: int, patterns: list[str], most: int, target: int) -> None:
    """Writes the files below the folder `root` that match a pattern to `target`, both descriptors, in the order of names.

    A pattern is `fnmatch`'s, on the path relative to the folder; `*` spans folders too. `most`: bytes of all together.
    Raises `Unpackable`, and `OSError` where `target` does not take it.
    """
    found: dict[str, int] = {}
    for folder, folders, names, here in os.fwalk(".", dir_fd=root, follow_symlinks=False):
        folders.sort()
        for name in sorted(names):
            path = os.path.normpath(os.path.join(folder, name))
            if any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns):
                found[path] = _size(path, name, here)
                if len(found) > MOST_FILES:
                    raise Unpackable(f"at most {MOST_FILES} files may be kept, but there are more")
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(path, pattern) for path in found):
            raise Unpackable(f"a training must leave {pattern}, but there is none")
    if (total := sum(found.values())) > most:
        raise Unpackable(f"what is kept must be at most {most} bytes, but has {total}")
    _write(target, header(found))
    for path in sorted(found):
        _copy(root, path, found[path], target)


def header(sizes: dict[str, int]) -> bytes:
    """What stands before the files' bytes, which follow in the order of their paths."""
    tensors, at = {}, 0
    for path in sorted(sizes):
        tensors[path] = {"dtype": "U8", "shape": [sizes[path]], "data_offsets": [at, at + sizes[path]]}
        at += sizes[path]
    text = json.dumps(tensors).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _size(path: str, name: str, folder: int) -> int:
    if not path.isprintable() or len(path) > MOST_NAME or path == "__metadata__":
        raise Unpackable(
            f"a kept file's path must be printable, of at most {MOST_NAME} characters, but is {path[:250]!r}"
        )
    info = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1 or info.st_dev != os.fstat(folder).st_dev:
        raise Unpackable(f"{path} must be a regular file with one link; it is not")
    return info.st_size


def _copy(root: int, path: str, size: int, target: int) -> None:
    *folders, name = path.split("/")
    opened = [root]
    try:
        for folder in folders:
            opened.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=opened[-1]))
        opened.append(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=opened[-1]))
        if not stat.S_ISREG(os.fstat(opened[-1]).st_mode):
            raise Unpackable(f"{path} must be a regular file; it is not")
        left = size
        while left:
            data = os.read(opened[-1], min(left, 1 << 22))
            if not data:
                raise Unpackable(f"{path} has become shorter")
            _write(target, data)
            left -= len(data)
    finally:
        for descriptor in opened[1:]:
            os.close(descriptor)


def _write(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
