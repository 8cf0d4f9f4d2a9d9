"""Assets and data that lie outside of a subject's sources: a base model, a big data set. Never copied, but pinned.

The hash of their content is part of the snapshot, in the file `PINS`, and so of its version and of each candidate's id; where
they lie is not. Before each score they are looked at again. Names are those of the subject's settings: `assets.base`,
`data.train`. Links are followed, as in the cache of the Hugging Face hub, where each file of a model is one.
"""

from __future__ import annotations

import json
import os
import posixpath
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from evolve.contents import Contents, tree_hash
from evolve.errors import BadInput, EvolveError

PINS = ".evolve-outside.json"  # in a snapshot: {"assets.base": sha256 of its content, ...}
HUB = "hf://"
_MOST_LINKS = 1000  # that lead out of one folder: each is a mount of its own in a jail
_CONTENTS = Contents()  # of this process: many GB that were read for the pin are not read again for the first score


def pin(outside: Mapping[str, str], exclude: Path | None) -> bytes:
    """The content of `PINS`. Raises `BadInput` where something cannot be pinned, or shares a file with the folder `exclude`."""
    found = {}
    for name, place in outside.items():
        try:
            if exclude is not None:
                _apart(Path(place), exclude.resolve())
            shown(place)
            found[name] = _hash(Path(place))
        except (OSError, ValueError) as error:
            raise BadInput(
                f"subject.{name} must be a file or folder that can be read, but {error}; correct it."
            ) from error
    return (json.dumps(found, indent=1, sort_keys=True) + "\n").encode()


def verify_pins(pins: Path, outside: Mapping[str, str]) -> None:
    """Raises `EvolveError` where something outside is not what the file `pins`, which need not be there, says of it."""
    pinned = json.loads(pins.read_bytes()) if pins.exists() else {}
    if set(pinned) != set(outside):
        names = ", ".join(sorted(set(pinned) ^ set(outside)))
        raise EvolveError(
            f"The snapshot must pin what lies outside of it, but {names} differs from the subject; start a new campaign."
        )
    for name, place in outside.items():
        try:
            why = "" if _hash(Path(place)) == pinned[name] else f"{place} has changed"
        except (OSError, ValueError) as error:
            why = str(error)
        if why:
            raise EvolveError(
                f"subject.{name} must stay as it was when the campaign began, but {why}; nothing is scored with it: put it"
                " back, or start a new campaign."
            )


def _hash(place: Path) -> str:
    """sha256 of a file's content, of a folder the tree's. Raises `OSError` and `ValueError`."""
    files = sorted(_files(place))
    if files == [place]:
        return _CONTENTS.hash(place)
    if not files:  # most likely a disk that is not mounted
        raise ValueError(f"{place} is empty")
    return tree_hash(place, [file.relative_to(place) for file in files], _CONTENTS.hash)


def _files(place: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All files there, by the names that they have below `place`, whatever links lie in between."""
    try:
        mode = place.stat().st_mode
    except FileNotFoundError as error:
        raise ValueError(
            f"{place} is a link that leads nowhere" if place.is_symlink() else f"{place} is not there"
        ) from error
    if stat.S_ISREG(mode):
        yield place
        return
    if not stat.S_ISDIR(mode):
        raise ValueError(f"{place} is neither a file nor a folder")
    real = place.resolve()
    if real in above:
        raise ValueError(f"{place} is a link to a folder that it lies in")
    for inner in place.iterdir():
        yield from _files(inner, (*above, real))


def _apart(place: Path, folder: Path) -> None:
    for file in _files(place):
        if file.resolve().is_relative_to(folder):
            raise ValueError(f"{file} lies in {folder}, which holds what no training may see")


def shown(path: str) -> dict[str, Path]:
    """What a jail needs so that all of the absolute `path` can be read there by the names that it has here: path inside ->
    file or folder of this machine.

    That is `path`, and what links in it lead to; never a folder that holds such a target, whose other files are none of the
    jail's business. Raises `OSError`, and `ValueError` where there are too many.
    """
    found = {path: Path(path)}
    there = [Path(path)]

    def look(inside: str, folder: Path) -> None:
        for entry in os.scandir(folder):
            here = f"{inside}/{entry.name}"
            if entry.is_symlink():
                # Inside no folder on the way is a link: names alone say where the kernel goes, and at the end of that path
                # lies what the whole chain of links leads to here.
                target = posixpath.normpath(posixpath.join(inside, os.readlink(entry)))
                if target in found or any(Path(target).is_relative_to(known) for known in there):
                    continue
                if len(found) > _MOST_LINKS:
                    raise ValueError(f"more than {_MOST_LINKS} links lead out of {path}: copy what they lead to")
                found[target] = Path(entry).resolve()
                if entry.is_dir():
                    there.append(Path(target))
                    look(target, found[target])
            elif entry.is_dir():
                look(here, Path(entry))

    if Path(path).is_dir():
        look(path, Path(path))
    return found


def local(name: str, value: str) -> str:
    """A value of `assets` or `data` as a path, the repository of the hub that it may name in that one's cache.

    `hf://ORG/NAME` or `hf://ORG/NAME@REVISION`: a model among assets, a data set among data. Asks the network only where
    the cache does not have it. Raises `BadInput`.
    """
    if not value.startswith(HUB):
        return os.path.abspath(value) if value.startswith("/") else value
    import huggingface_hub
    from httpx import HTTPError

    repo, _, revision = value.removeprefix(HUB).partition("@")
    kind = "dataset" if name.startswith("data.") else "model"
    said = ""
    for here in (True, False):
        try:
            return huggingface_hub.snapshot_download(
                repo, repo_type=kind, revision=revision or None, local_files_only=here
            )
        except (OSError, ValueError, HTTPError) as error:
            said = " ".join(str(error).split())[:200]
    raise BadInput(
        f"subject.{name} must name a {kind} of the Hugging Face hub that is in its cache or can be fetched, but {value!r} is"
        f" not ({said}); correct it, or fetch it where there is a network."
    )
