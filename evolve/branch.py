"""Promoted edits as commits on a branch of the subject's repository, which ends at the champion's content.

`evolve/<subject>` is a projection of the promotions in the journal, like the champion's YAML and the registry: each promotion or
rollback that changes editable files has one commit, known again by its trailers, and what is there already is not done
twice. Where a commit would not be what was approved (files changed at the same place by others, somebody's own branch of that
name, a branch that is checked out), nothing is done, one line says what to do, and `evolve sync` tries again.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evolve import acceptance, champion, patches
from evolve import campaign as files
from evolve.campaign import Folder
from evolve.errors import EvolveError, InvalidCandidate, NotCommitted
from evolve.git import Commit, Repository, merged
from evolve.state import State
from evolve.tracking_page import plain
from evolve.types import Candidate, Promoted, Proposal, RolledBack, short
from evolve.workspace import even, texts

Texts = dict[str, str]  # editable file -> text
_TITLE, _CLAIM, _WIDTH = 60, 2000, 72  # characters
_CAMPAIGN = "Evolve-Campaign"


@dataclass(frozen=True)
class Origin:
    """Where a campaign's sources came from.

    `commit` is what the repository around `root` was at, perhaps with `-dirty`; None: there was none. `from_champion`: the
    campaign started from the champion of that time. `run_id` is the campaign's MLflow run, where there is one.
    """

    root: Path
    commit: str | None
    from_champion: bool = True
    run_id: str | None = None


class NoRepository(EvolveError):
    """There is nothing that a commit could be added to, and never will be: no failure of anyone's."""


@dataclass(frozen=True)
class _Step:
    """One change of the champion. `undone`: the promotion that a rollback takes back."""

    event: Promoted | RolledBack
    time: float
    before: Candidate
    after: Candidate
    undone: Promoted | None = None

    @property
    def trailer(self) -> tuple[str, str]:
        """What its commit is known by, within a campaign: no content is promoted twice in one."""
        if isinstance(self.event, Promoted):
            return "Evolve-Promotion", self.event.content_hash
        return "Evolve-Rollback", self.undone.content_hash if self.undone else ""


def sync(folder: Folder, state: State, origin: Origin) -> list[str]:
    """Makes the branch say what the promotions say; the second call changes nothing and returns [].

    A campaign whose champion is not the subject's any more leaves the branch alone. Raises `NotCommitted` where something has
    to be mended first, and `NoRepository`; then nothing was changed.
    """
    subject = state.campaign.subject
    steps = _steps(state)
    if not steps or not subject.editable or champion.owner(folder.state_dir, subject.name) != folder:
        return []
    others = [f.name for f in files.campaigns(folder.state_dir) if f != folder and files.subject_of(f) == subject.name]
    edited = any(step.before.patch or step.after.patch for step in steps)
    if not edited and not others:
        return []  # parameters alone: their place is the champion's YAML
    try:
        branch = _find(subject.name, origin)
    except (NotCommitted, NoRepository):
        if edited:
            raise
        return []
    if not edited and (branch.last is None or branch.last.trailers[_CAMPAIGN] not in others):
        return []
    return _extend(branch, _Content(folder, state), state, steps, _Told(folder, origin))


def _find(subject: str, origin: Origin) -> _Branch:
    if origin.commit is None:
        raise NoRepository("no branch has the promoted edit, since its campaign began outside of git")
    repository = Repository.find(origin.root)
    if repository is None:
        raise NoRepository(f"no branch has the promoted edit, since no git repository holds {origin.root}")
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", subject)
    return _Branch(repository, f"refs/heads/evolve/{name}", origin.commit.removesuffix("-dirty"))


def _steps(state: State) -> list[_Step]:
    """Every change of the champion, in order."""
    now, line, found = state.campaign.start.id, list[tuple[str, Promoted]](), list[_Step]()
    candidates = {name: entry.proposal.candidate for name, entry in state.entries.items()}
    for event, time in zip(state.promotions, state.promoted_at, strict=True):
        if isinstance(event, Promoted):
            line.append((now, event))
            found.append(_Step(event, time, candidates[now], candidates[event.candidate_id]))
            now = event.candidate_id
        else:
            before, undone = line.pop()
            found.append(_Step(event, time, candidates[now], candidates[before], undone))
            now = before
    return found


def _lasting(steps: Iterable[_Step]) -> list[_Step]:
    """Without the promotions that were taken back before anybody saw a commit of them."""
    kept: list[_Step] = []
    for step in steps:
        if isinstance(step.event, RolledBack) and kept and kept[-1].event is step.undone:
            kept.pop()
        else:
            kept.append(step)
    return kept


# ---------------------------------------------------------------- what is there


class _Branch:
    """The branch as it is now. `parent` is what the next commit is put on; `ours` has evolve's commits, the newest first.

    Where the campaign's own commit holds the whole branch already (somebody has merged it), it goes on from there and
    `ours` is empty.
    """

    def __init__(self, repository: Repository, ref: str, commit: str) -> None:
        self.repository, self.ref, self.name = repository, ref, ref.removeprefix("refs/heads/")
        self.tip = repository.head(ref)
        recorded = commit if repository.has(commit) else None
        self.ours: list[Commit] = []
        self.last: Commit | None = None  # of evolve's
        self.parent = self.tip or recorded
        if self.tip is not None:
            is_merged = recorded is not None and repository.is_ancestor(self.tip, recorded)
            history = repository.history(self.tip, None if is_merged else recorded)
            ours = [c for c in (history[:1] if is_merged else history) if _CAMPAIGN in c.trailers]
            self.last = ours[0] if ours else None
            if is_merged:
                self.parent = recorded
            else:
                self.ours = ours
        self._commit = commit

    def check(self) -> str:
        """The commit to go on from. Raises `NotCommitted` where there is none, or the branch is not ours to move."""
        if self.tip is not None and self.last is None:
            raise NotCommitted(
                f"Promotions are committed on a branch of evolve's own, but the last commits of {self.name} have no trailer"
                f" `{_CAMPAIGN}`; rename that branch (`git branch -m {self.name} OTHER`), then run `evolve sync`."
            )
        if self.parent is None:
            raise NotCommitted(
                f"A promotion is committed on what its campaign began with, but {self.repository.folder} has no commit"
                f" {self._commit[:12]}; fetch it, then run `evolve sync`."
            )
        if place := self.repository.used_by(self.ref):
            raise NotCommitted(
                f"A branch that is checked out must not move under a person's hands, but {self.name} is in use by {place};"
                " switch that to another branch, then run `evolve sync`."
            )
        return self.parent


class _Content:
    """The editable files of the campaign's candidates, by its own copy of the sources."""

    def __init__(self, folder: Folder, state: State) -> None:
        snapshot = folder.snapshot(state)
        try:
            snapshot.verify()
        except (EvolveError, OSError) as error:
            raise NotCommitted(f"A commit needs the campaign's copy of the sources, but: {error}") from error
        self.folder = snapshot.folder
        self.pristine = texts(snapshot.folder, state.campaign.subject.editable)

    def of(self, candidate: Candidate, names: Iterable[str]) -> Texts:
        new = self._new(candidate)
        return {name: new.get(name, self.pristine.get(name, "")) for name in names}

    def changed(self, *candidates: Candidate) -> set[str]:
        return {name for candidate in candidates for name in self._new(candidate)}

    def _new(self, candidate: Candidate) -> Texts:
        try:
            changed = patches.apply(self.pristine, candidate.patch) if candidate.patch else {}
        except InvalidCandidate as error:
            raise NotCommitted(
                f"The patch of {short(candidate.id)} must fit its campaign's files, but: {error}"
            ) from error
        return {name: even(text) for name, text in changed.items()}


# ---------------------------------------------------------------- what is missing


def _extend(branch: _Branch, content: _Content, state: State, steps: list[_Step], told: _Told) -> list[str]:
    """Adds the commits that are missing, all at once."""
    seen = {
        (name, value)
        for c in branch.ours
        if c.trailers[_CAMPAIGN] == told.campaign
        for name, value in c.trailers.items()
    }
    position = max((i for i, step in enumerate(steps, start=1) if step.trailer in seen), default=0)
    follows = position > 0  # another commit of this campaign's
    parent, lines, way_out = "", list[str](), f"take those lines back in a commit on {branch.name}"
    if branch.tip is None:  # uncommitted changes at the start, which are nowhere in the repository
        way_out = (
            f"commit the campaign's copy of it (below {content.folder}) on a new branch {branch.name}, with a trailer"
            f" `{_CAMPAIGN}: {told.campaign}`"
        )
    for step in _lasting(steps[position:]):
        if follows:
            names = content.changed(step.before, step.after)
            base: Mapping[str, str | None] = content.of(step.before, names)
        else:
            names, base = _first(branch, content, state, step, told)
        target = content.of(step.after, names)
        if all(base.get(name) == target[name] for name in names):
            continue
        parent = parent or branch.check()
        changes = _changes(branch, parent, base, target, way_out)
        message = told.message(state, step)
        parent = branch.repository.commit(parent, changes, message, int(step.time))
        lines.append(f"branch {branch.name}: {parent[:8]} {message.splitlines()[0]}")
        follows = True
    if lines:
        branch.repository.move(branch.ref, parent, branch.tip, "evolve")
    return lines


def _first(
    branch: _Branch, content: _Content, state: State, step: _Step, told: _Told
) -> tuple[set[str], Mapping[str, str | None]]:
    """(files, their text as the branch was meant to have it) before the campaign's first commit."""
    if not branch.ours:
        names = content.changed(step.after)
        return names, {name: content.pristine[name] for name in names}
    names = content.changed(step.after, state.campaign.start)
    last = branch.ours[0]
    if not told.from_champion or last.time > told.begun:  # the campaign did not start from what the branch has
        touched = {name for c in branch.ours for name in branch.repository.changed(c.id)}
        names |= touched & set(content.pristine)
    entries = branch.repository.entries(last.id, sorted(names))
    return names, {name: _text(branch.repository.content(entries[name])) if name in entries else None for name in names}


def _changes(
    branch: _Branch, parent: str, base: Mapping[str, str | None], target: Texts, way_out: str
) -> dict[str, tuple[str, bytes]]:
    """What has to be written on top of `parent`: file -> (mode, content)."""
    names = sorted(name for name in target if base.get(name) != target[name])
    entries, changes = branch.repository.entries(parent, names), {}
    if not entries and branch.tip is None:  # ignored by the repository around it, as an installed wheel is
        raise NoRepository(
            f"no branch has the promoted edit, since the git repository around {branch.repository.folder} does not hold"
            f" {', '.join(names)}"
        )
    for name in names:
        entry = entries.get(name)
        if entry is None or not entry.regular:
            what = "is not there" if entry is None else "is no regular file"
            raise _unmergeable(name, f"{what} in commit {parent[:8]}", way_out)
        data = branch.repository.content(entry)
        ours, old = _text(data), base.get(name)
        new = None if ours is None or old is None else merged(ours, old, target[name])
        if ours == target[name]:
            continue
        if new is None:
            raise _unmergeable(name, f"commit {parent[:8]} has other lines where the edit changes some", way_out)
        changes[name] = (entry.mode, (new.replace("\n", "\r\n") if b"\r\n" in data else new).encode())
    return changes


def _unmergeable(name: str, why: str, way_out: str) -> NotCommitted:
    return NotCommitted(
        f"A promoted edit must merge cleanly into its branch, but {name}: {why}; {way_out}, then run `evolve sync`."
    )


def _text(data: bytes) -> str | None:
    try:
        return even(data.decode())
    except UnicodeDecodeError:
        return None


# ---------------------------------------------------------------- messages


class _Told:
    """What commits say beside their content. All of it is cleaned: no text of others can be taken for a trailer."""

    def __init__(self, folder: Folder, origin: Origin) -> None:
        self.campaign, self.begun = folder.name, files.begun(folder)
        self.from_champion, self.run_id = origin.from_champion, origin.run_id

    def message(self, state: State, step: _Step) -> str:
        title, body, trailers = (_promotion if isinstance(step.event, Promoted) else _rollback)(state, step)
        trailers = [*trailers[:1], (_CAMPAIGN, self.campaign), *trailers[1:]]
        if self.run_id is not None:
            trailers.append(("MLflow-Run", self.run_id))
        last = "\n".join(f"{name}: {plain(value, 200) or '(none)'}" for name, value in trailers)
        return "\n\n".join([title, *(part for part in body if part), last]) + "\n"


Message = tuple[str, Sequence[str], list[tuple[str, str]]]  # first line, paragraphs, trailers


def _promotion(state: State, step: _Step) -> Message:
    event, entry = step.event, state.entries[step.after.id]
    assert isinstance(event, Promoted)
    first = next((line for line in map(_title, entry.proposal.rationale.splitlines()) if line), "")
    title = f"Promote {short(step.after.id)}" + (f": {first}" if first else "")
    gain = plain(acceptance.gain_text(state, step.after.id))
    who = acceptance.approvals(state, event.content_hash)
    body = (_claim(entry.proposal), f"Better than the champion before by {gain}.")
    return title, body, [
        ("Evolve-Candidate", step.after.id),
        ("Evolve-Run", str(event.trial_number)),
        step.trailer,
        *(("Approved-by", approval.by) for approval in who),
    ]  # fmt: skip


def _rollback(state: State, step: _Step) -> Message:
    event = step.event
    assert isinstance(event, RolledBack)
    title = f"Roll back {short(step.before.id)} to {short(step.after.id)}"
    trailers = [("Evolve-Candidate", step.after.id), step.trailer, ("Rolled-back-by", event.by or "unknown")]
    return title, (), [*trailers, *([("Reason", _foreign(event.reason, 200))] if event.reason else [])]


def _claim(proposal: Proposal) -> str:
    """Indented, so that no line of it begins like a trailer, a patch or a divider."""
    text = _foreign(proposal.rationale, _CLAIM)
    if not text:
        return ""
    lines = textwrap.wrap(text, _WIDTH - 4, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join([f"Claim of {_foreign(proposal.proposer, 40)}, checked by nobody:", "", *lines])


def _title(line: str) -> str:
    return plain(_foreign(line, _CLAIM), _TITLE)


def _foreign(text: str, limit: int) -> str:
    """On one line, without what servers act upon: mentions, issues that are closed, `[skip ci]`."""
    return re.sub(r"([@#])(?=\w)", r"\1 ", plain(text, limit).replace("[", "(").replace("]", ")"))
