"""Patches of a subject's editable files: from what a model writes to one canonical unified diff, and back. Pure.

Three forms are read: search/replace blocks, a unified diff, and whole files. Each becomes the new text of the files, and the
difference of the texts is written once more by `make`: the one form that is stored, hashed, shown and applied. Nothing that
a model wrote around its change (paths, modes, renames, line numbers) survives that.

Errors are for the model that wrote the patch: they name the block, and the lines of the file that are nearest to it.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from evolve.errors import InvalidCandidate
from evolve.types import Block

Files = Mapping[str, str]  # path relative to the subject's root -> text

MOST_FILE_CHARS = 200_000
MOST_PATCH_CHARS = 100_000
_MOST_BLOCKS = 200
_SHOWN_LINES, _SHOWN_CHARS = 6, 100  # of a file, in an error
_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
# What a diff says beside the change of a file's lines; an edit may do none of it.
_SPECIAL = re.compile(
    r"(new file mode|deleted file mode|old mode|new mode|rename from|rename to|copy from|copy to|Binary files|GIT binary patch)"
)


# ---------------------------------------------------------------- reading


def from_blocks(files: Files, blocks: Sequence[Block]) -> dict[str, str]:
    """The files after all blocks, one after the other. Raises `InvalidCandidate`."""
    if not 0 < len(blocks) <= _MOST_BLOCKS:
        raise InvalidCandidate(
            f"A patch must have 1 to {_MOST_BLOCKS} blocks, but has {len(blocks)}; send what changes."
        )
    texts = dict(files)
    for number, block in enumerate(blocks, start=1):
        name = _editable(files, block.file)
        where = f"block {number} ({name})"
        lines, search = _lines(texts[name]), _lines(block.search)
        if not any(line.strip() for line in search):
            raise InvalidCandidate(
                f"`search` must hold lines of the file, but that of {where} is empty; repeat the line that the new ones follow."
            )
        at = _find(lines, search)
        if len(at) != 1:
            raise InvalidCandidate(_mismatch(where, lines, search, at))
        texts[name] = _text([*lines[: at[0]], *_lines(block.replace), *lines[at[0] + len(search) :]])
    return texts


def from_diff(files: Files, diff: str) -> dict[str, str]:
    """The files after a unified diff. Hunks are found by their lines; their numbers only decide between equal places.

    Raises `InvalidCandidate`, also for renames, modes, new and deleted files.
    """
    texts, moved = dict(files), dict.fromkeys(files, 0)
    hunks = _parse(diff)
    for number, hunk in enumerate(hunks, start=1):
        name = _editable(files, hunk.file)
        where = f"hunk {number} ({name})"
        lines = _lines(texts[name])
        if not any(line.strip() for line in hunk.before):
            raise InvalidCandidate(
                f"A hunk must hold lines of the file around its change, but {where} has none; add some."
            )
        at = _find(lines, hunk.before)
        if len(at) > 1 and (stated := hunk.start - 1 + moved[name]) in at:
            at = [stated]
        if len(at) != 1:
            raise InvalidCandidate(_mismatch(where, lines, hunk.before, at))
        texts[name] = _text([*lines[: at[0]], *hunk.after, *lines[at[0] + len(hunk.before) :]])
        moved[name] += len(hunk.after) - len(hunk.before)
    return texts


def from_files(files: Files, new: Files) -> dict[str, str]:
    """The files with some of them replaced as a whole. Raises `InvalidCandidate`."""
    return {**files, **{_editable(files, name): text for name, text in new.items()}}


# ---------------------------------------------------------------- the canonical form


def make(before: Files, after: Files) -> str:
    """The canonical unified diff, files in alphabetical order, three lines of context.

    Args:
        before: all editable files as the campaign's own copy has them.
        after: those of them that may have changed.

    Raises `InvalidCandidate` where nothing changes, or where the new text is too long or holds characters that a reader does
    not see.
    """
    parts = []
    for name in sorted(after):
        old, new = _lines(before[_editable(before, name)]), _lines(_readable(name, after[name]))
        if old != new:
            parts += [f"--- a/{name}", f"+++ b/{name}"]
            parts += list(difflib.unified_diff(old, new, lineterm=""))[2:]
    if not parts:
        raise InvalidCandidate("A patch must change something, but all files stay as they are; change a line of code.")
    patch = _text(parts)
    if len(patch) > MOST_PATCH_CHARS:
        raise InvalidCandidate(
            f"A patch must have at most {MOST_PATCH_CHARS} characters, but has {len(patch)}; make it smaller."
        )
    return patch


def apply(before: Files, patch: str) -> dict[str, str]:
    """The new texts of the files that a canonical patch changes: every line must stand exactly where the patch says.

    Raises `InvalidCandidate` where it was made from other files.
    """
    texts: dict[str, list[str]] = {}
    moved: dict[str, int] = {}
    for hunk in _parse(patch, exact=True):
        name = _editable(before, hunk.file)
        lines = texts.setdefault(name, _lines(before[name]))
        # A hunk without old lines names the line before it.
        at = hunk.start - 1 + (not hunk.before) + moved.get(name, 0)
        if lines[at : at + len(hunk.before)] != hunk.before:
            raise InvalidCandidate(f"A patch must fit the campaign's copy of {name}, but line {hunk.start} differs.")
        lines[at : at + len(hunk.before)] = hunk.after
        moved[name] = moved.get(name, 0) + len(hunk.after) - len(hunk.before)
    return {name: _text(lines) for name, lines in texts.items()}


def check(patch: str, editable: Iterable[str]) -> None:
    """Raises `InvalidCandidate` for what is no patch of `editable` files; whether it applies is not known here."""
    names = dict.fromkeys(editable, "")
    if len(patch) > MOST_PATCH_CHARS:
        raise InvalidCandidate(
            f"A patch must have at most {MOST_PATCH_CHARS} characters, but has {len(patch)}; make it smaller."
        )
    for hunk in _parse(patch, exact=True):
        _readable(_editable(names, hunk.file), _text(hunk.after))


def patched(before: Files, patch: str | None) -> dict[str, str]:
    """All files, those that the patch changes in their new form."""
    return {**before, **(apply(before, patch) if patch else {})}


def reverse(patch: str) -> str:
    """The diff that takes a canonical patch back, for `from_diff`."""
    parts: list[str] = []
    file, moved = "", 0
    for hunk in _parse(patch, exact=True):
        if hunk.file != file:
            file, moved = hunk.file, 0
            parts += [f"--- a/{file}", f"+++ b/{file}"]
        old, new = len(hunk.before), len(hunk.after)
        parts.append(f"@@ -{hunk.start + moved},{new} +{hunk.start},{old} @@")
        parts += [f"-{line}" for line in hunk.after] + [f"+{line}" for line in hunk.before]
        moved += new - old
    return _text(parts)


def summary(patch: str) -> str:
    """In a few words: `train/recipe.py +12 -3`."""
    counts: dict[str, list[int]] = {}
    for hunk in _parse(patch, exact=True):
        changed = difflib.SequenceMatcher(None, hunk.before, hunk.after, autojunk=False).get_opcodes()
        entry = counts.setdefault(hunk.file, [0, 0])
        entry[0] += sum(d - c for tag, _, _, c, d in changed if tag != "equal")
        entry[1] += sum(b - a for tag, a, b, _, _ in changed if tag != "equal")
    return ", ".join(f"{name} +{plus} -{minus}" for name, (plus, minus) in counts.items())


# ---------------------------------------------------------------- below


@dataclass
class _Hunk:
    file: str
    start: int  # line of `before` in the old file, from 1
    before: list[str]
    after: list[str]


def _parse(diff: str, exact: bool = False) -> list[_Hunk]:
    """`exact`: the counts of the headers hold, as in a diff of ours."""
    hunks: list[_Hunk] = []
    file = ""
    old = new = 0  # lines that the current hunk still has, by its header
    lines = _lines(diff)
    for number, line in enumerate(lines, start=1):
        if hunks and (old > 0 or new > 0):
            kind, body = (line[0], line[1:]) if line else (" ", "")
            if kind == "\\":
                continue  # no newline at the end of the file: we always write one
            if kind not in " +-":
                raise InvalidCandidate(
                    f"A line of a hunk must begin with a blank, + or -, but line {number} of the diff is {line[:60]!r}."
                )
            if kind != "+":
                hunks[-1].before.append(body)
                old -= 1
            if kind != "-":
                hunks[-1].after.append(body)
                new -= 1
        elif special := _SPECIAL.match(line):
            raise InvalidCandidate(
                f"A patch may change lines of files alone, but line {number} of the diff says {special[1]!r}; leave it out."
            )
        elif line.startswith("--- "):
            if not (number < len(lines) and lines[number].startswith("+++ ")):
                raise InvalidCandidate(
                    f"`---` must be followed by `+++`, but line {number} of the diff is not; add it."
                )
            before, file = _name(line), _name(lines[number])
            if before != file:
                raise InvalidCandidate(
                    f"A patch may change files, not add, delete or rename them, but has {before[:60]!r} -> {file[:60]!r}."
                )
        elif header := _HUNK.match(line):
            if not file:
                raise InvalidCandidate(f"A hunk must follow `--- a/FILE` and `+++ b/FILE`, but line {number} does not.")
            if exact:
                old, new = int(header[2] or 1), int(header[4] or 1)
            else:  # models count badly: the lines are read to the next header, whatever the counts say
                rest = _until_header(lines[number:])
                old, new = sum(x[:1] != "+" for x in rest), sum(x[:1] != "-" for x in rest)
            hunks.append(_Hunk(file, int(header[1]), [], []))
    if not 0 < len(hunks) <= _MOST_BLOCKS:
        raise InvalidCandidate(
            f"A diff must have 1 to {_MOST_BLOCKS} hunks (`@@ -line,count +line,count @@`), but has {len(hunks)}; write them."
        )
    return hunks


def _until_header(lines: Sequence[str]) -> list[str]:
    """The lines of a hunk: up to the next header, or the end. A removed line that looks like a header is one of a pair."""
    body: list[str] = []
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if (
            _HUNK.match(line)
            or line.startswith("diff --git ")
            or (line.startswith("--- ") and following.startswith("+++ "))
        ):
            break
        if not line.startswith("\\"):
            body.append(line)
    while body and not body[-1]:  # an answer's blank end; in a diff of ours an empty line has its blank before it
        body.pop()
    return body


def _name(line: str) -> str:
    path = line[4:].split("\t")[0].strip()
    return path[2:] if path[:2] in ("a/", "b/") else path


def _editable(files: Files, name: str) -> str:
    """The name itself, where it is one of the editable files, letter by letter: no other spelling of a path is tried."""
    if name not in files:
        raise InvalidCandidate(
            f"A patch may change {', '.join(sorted(files)) or 'no file'} alone, but names {name[:100]!r}."
        )
    return name


def _readable(name: str, text: str) -> str:
    if len(text) > MOST_FILE_CHARS:
        raise InvalidCandidate(f"{name} must have at most {MOST_FILE_CHARS} characters, but would have {len(text)}.")
    for number, line in enumerate(text.split("\n"), start=1):
        for c in line:
            if c != "\t" and (unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")):
                raise InvalidCandidate(
                    f"A patch must hold characters that a reader sees, but line {number} of {name} would have U+{ord(c):04X};"
                    " write it as an escape."
                )
    return text


def _lines(text: str) -> list[str]:
    """Split at newlines alone: Python's own `splitlines` also splits at characters that editors show as something else."""
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _find(lines: Sequence[str], wanted: Sequence[str]) -> list[int]:
    first, count = wanted[0], len(wanted)
    return [i for i, line in enumerate(lines) if line == first and list(lines[i : i + count]) == list(wanted)]


def _mismatch(where: str, lines: Sequence[str], search: Sequence[str], at: Sequence[int]) -> str:
    if at:
        places = ", ".join(str(i + 1) for i in at[:5])
        return f"The lines of {where} must stand once in the file, but stand {len(at)} times (lines {places}); add lines around."
    start = _nearest(lines, search)
    near = lines[start : start + min(len(search), _SHOWN_LINES)]
    wrong = next(
        (w for w, line in zip(search, [*lines[start:], *[""] * len(search)], strict=False) if w != line), search[0]
    )
    shown = "\n".join(f"{start + 1 + i}: {line[:_SHOWN_CHARS]}" for i, line in enumerate(near))
    return (
        f"The lines of {where} must stand in the file exactly, but {wrong[:_SHOWN_CHARS]!r} does not;"
        f" the nearest lines are\n{shown}"
    )


def _nearest(lines: Sequence[str], search: Sequence[str]) -> int:
    """Where in the file the most lines of `search` stand, blanks at their ends aside; ties by the likeness of the first."""
    count, wanted = len(search), [w.strip() for w in search]
    stripped = [line.strip() for line in lines]
    scores = [
        sum(a == b != "" for a, b in zip(stripped[i : i + count], wanted, strict=False)) for i in range(len(lines))
    ]
    best = max(scores, default=0)
    if best:
        return scores.index(best)
    first = next((w for w in wanted if w), "")
    near = difflib.get_close_matches(first, [line for line in stripped if line], n=1, cutoff=0.0)
    return stripped.index(near[0]) if near else 0
