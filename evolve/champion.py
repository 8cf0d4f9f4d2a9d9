"""What a promotion leaves outside of its journal: the champion's YAML, and how far the projections have come. Files alone.

The other projections are the registry (`registry.py`) and, where code was edited, a branch of the subject's repository (`branch.py`).

The champion of a subject is that of the campaign which promoted last, by the times in the journals; a rollback is of its
own campaign's line, and unseats nobody else's. The YAML says that; the registry (`registry.py`) goes by the same rule.

`projected.json` in a campaign's folder says up to which line of the journal each projection has been carried out, so that
any command sees at once what a crash has left behind. Without the file it is all done again, which changes nothing.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import filelock
import msgspec
import yaml

from evolve import campaign as files
from evolve import durable
from evolve.campaign import Folder
from evolve.errors import BadInput, EvolveError
from evolve.space import value_text
from evolve.state import State
from evolve.types import Candidate, Parameter, Value, short
from evolve.workspace import Snapshot

Projection = Literal["file", "branch", "registry", "suite"]  # the last one of adopted evaluations, see `suite_file.py`
PROJECTIONS: tuple[Projection, ...] = ("file", "branch", "registry")
_LOCK_SECONDS = 60.0  # another command may be at the registry, which may be slow
_START = "start=default begins without it"


# ---------------------------------------------------------------- promotions in the journals


@dataclass(frozen=True)
class Change:
    """The last line of a journal that changed the champion."""

    seq: int
    time: float


def last_change(folder: Folder, *kinds: str) -> Change | None:
    """The last event of these kinds (promotions and rollbacks), found without reading the whole journal."""
    try:
        with folder.journal.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            found = [_last(text, kind) for kind in kinds or ("Promoted", "RolledBack")]
    except (OSError, ValueError):  # not there, or empty
        return None
    return max((c for c in found if c is not None), key=lambda c: c.seq, default=None)


def _last(text: mmap.mmap, kind: str) -> Change | None:
    end = len(text)
    while (at := text.rfind(f'"type":"{kind}"'.encode(), 0, end)) >= 0:
        begin, stop = text.rfind(b"\n", 0, at) + 1, text.find(b"\n", at)
        if stop >= 0:  # else torn
            try:
                raw = msgspec.json.decode(text[begin:stop])
                if raw["type"] == kind:
                    return Change(int(raw["seq"]), float(raw["time"]))
            except (msgspec.DecodeError, KeyError, TypeError, ValueError):
                pass  # whoever reads the journal as a whole says so
        end = begin
    return None


def owner(state_dir: Path, subject: str) -> Folder | None:
    """The campaign whose champion is the subject's: the one that promoted last. None where nobody has."""
    found = [
        (change.time, number, folder)
        for number, folder in enumerate(files.campaigns(state_dir))
        if files.subject_of(folder) == subject and (change := last_change(folder, "Promoted"))
    ]
    return max(found, key=lambda item: item[:2])[2] if found else None


# ---------------------------------------------------------------- how far the projections have come


def behind(folder: Folder) -> list[Projection]:
    """The projections that do not say yet what the journal says about its champion, and about the suite."""
    change, suite = last_change(folder), last_change(folder, "SuiteChanged")
    done = _projected(folder)
    found = [p for p in PROJECTIONS if change is not None and done.get(p) != change.seq]
    return [*found, "suite"] if suite is not None and done.get("suite") != suite.seq else found


def mark(folder: Folder, projection: Projection, seq: int) -> None:
    """The projection says what the journal says up to line `seq`."""
    done = _projected(folder)
    if done.get(projection) != seq:
        durable.write(folder.path / "projected.json", json.dumps(done | {projection: seq}))


def _projected(folder: Folder) -> dict[str, Any]:
    try:
        raw = json.loads((folder.path / "projected.json").read_text())
        return raw if isinstance(raw, dict) else {}
    except (OSError, ValueError):
        return {}


@contextmanager
def projecting(state_dir: Path, subject: str) -> Iterator[None]:
    """One process at a time writes what the promotions of a subject lead to. Raises `EvolveError`."""
    try:
        folder = state_dir / "champions"
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / f".{subject}.lock", timeout=_LOCK_SECONDS, is_singleton=False):
            yield
    except filelock.Timeout as error:
        raise EvolveError(
            f"One command at a time carries out a promotion, but another has been at it for {_LOCK_SECONDS:.0f} s;"
            " run `evolve sync` later."
        ) from error


# ---------------------------------------------------------------- the YAML


def path_of(state_dir: Path, subject: str) -> Path:
    return state_dir / "champions" / f"{subject}.yaml"


@dataclass(frozen=True)
class Written:
    """A champion's YAML as it was read."""

    campaign: str
    candidate: str
    content: Candidate

    @property
    def genuine(self) -> bool:
        """Whether params, patch and declared hyperparameters are those that the candidate's id was made from."""
        try:
            return self.content.id == self.candidate
        except (TypeError, ValueError):
            return False


@dataclass(frozen=True)
class Start:
    """The champion that a new campaign begins with. Its patch is against `snapshot`, None where that is not here."""

    candidate: Candidate
    origin: str
    snapshot: Snapshot | None = None


def _read(path: Path) -> Written | None:
    """None where it is not there or not one that evolve wrote."""
    try:
        raw = yaml.safe_load(path.read_text())
        declared = msgspec.convert(raw.get("declared") or {}, dict[str, Parameter])
        patch = raw.get("patch")
        content = Candidate(
            dict(raw["params"]), str(raw.get("subject_version")), None if patch is None else str(patch), declared
        )
        return Written(str(raw["campaign"]), str(raw["candidate"]), content)
    except (OSError, yaml.YAMLError, msgspec.ValidationError, KeyError, TypeError, ValueError, AttributeError):
        return None


def starting_point(state_dir: Path, subject: str) -> Start | None:
    """The subject's champion, or None where there never was one.

    Fails closed: raises `BadInput` where the file was edited or deleted by hand. What a crash has left undone is taken from
    the journal.
    """
    path, folder = path_of(state_dir, subject), owner(state_dir, subject)
    written = _read(path)
    if written is not None and written.campaign not in [f.name for f in files.campaigns(state_dir)]:
        if written.genuine:  # its journal was put away, or it was brought here
            return Start(written.content, f"champion {written.candidate[:8]} of campaign {written.campaign}")
        raise BadInput(
            f"A champion's file must be as evolve wrote it, but params or patch of {path} are not those of candidate"
            f" {written.candidate[:8]}, and its journal is not here; put the old file back, or {_START}."
        )
    if folder is None:
        if not path.exists():
            return None
        raise BadInput(
            f"A champion's file must be what a campaign promoted, but no journal here has promoted {path}; put it"
            f" away, or {_START}."
        )
    state = files.load(folder)
    champion = state.entries[state.champion_id].proposal.candidate
    if "file" not in behind(folder) and (wrong := _difference(path, written, folder, champion)):
        raise BadInput(
            f"A champion's file must say what was promoted, but {path} {wrong}; `evolve sync` puts it right, {_START}."
        )
    return Start(champion, f"champion {short(champion.id)} of campaign {folder.name}", folder.snapshot(state))


def _difference(path: Path, written: Written | None, folder: Folder, champion: Candidate) -> str:
    """What the file has that the journal has not, in a few words; "" where they agree."""
    if written is None:
        return "cannot be read" if path.exists() else "is not there"
    if (written.campaign, written.candidate) != (folder.name, champion.id):
        return (
            f"names {written.candidate[:8]} of campaign {written.campaign[:80]}, where the journal has"
            f" {short(champion.id)} of {folder.name}"
        )
    params = written.content.params
    for name in [*champion.params, *params]:
        mine, theirs = champion.params.get(name), params.get(name)
        if mine != theirs or type(mine) is not type(theirs):
            return f"has {name}={_text(theirs)}, where the journal has {_text(mine)}"
    if written.content.patch != champion.patch:
        return "has another patch than the journal"
    return "" if written.content.declared == champion.declared else "declares other hyperparameters than the journal"


def _text(value: Value | None) -> str:
    return "none" if value is None else value_text(value) if isinstance(value, int | float) else f"{str(value)[:40]!r}"


def sync_file(folder: Folder, state: State) -> list[str]:
    """Makes the champion's YAML say what the journals say; idempotent. Returns a line where it changed something.

    A file of another campaign is left alone where that promoted later, or where its journal is not here.
    """
    subject = state.campaign.subject.name
    path = path_of(folder.state_dir, subject)
    if not state.promotions or owner(folder.state_dir, subject) != folder:
        return []
    written, champion = _read(path), state.entries[state.champion_id].proposal.candidate
    after_a_promotion = "file" in behind(folder)
    foreign = written is not None and written.campaign not in [f.name for f in files.campaigns(folder.state_dir)]
    if foreign and not after_a_promotion and written is not None and written.genuine:
        return []
    approvals = [a for a in state.approvals if a.candidate_id == champion.id and a.decision == "approve"]
    content: dict[str, Any] = {
        "subject": subject,
        "campaign": folder.name,
        "candidate": champion.id,
        "subject_version": champion.subject_version,
        "approved_by": ", ".join(dict.fromkeys(a.by for a in approvals)) or None,
        "params": dict(champion.params),
    }
    text = "# Written by evolve at a promotion; the next campaign starts from it (start=default: does not).\n"
    if state.campaign.subject.unconfirmed:
        text += f"# {state.campaign.subject.unconfirmed}\n"
    if champion.declared:
        content["declared"] = {name: _definition(p) for name, p in champion.declared.items()}
    text += yaml.safe_dump(content, sort_keys=False) + ("" if champion.patch is None else _patch_text(champion.patch))
    if path.exists() and path.read_bytes() == text.encode():
        return []
    wrong = "" if after_a_promotion else _difference(path, written, folder, champion) or "differs"
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.write(path, text)
    return [f"champion file: {os.path.relpath(path)}" + (f" {wrong}; put right" if wrong else "")]


def _definition(parameter: Parameter) -> dict[str, Any]:
    """What a YAML has to say of a hyperparameter: all that is not the default."""
    raw = msgspec.to_builtins(parameter)
    usual = msgspec.to_builtins(Parameter(parameter.type, parameter.default))
    return {name: value for name, value in raw.items() if name in ("type", "default") or value != usual[name]}


def _patch_text(patch: str) -> str:
    """The patch as it is read by people; quoted where YAML could not give it back as it was."""
    block = "patch: |2+\n" + "".join(f"  {line}\n" for line in patch.removesuffix("\n").split("\n"))
    try:
        if yaml.safe_load(block) == {"patch": patch}:
            return block
    except yaml.YAMLError:
        pass
    return yaml.safe_dump({"patch": patch})
