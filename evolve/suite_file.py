"""The suite of a subject: the evaluations that people have adopted, as a file that its next campaigns begin with. Files alone.

`<state_dir>/evaluations/<subject>.json` is a projection of the `SuiteChanged` events of all the subject's journals, like the
champion's YAML of promotions (`champion.py`): idempotent, finished by `evolve sync`, and fail-closed where somebody edited
it. The suite is additive: what was adopted keeps its name, its code and its place.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from evolve import campaign as files
from evolve import champion, durable, suite
from evolve.campaign import Folder
from evolve.errors import BadInput, EvolveError
from evolve.journal import read
from evolve.types import SuiteChanged, SuiteMetric

PROJECTION: champion.Projection = "suite"
_WAY_OUT = "`evolve sync` puts it right, suite=false begins without it"


def path_of(state_dir: Path, subject: str) -> Path:
    return state_dir / "evaluations" / f"{subject}.json"


def adopted(state_dir: Path, subject: str) -> tuple[SuiteMetric, ...]:
    """What a new campaign of the subject measures as well, in the order of adoption.

    Fails closed: raises `BadInput` where the file holds what no journal here has adopted, or lacks what one has. What a
    crash has left undone is taken from the journals.
    """
    path = path_of(state_dir, subject)
    written = _read(path)
    if written is None:
        raise BadInput(f"The suite's file must be as evolve wrote it, but {path} cannot be read; {_WAY_OUT}.")
    wanted = _merged(state_dir, subject, written)
    for metric in written:
        if metric not in wanted:
            raise BadInput(
                f"The suite's file must hold what people have adopted, but {metric.name!r} in {path} is not what the journal"
                f" of {metric.campaign[:80]} has; {_WAY_OUT}."
            )
    behind = any(PROJECTION in champion.behind(f) for f in _campaigns(state_dir, subject))
    if len(wanted) > len(written) and not behind:
        raise BadInput(
            f"The suite's file must hold all that was adopted, but {path} lacks {wanted[-1].name!r}; {_WAY_OUT}."
        )
    return wanted


def taken(state_dir: Path, subject: str) -> dict[str, str]:
    """name -> id of all that is adopted by now, in any campaign."""
    return {m.name: m.id for m in _merged(state_dir, subject, _read(path_of(state_dir, subject)) or ())}


def sync(folder: Folder) -> list[str]:
    """Makes the file say what the journals say; idempotent. Returns a line where it changed something."""
    subject = files.subject_of(folder)
    path = path_of(folder.state_dir, subject)
    before = _read(path)
    wanted = _merged(folder.state_dir, subject, before or ())
    if not wanted and not path.exists():
        return []
    metrics = [
        {
            "version": number,
            "name": m.name,
            "form": m.form,
            "sha256": m.id,
            "campaign": m.campaign,
            "approved_by": m.by,
            "code": m.code,
        }
        for number, m in enumerate(wanted, start=1)
    ]
    text = json.dumps({"subject": subject, "version": len(wanted), "metrics": metrics}, indent=1) + "\n"
    if path.exists() and path.read_bytes() == text.encode():
        return []
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.write(path, text)
    repaired = " put right" if before is None or any(m not in wanted for m in before) else ""
    return [f"suite file: {os.path.relpath(path)} version {len(wanted)}{repaired}"]


def _campaigns(state_dir: Path, subject: str) -> list[Folder]:
    return [f for f in files.campaigns(state_dir) if files.subject_of(f) == subject]


def _merged(state_dir: Path, subject: str, written: tuple[SuiteMetric, ...]) -> tuple[SuiteMetric, ...]:
    """What was adopted, by the journals that are here; of those that are not, what the file has and is genuine."""
    known = {f.name: _adopted_in(f) for f in _campaigns(state_dir, subject)}
    found: dict[str, SuiteMetric] = {}
    for metric in written:  # the order of adoption is the file's
        if metric.campaign not in known or metric in known[metric.campaign]:
            found.setdefault(metric.name, metric)
    for metrics in known.values():
        for metric in metrics:
            found.setdefault(metric.name, metric)  # two campaigns at once may have taken one name: the first keeps it
    return tuple(found.values())


def _adopted_in(folder: Folder) -> list[SuiteMetric]:
    if champion.last_change(folder, "SuiteChanged") is None:  # quick: most campaigns have adopted nothing
        return []
    try:
        return [r.event.metric for r, _ in read(folder.journal) if isinstance(r.event, SuiteChanged)]
    except EvolveError as error:
        raise BadInput(
            f"The suite needs the journal of {folder.name}, but {error}; or begin with suite=false."
        ) from error


def _read(path: Path) -> tuple[SuiteMetric, ...] | None:
    """None where it is there and not one that evolve wrote."""
    if not path.exists():
        return ()
    try:
        raw: dict[str, Any] = msgspec.json.decode(path.read_bytes())
        found = []
        for each in raw["metrics"]:
            metric = msgspec.convert({k: each[k] for k in ("name", "form", "code", "campaign")}, SuiteMetric)
            metric = replace(metric, by=str(each["approved_by"]))
            if metric.id != each["sha256"] or not suite.NAME.fullmatch(metric.name):
                return None
            found.append(metric)
        return tuple(found)
    except (OSError, msgspec.MsgspecError, KeyError, TypeError, ValueError):
        return None
