"""Git by its plumbing alone: reads a repository, and adds commits to a branch that nobody has checked out.

Checkout, index, HEAD, stash and config stay as they are. Nothing that the repository or its owner has set up is run: no
hook, filter, signature, monitor or prompt, nothing is fetched, and no variable of the environment redirects a command.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evolve.errors import NotCommitted
from evolve.tracking_page import plain

_SECONDS = 30.0  # for one command; a repository on a dead network disk must not hold a promotion for ever
_SETTINGS = (
    "core.hooksPath=/dev/null",  # also reference-transaction and post-index-change
    "core.fsmonitor=false",
    "core.splitIndex=false",  # else a part of the temporary index would lie in the repository
    "core.sparseCheckout=false",
    "index.sparse=false",
    "commit.gpgSign=false",
    "log.showSignature=false",
    "protocol.allow=never",  # a partial clone must not fetch what it lacks
    "i18n.commitEncoding=UTF-8",
    "i18n.logOutputEncoding=UTF-8",
)
_IDENTITY = "evolve", "evolve@localhost"
_REGULAR = ("100644", "100755")
_MOST_COMMITS = 500  # of a branch that are read


@dataclass(frozen=True)
class Commit:
    id: str
    time: int  # seconds since the epoch
    message: str

    @property
    def trailers(self) -> dict[str, str]:
        """Of the message's last paragraph, where it is not the only one; the first of each name."""
        paragraphs = re.split(r"\n\s*\n", self.message.strip())
        found: dict[str, str] = {}
        for line in paragraphs[-1].splitlines() if len(paragraphs) > 1 else ():
            name, colon, value = line.partition(": ")
            if colon and re.fullmatch(r"[A-Za-z][A-Za-z-]*", name):
                found.setdefault(name, value.strip())
        return found


@dataclass(frozen=True)
class Entry:
    """A file in a commit's tree."""

    mode: str
    blob: str

    @property
    def regular(self) -> bool:
        return self.mode in _REGULAR


@dataclass(frozen=True)
class Repository:
    """The repository whose work tree holds `folder`, at `prefix` ("" or ending in a slash) from its top."""

    folder: Path
    prefix: str

    @classmethod
    def find(cls, folder: Path) -> Repository | None:
        """None where there is none, or one without a work tree. Raises `NotCommitted` where git cannot tell."""
        if not folder.is_dir():
            return None
        done = _git(folder, "rev-parse", "--is-inside-work-tree", "--show-prefix")
        if done.returncode:
            if b"not a git repository" in done.stderr:
                return None
            raise NotCommitted(
                f"Git must be able to read {folder}, but says: {_said(done)}; mend that, then `evolve sync`."
            )
        inside, _, rest = done.stdout.decode(errors="surrogateescape").partition("\n")
        return cls(folder, rest.removesuffix("\n")) if inside == "true" else None

    # ------------------------------------------------ reading

    def head(self, ref: str) -> str | None:
        """The commit that a branch ends at. Raises `NotCommitted` where it only stands for another one."""
        form = "--format=%(refname)%00%(objectname)%00%(symref)"
        for line in self._run("for-each-ref", form, ref).decode(errors="surrogateescape").splitlines():
            name, commit, stands_for = line.split("\0")
            if name == ref and stands_for:
                raise NotCommitted(
                    f"Promotions need a branch of their own, but {_branch(ref)} only stands for {plain(stands_for, 100)};"
                    f" delete it with `git symbolic-ref -d {ref}`, then run `evolve sync`."
                )
            if name == ref:
                return commit
        return None

    def has(self, commit: str) -> bool:
        return bool(re.fullmatch(r"[0-9a-f]{40,64}", commit)) and not self._try(
            "cat-file", "-e", f"{commit}^{{commit}}"
        )

    def is_ancestor(self, old: str, new: str) -> bool:
        return self._try("merge-base", "--is-ancestor", old, new) == 0

    def history(self, tip: str, without: str | None = None) -> list[Commit]:
        """The newest commits up to `tip` along first parents, the newest first; none that `without` has too."""
        words = ["log", "-z", "--first-parent", f"-n{_MOST_COMMITS}", "--no-notes", "--no-color", "--no-decorate"]
        text = self._run(*words, "--format=%H%n%ct%n%B", tip, *([f"^{without}"] if without else []))
        found = []
        for part in text.decode(errors="replace").split("\0"):
            if part:
                commit, time, message = part.split("\n", 2)
                found.append(Commit(commit, int(time), message))
        return found

    def changed(self, commit: str) -> set[str]:
        """The files under `prefix`, relative to it, that a commit changed against its first parent."""
        words = ["diff-tree", "-r", "-z", "--root", "--no-commit-id", "--name-only", "--no-ext-diff"]
        names = self._run(*words, commit).decode(errors="surrogateescape").split("\0")
        return {name.removeprefix(self.prefix) for name in names if name and name.startswith(self.prefix)}

    def entries(self, commit: str, names: Sequence[str]) -> dict[str, Entry]:
        """Those of the files, relative to `prefix`, that a commit has."""
        if not names:
            return {}
        text = self._run("ls-tree", "-z", "--full-tree", commit, "--", *(self.prefix + name for name in names))
        found = {}
        for part in text.decode(errors="surrogateescape").split("\0"):
            if part:
                about, _, path = part.partition("\t")
                mode, _, blob = about.split(" ")
                found[path.removeprefix(self.prefix)] = Entry(mode, blob)
        return found

    def content(self, entry: Entry) -> bytes:
        return self._run("cat-file", "blob", entry.blob)

    def used_by(self, ref: str) -> str | None:
        """The work tree that has a branch checked out, or that is in the middle of rebasing it."""
        place = ""
        for line in self._run("worktree", "list", "--porcelain").decode(errors="replace").splitlines():
            word, _, value = line.partition(" ")
            if word == "worktree":
                place = value
            elif word == "branch" and value == ref:
                return plain(place, 200)
        common = self.folder / self._run("rev-parse", "--git-common-dir").decode(errors="surrogateescape").rstrip("\n")
        for pattern in ("rebase-*/head-name", "worktrees/*/rebase-*/head-name"):
            for path in common.glob(pattern):
                if path.read_text(errors="replace").strip() == ref:
                    return "a rebase"
        return None

    # ------------------------------------------------ writing

    def commit(self, parent: str, files: Mapping[str, tuple[str, bytes]], message: str, time: int) -> str:
        """A new commit on `parent` with these files (name -> mode, content) in its tree; no branch has it yet."""
        lines = b""
        for name, (mode, data) in files.items():
            blob = self._run("hash-object", "-w", "--no-filters", "--stdin", input=data).decode().strip()
            lines += f"{mode} {blob}\t{self.prefix}{name}\0".encode(errors="surrogateescape")
        with tempfile.TemporaryDirectory(prefix="evolve-") as folder:
            index = str(Path(folder, "index"))
            self._run("read-tree", parent, index=index)
            self._run("update-index", "-z", "--index-info", input=lines, index=index)
            tree = self._run("write-tree", "--missing-ok", index=index).decode().strip()
        words = ["commit-tree", tree, "-p", parent, "--no-gpg-sign", "-F", "-"]
        return self._run(*words, input=message.encode(), time=time).decode().strip()

    def move(self, ref: str, new: str, old: str | None, why: str) -> None:
        """Lets a branch end at `new`, if it still ends at `old` (None: if it still does not exist)."""
        self._run("update-ref", "--no-deref", "-m", why, ref, new, old or "0" * len(new))

    # ------------------------------------------------ commands

    def _try(self, *words: str) -> int:
        return _git(self.folder, *words).returncode

    def _run(self, *words: str, input: bytes = b"", index: str | None = None, time: int = 0) -> bytes:
        done = _git(self.folder, *words, input=input, index=index, time=time)
        if done.returncode:
            raise NotCommitted(
                f"Git must carry out `git {words[0]}` in {self.folder}, but says: {_said(done)}; mend that, then run `evolve sync`."
            )
        return done.stdout


def merged(ours: str, base: str, theirs: str) -> str | None:
    """What both sides made of `base`; None where their changes meet. Raises `NotCommitted` where git is needed and away."""
    if ours in (base, theirs):
        return theirs
    if theirs == base:
        return ours
    with tempfile.TemporaryDirectory(prefix="evolve-") as folder:
        names = ("ours", "base", "theirs")
        for name, text in zip(names, (ours, base, theirs), strict=True):
            Path(folder, name).write_bytes(text.encode())
        done = _git(Path(folder), "merge-file", "-p", *names)
    return None if done.returncode else done.stdout.decode()


def _git(
    folder: Path, *words: str, input: bytes = b"", index: str | None = None, time: int = 0
) -> subprocess.CompletedProcess[bytes]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env |= {
        "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_NO_LAZY_FETCH": "1", "GIT_LITERAL_PATHSPECS": "1",
    }  # fmt: skip
    for role in ("AUTHOR", "COMMITTER"):
        env |= dict(zip((f"GIT_{role}_NAME", f"GIT_{role}_EMAIL"), _IDENTITY, strict=True))
        env[f"GIT_{role}_DATE"] = f"@{time} +0000"
    if index is not None:
        env["GIT_INDEX_FILE"] = index
    settings = [word for setting in _SETTINGS for word in ("-c", setting)]
    command = ["git", "--no-pager", "-C", str(folder), *settings, *words]
    try:
        return subprocess.run(command, input=input, capture_output=True, timeout=_SECONDS, env=env, check=False)
    except FileNotFoundError as error:
        raise NotCommitted(
            "A promotion's commit needs git, but it is not installed; install it, then run `evolve sync`."
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotCommitted(f"Git must answer, but: {plain(str(error), 200)}; run `evolve sync` later.") from error


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    """What git complains of, on one line; its hints and warnings are left out."""
    lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
    worst = next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[0])
    return plain(worst, 300).rstrip(".;")


def _branch(ref: str) -> str:
    return ref.removeprefix("refs/heads/")
