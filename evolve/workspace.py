"""Snapshots of a subject's sources: content-addressed copies, so that a campaign never depends on the user's tree.

The snapshot is taken once, at the start of a campaign; its hash is part of every candidate's id. Trainings and scores
run on it, and before each score it is checked again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import site
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from evolve import patches
from evolve.contents import Contents, file_hash, tree_hash
from evolve.errors import BadInput, EvolveError
from evolve.outside import PINS, pin, verify_pins

_IGNORED = {
    "__pycache__", ".git", ".mypy_cache", ".ruff_cache", ".pytest_cache",
    ".evolve", ".venv", "venv", "node_modules", "wandb", "mlruns", "outputs", ".hydra",
}  # fmt: skip
_MOST_BYTES = 2_000_000_000  # of a subject's sources


def _files(root: Path, sources: Iterable[str], without: Iterable[Path] = ()) -> list[Path]:
    """Relative paths of all regular files under `sources`, sorted, but of those below `without`. Links are refused: they
    point out of the snapshot."""
    apart = [folder.parent.resolve() / folder.name for folder in without]
    found: set[Path] = set()
    for source in sources:
        start = root / source
        if not start.exists():
            raise BadInput(f"The subject's `sources` must exist, but {start} does not; correct the YAML.")
        if not start.resolve().is_relative_to(root.resolve()):
            raise BadInput(
                f"The subject's `sources` must lie under its root, but {source!r} does not; correct the YAML."
            )
        for path in [start] if start.is_file() else sorted(start.rglob("*")):
            relative = path.relative_to(root)
            if _IGNORED & set(relative.parts) or (path.is_dir() and not path.is_symlink()):
                continue
            if apart and any((path.parent.resolve() / path.name).is_relative_to(folder) for folder in apart):
                continue
            if path.is_symlink() or not path.is_file():
                raise BadInput(f"A subject's sources must be regular files, but {relative} is not; copy its content.")
            if relative == Path(PINS):
                raise BadInput(f"A subject's sources must not have a {PINS}, which evolve writes; remove {path}.")
            found.add(relative)
    return sorted(found)


class Snapshot:
    """A read-only copy of the sources at `folder`, whose tree hash is `version`, with pins of what lies `outside` of them:
    its name in the subject -> absolute path."""

    def __init__(self, folder: Path, version: str, outside: Mapping[str, str] | None = None) -> None:
        self.folder, self.version, self._outside = folder, version, dict(outside or {})

    @classmethod
    def take(
        cls, root: Path, sources: Iterable[str], parent: Path, exclude: Path | None = None,
        outside: Mapping[str, str] | None = None,
    ) -> Snapshot:  # fmt: skip
        """Copies the sources of a subject, without what lies in the folder `exclude`, to `parent/<hash>`; does nothing where
        they are there already. What is `outside` is read once as a whole, which takes its time. Raises `BadInput`."""
        files = _files(root, sources, map(Path, (outside or {}).values()))
        if exclude is not None:
            files = [file for file in files if not (root / file).resolve().is_relative_to(exclude.resolve())]
        if (size := sum((root / file).stat().st_size for file in files)) > _MOST_BYTES:
            raise BadInput(
                f"A subject's sources must be at most {_MOST_BYTES / 1e9:g} GB, since each campaign has its own copy, but"
                f" {len(files)} files of {size / 1e9:.1f} GB lie in {root}; name in `sources` only what a training needs, and"
                " big assets and data by absolute paths."
            )
        pins = pin(outside, exclude) if outside else None
        known = {} if pins is None else {root / PINS: hashlib.sha256(pins).hexdigest()}
        named = sorted([*files, *([] if pins is None else [Path(PINS)])])
        version = tree_hash(root, named, lambda path: known.get(path) or file_hash(path))
        folder = parent / version[:16]
        if not folder.exists():
            temporary = parent / f".{version[:16]}.{os.getpid()}"
            for relative in named:
                target = temporary / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                if root / relative in known:
                    target.write_bytes(pins or b"")
                else:
                    shutil.copyfile(root / relative, target)
                target.chmod(0o444)
            temporary.replace(folder)
        return cls(folder, version, outside)

    def copy(self, target: Path, linked: Iterable[str]) -> Path:
        """A copy of the sources at `target` that may be written to; the paths `linked` are links into the snapshot, where they
        lie in it."""
        shutil.rmtree(target, ignore_errors=True)
        places = {self.folder / name for name in linked if not Path(name).is_absolute()}

        def left_out(folder: str, names: list[str]) -> list[str]:
            return [name for name in names if Path(folder, name) in places]

        shutil.copytree(self.folder, target, ignore=left_out, copy_function=shutil.copyfile)
        for place in sorted(places):
            link = target / place.relative_to(self.folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():  # it may lie in another one's folder
                link.symlink_to(place)
        return target

    def texts(self, names: Iterable[str]) -> dict[str, str]:
        """Name -> text of files of the snapshot, those that an edit may change. Raises `EvolveError` where one is no text."""
        found = {}
        for name in names:
            path = self.folder / name
            if path.is_symlink() or not path.is_file():
                raise EvolveError(
                    f"An editable file must be among the sources, but {name} is not; correct the subject."
                )
            try:
                found[name] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise EvolveError(f"An editable file must be UTF-8 text, but {name} is not: {error}.") from error
        return found

    def verify(self) -> None:
        """Raises `EvolveError` where a file of the snapshot, or outside of it, was added, removed or changed."""
        self.verify_copy()
        verify_pins(self.folder / PINS, self._outside)

    def verify_copy(self) -> None:
        """The same of the snapshot's own files alone."""
        files = sorted(p.relative_to(self.folder) for p in self.folder.rglob("*") if p.is_symlink() or not p.is_dir())
        if any((self.folder / f).is_symlink() for f in files) or tree_hash(self.folder, files) != self.version:
            raise EvolveError(
                f"The snapshot of the subject must stay as it was taken, but {self.folder} has changed;"
                " nothing is scored with it: find out what wrote there, then start a new campaign."
            )


class Edits:
    """Content-addressed copies of edited files, below `parent/<hash>/`: nothing but what a patch changes, never the user's tree."""

    def __init__(self, snapshot: Snapshot, editable: Iterable[str], parent: Path) -> None:
        self._snapshot, self._editable, self._parent = snapshot, tuple(editable), parent

    def files(self, patch: str) -> dict[str, Path]:
        """Path relative to the sources -> the edited file. Raises `InvalidCandidate` where the patch does not apply."""
        texts = patches.apply(self._snapshot.texts(self._editable), patch)
        found = {}
        for name, text in texts.items():
            data = text.encode()
            target = self._parent / hashlib.sha256(data).hexdigest()[:16] / name
            # Read again each time: what runs is what the patch says, whatever has happened to the copy.
            if target.is_symlink() or not target.exists() or target.read_bytes() != data:
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.tmp")
                temporary.write_bytes(data)
                temporary.chmod(0o444)
                temporary.replace(target)
            found[name] = target
        return found

    def tree(self, patch: str, target: Path) -> Path:
        """A whole copy of the sources with the patch, for where no sandbox can lay the one over the other."""
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self._snapshot.folder, target)
        for name, path in self.files(patch).items():
            (target / name).unlink()
            shutil.copyfile(path, target / name)
        return target


class Interpreter:
    """What a start of this Python runs before the first line of a scorer: the executable, and the files that it obeys.

    Taken at the start of a session.
    """

    def __init__(self, executable: Path | None = None, folders: Iterable[Path] | None = None) -> None:
        executable = executable or Path(sys.executable)
        self._executable = executable
        self._folders = [Path(p) for p in site.getsitepackages()] if folders is None else list(folders)
        self._contents = Contents()
        self._taken = {path: self._contents.hash(path) for path in self._files()}

    def _files(self) -> list[Path]:
        found = {self._executable.resolve(), self._executable.parent.parent / "pyvenv.cfg"}
        for folder in self._folders:
            found |= {*folder.glob("*.pth"), folder / "sitecustomize.py", folder / "usercustomize.py"}
        return sorted(path for path in found if path.exists())

    def verify(self) -> None:
        """Raises `EvolveError` where a file was added, removed or changed."""
        files = self._files()
        changed = sorted(set(files) ^ set(self._taken)) or [
            path for path in files if self._contents.hash(path) != self._taken[path]
        ]
        if changed:
            raise EvolveError(
                f"The interpreter must stay as it was at the session's start, but {changed[0]} has changed; nothing is scored"
                " with it: find out what wrote there, then `evolve resume`."
            )


def git_commit(root: Path) -> str | None:
    """The commit of the repository that holds `root`, with `-dirty` where the tree has changes; None outside of git."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if not commit:
        return None
    return commit + ("-dirty" if git("status", "--porcelain", "--untracked-files=no", "--", str(root)) else "")


def texts(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The text of those of the files that are there and can be read as text, in `even` form."""
    found = {}
    for name in names:
        path = folder / name
        if path.is_file() and not path.is_symlink():
            try:
                found[name] = even(path.read_bytes().decode())
            except (OSError, UnicodeDecodeError):
                continue
    return found


def even(text: str) -> str:
    """With the ends of lines that patches have: `\\n`, also of the last one."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text + "\n" if text and not text.endswith("\n") else text
