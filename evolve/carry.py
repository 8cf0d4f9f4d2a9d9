"""A champion's patch carried over to the sources of today, for a campaign that starts from it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from evolve import patches
from evolve.errors import BadInput, EvolveError, InvalidCandidate
from evolve.git import merged
from evolve.workspace import Snapshot, texts


def carried(patch: str, editable: Iterable[str], sources: Path, snapshot: Snapshot | None) -> str | None:
    """The same edit as a canonical patch against `sources`; None where they have it already.

    `snapshot` is what the patch was made against: with it both sides are merged, without it the lines around each change
    must stand in `sources` as they did. Raises `BadInput` where the edit does not fit any more.
    """
    editable = list(editable)
    now = texts(sources, editable)
    try:
        if snapshot is not None and snapshot.folder.is_dir():
            snapshot.verify()
            wanted = _merged(now, texts(snapshot.folder, editable), patch)
        else:
            wanted = _by_its_lines(now, patch)
        return None if wanted == now else patches.make(now, wanted)
    except EvolveError as error:
        raise BadInput(
            f"The champion's patch must fit the sources of today, but: {error} Merge the subject's branch into them"
            " (docs/review.md), or start=default begins without it."
        ) from error


def _merged(now: dict[str, str], then: dict[str, str], patch: str) -> dict[str, str]:
    wanted = dict(now)
    for name, new in patches.apply(then, patch).items():
        if name not in now:
            raise InvalidCandidate(f"{name} is not there any more.")
        both = merged(now[name], then[name], new)
        if both is None:
            raise InvalidCandidate(f"{name} has changed where the patch changes it.")
        wanted[name] = both
    return wanted


def _by_its_lines(now: dict[str, str], patch: str) -> dict[str, str]:
    try:
        patches.from_diff(now, patches.reverse(patch))
    except InvalidCandidate:
        return patches.from_diff(now, patch)
    return now  # it can be taken back: it is there
