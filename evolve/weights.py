"""Weights on their way from an untrusted training into the controller's store.

A training's file is read once, after its process group is dead, without following links, only if it is a regular file
with one link, and no further than the size that the base checkpoint implies. It must have exactly the base's tensor
names, shapes and types, finite values and no metadata. What is kept is a re-serialised copy under its sha256.

A subject without a base checkpoint names the files that its trainings leave, of whatever kind (`Bundle`). They are kept as
one safetensors file too, each as a tensor of its bytes: nothing here or in the registry opens them.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import safetensors

from evolve import durable
from evolve.errors import BadInput, NotFound, TrialFailed
from evolve.inside import pack

_HEADER_LIMIT = 1_000_000
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class Form(Protocol):
    """What a subject's trainings leave."""

    @property
    def most_bytes(self) -> int:
        """That a file of this form may have."""
        ...

    def read(self, left: Path, packed: Path | None) -> bytes:
        """The canonical bytes of what a training left, a file or a folder; `packed` is what a sandbox handed out instead.

        Raises `TrialFailed` with the rule that was broken.
        """
        ...


@dataclass(frozen=True)
class Bundle:
    """Files of any kind, by patterns of their paths in the training's output folder (`inside/pack.py`)."""

    patterns: tuple[str, ...]
    limit: int  # bytes of all files together

    @property
    def most_bytes(self) -> int:
        return self.limit + _HEADER_LIMIT + 8

    def read(self, left: Path, packed: Path | None) -> bytes:
        """See `Form`; `left` is the training's output folder."""
        data = self._packed(left) if packed is None else _read_untrusted(packed, self.most_bytes)
        return self.check(data)

    def _packed(self, folder: Path) -> bytes:
        try:
            root = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise TrialFailed(f"A training's output folder must stay a folder, but {error.strerror}.") from error
        try:
            with open(os.memfd_create("packed", os.MFD_CLOEXEC), "w+b", buffering=0) as file:
                pack.pack(root, list(self.patterns), self.limit, file.fileno())
                file.seek(0)
                return file.read()
        except (pack.Unpackable, OSError) as error:
            raise TrialFailed(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error
        finally:
            os.close(root)

    def check(self, data: bytes) -> bytes:
        """The canonical bytes of a packed folder. Raises `TrialFailed`."""
        try:
            tensors = _tensors(data)
        except (ValueError, safetensors.SafetensorError) as error:
            raise TrialFailed(f"What a sandbox hands out must be a packed folder, but {str(error)[:200]}.") from error
        files: dict[str, bytes] = {}
        for name, dtype, shape, raw in sorted(tensors):
            if dtype != "U8" or shape != (len(raw),) or not _plain_path(name):
                raise TrialFailed(f"A packed file must be bytes under a plain path, but {name[:100]!r} is not.")
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns):
                raise TrialFailed(f"Only files that the subject names are kept, but {name[:100]!r} is not one.")
            files[name] = raw
        if sum(map(len, files.values())) > self.limit:
            raise TrialFailed(f"What is kept must be at most {self.limit} bytes, but has more.")
        for pattern in self.patterns:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in files):
                raise TrialFailed(f"A training must leave {pattern}, but there is none; write it before exiting.")
        return pack.header({name: len(raw) for name, raw in files.items()}) + b"".join(files[n] for n in sorted(files))

    @staticmethod
    def unpack(data: bytes, folder: Path) -> None:
        """Writes the files of checked bytes below `folder`, which must be there; read-only."""
        for name, _, _, raw in _tensors(data):
            if not _plain_path(name):
                raise TrialFailed(f"A packed file must have a plain path, but {name[:100]!r} is not.")
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(raw)
            target.chmod(0o444)


def _plain_path(name: str) -> bool:
    path = PurePosixPath(name)
    return (
        str(path) == name and not path.is_absolute() and ".." not in path.parts and name not in ("", ".")
        and name.isprintable() and len(name) <= pack.MOST_NAME
    )  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """name -> (dtype as safetensors writes it, shape); what every checkpoint of a subject must look like."""

    tensors: dict[str, tuple[str, tuple[int, ...]]]

    @property
    def most_bytes(self) -> int:
        """That a file of this layout may have."""
        return self.bytes + _HEADER_LIMIT + 8

    def read(self, left: Path, packed: Path | None = None) -> bytes:
        """See `Form`; `left` is the training's file."""
        return check(_read_untrusted(packed or left, self.most_bytes), self)

    @property
    def bytes(self) -> int:
        size = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
        return sum(size[dtype] * math.prod(shape) for dtype, shape in self.tensors.values())


def layout_of(path: Path) -> Layout:
    """The layout of a trusted checkpoint (the subject's asset)."""
    try:
        return Layout({name: (dtype, shape) for name, dtype, shape, _ in _tensors(path.read_bytes())})
    except safetensors.SafetensorError as error:
        raise BadInput(
            f"The base checkpoint must be a safetensors file, but {path.name} is not: {error}; save it so."
        ) from error


def _tensors(data: bytes) -> list[tuple[str, str, tuple[int, ...], bytes]]:
    """Raises `safetensors.SafetensorError` for anything that is not a well-formed file."""
    return [(n, t["dtype"], tuple(t["shape"]), bytes(t["data"])) for n, t in safetensors.deserialize(data)]  # type: ignore[no-untyped-call]


def _read_untrusted(path: Path, limit: int) -> bytes:
    folder = fd = -1
    try:
        # The folder was the training's as well: neither it nor the file may be a link to elsewhere.
        folder = os.open(path.parent, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC)
        fd = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
            raise TrialFailed(f"{path.name} must be a regular file with one link; it is not.")
        if info.st_size > limit:
            raise TrialFailed(f"{path.name} must be at most {limit} bytes, but has {info.st_size}.")
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read(limit)
    except FileNotFoundError as error:
        raise TrialFailed(f"A training must leave {path.name}, but there is none; write it before exiting.") from error
    except OSError as error:
        raise TrialFailed(
            f"{path.name} must be a regular file, but it is a link or cannot be read ({error})."
        ) from error
    finally:
        for opened in (fd, folder):
            if opened >= 0:
                os.close(opened)


def check(data: bytes, layout: Layout) -> bytes:
    """The canonical re-serialised bytes of valid weights. Raises `TrialFailed` with the rule that was broken."""
    import numpy as np  # here: commands that look at no weights are quick

    try:
        header_size = int.from_bytes(data[:8], "little")
        if len(data) < 8 or header_size > _HEADER_LIMIT:
            raise ValueError(f"the header says {header_size} bytes")
        header = json.loads(data[8 : 8 + header_size])
        tensors = _tensors(data)
    except (ValueError, RecursionError, safetensors.SafetensorError) as error:
        raise TrialFailed(f"Weights must be a safetensors file, but {str(error)[:200]}.") from error
    if "__metadata__" in header:
        raise TrialFailed("Weights must carry no metadata, but `__metadata__` is there; save without it.")
    found = {name: (dtype, shape) for name, dtype, shape, _ in tensors}
    for name, expected in layout.tensors.items():
        if name not in found:
            raise TrialFailed(f"Weights must have the base checkpoint's tensors, but {name!r} is missing.")
        if found[name] != expected:
            raise TrialFailed(f"Tensor {name!r} must be {expected[0]} {list(expected[1])}, but is {found[name]}.")
    if extra := sorted(set(found) - set(layout.tensors)):
        raise TrialFailed(f"Weights must have the base checkpoint's tensors alone, but {extra[0][:100]!r} is more.")
    arrays: dict[str, Any] = {}
    for name, dtype, shape, raw in tensors:
        values = np.frombuffer(raw, _DTYPES[dtype])
        # bfloat16 is the upper half of a float32, which numpy can check.
        numeric = (values.astype("<u4") << 16).view("<f4") if dtype == "BF16" else values
        if not np.isfinite(numeric).all():
            raise TrialFailed(f"Weights must be finite, but {name!r} has NaN or infinity: the training diverged.")
        arrays[name] = safetensors.TensorSpec(
            dtype=_NAMES[dtype], shape=shape, data_ptr=values.ctypes.data, data_len=len(raw)
        )  # `tensors` keeps the memory behind data_ptr alive
    return bytes(safetensors.serialize(dict(sorted(arrays.items())), None))


class WeightStore:
    """Verified weights by sha256, in one folder. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fresh: set[str] = set()  # stored, not yet in the journal: never collected

    def path(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.safetensors"

    def take(self, left: Path, form: Form, packed: Path | None = None) -> str:
        """Verifies what a training left (see `Form`), keeps a copy, returns its sha256. Raises `TrialFailed`."""
        return self.put(form.read(left, packed))

    def put(self, data: bytes) -> str:
        """Keeps verified bytes; atomically, so that a crash leaves no half a file under a good name."""
        sha256 = hashlib.sha256(data).hexdigest()
        self.fresh.add(sha256)
        target = self.path(sha256)
        if not target.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            durable.write(target, data)  # the journal is about to name it
        return sha256

    def verified(self, sha256: str) -> Path:
        """The path of weights whose content still is what their name says. Raises `NotFound` where it is not."""
        path = self.path(sha256)
        try:
            actual = hashlib.sha256(path.read_bytes()).hexdigest()
        except FileNotFoundError as error:
            raise NotFound(
                f"Weights {sha256[:8]} must be in {self.folder}, but are not; train the candidate again."
            ) from error
        if actual != sha256:
            raise NotFound(f"Weights {sha256[:8]} in {self.folder} were changed by hand; they are not used.")
        return path

    def collect(self, keep: set[str]) -> int:
        """Deletes all weights but `keep`; returns how many bytes that freed."""
        freed = 0
        for path in self.folder.glob("*.safetensors"):
            if path.stem not in keep and path.stem not in self.fresh:
                freed += path.stat().st_size
                path.unlink(missing_ok=True)
        return freed
