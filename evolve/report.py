"""`evolve report`: a campaign as one HTML file that can be sent to a colleague. From the journal alone, without MLflow.

Every element is made here, and all text enters as the text of an element that the serialiser escapes: no markup is ever put
together from strings, so that foreign text cannot become an element. There is no script, nothing is loaded, and the file's
own policy forbids both. What a proposal, a training or a person wrote has passed `plain` before. Part of the CLI.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

from evolve import acceptance, durable, pictures, tracking_page
from evolve.edits import difference
from evolve.errors import BadInput, EvolveError
from evolve.space import changes, value_text
from evolve.staircase import PROGRESS
from evolve.state import State, apply
from evolve.tracking_page import plain, stage
from evolve.types import Evaluation, Promoted, Record, RolledBack, short

LEADERS = 10
MOST_ACCEPTED = 25  # accepted candidates in detail, the latest
MOST_TRIALS = 2000  # rows of the last table, the latest
_CHANGES = 160  # characters, in a table

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "Segoe UI", "Liberation Sans", sans-serif; color: #22272e; background: #fff;
  max-width: 1000px; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; border-bottom: 1px solid #d8dee4; padding-bottom: .25rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { margin: .35rem 0; }
.dim, figcaption, .note { color: #57606a; }
.note, figcaption { font-size: .87rem; }
code, .id { font: .9em ui-monospace, "Liberation Mono", monospace; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .7rem; margin: 1.1rem 0; }
.fact { border: 1px solid #d8dee4; border-radius: 8px; padding: .55rem .8rem; }
.fact b { display: block; font-size: 1.12rem; overflow-wrap: anywhere; }
.fact span { color: #57606a; font-size: .85rem; }
.wide { grid-column: 1 / -1; }
figure { margin: 1rem 0; break-inside: avoid; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-size: .87rem; margin: .5rem 0; }
th { text-align: left; color: #57606a; font-weight: 600; border-bottom: 1px solid #afb8c1; }
th, td { padding: .25rem .6rem .25rem 0; vertical-align: top; min-width: 2.8rem; }
td { border-bottom: 1px solid #eaeef2; unicode-bidi: isolate; overflow-wrap: anywhere; }
tr { break-inside: avoid; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.short { white-space: nowrap; }
.good { color: #1a7f4b; font-weight: 600; }
.bad { color: #b3261e; font-weight: 600; }
.claim { border-left: 3px solid #d8dee4; padding-left: .8rem; color: #57606a; unicode-bidi: isolate;
  overflow-wrap: anywhere; }
@media print { body { margin: 0; max-width: none; font-size: 11px; } h2 { break-after: avoid; }
  .facts { grid-template-columns: repeat(4, 1fr); } @page { margin: 14mm; } }
"""


@dataclass
class Told:
    """A campaign as its journal has it by now."""

    state: State = field(default_factory=State)
    times: list[float] = field(default_factory=list)  # of the promotions and rollbacks, seconds since the epoch
    events: int = 0
    last: float = 0.0  # the time of the last event


def tell(records: Iterable[Record]) -> Told:
    """Raises `EvolveError` where the journal has no first event."""
    told = Told()
    for record in records:
        apply(told.state, record.event, record.time)
        told.events, told.last = told.events + 1, record.time
        if isinstance(record.event, Promoted | RolledBack):
            told.times.append(record.time)
    if told.state.started is None:
        raise EvolveError("A report needs a campaign, but it was ended before its first event; start a new campaign.")
    return told


def write(told: Told, path: Path, *, alive: bool) -> int:
    """Writes the report in the place of an earlier one, whole or not at all; its size in bytes. Raises `BadInput`."""
    if path.is_dir():
        raise BadInput(f"--out must name a file, but {str(path)!r} is a folder; add a file's name.")
    data = html(told, pictures.draw(told.state), alive=alive).encode()
    try:
        durable.write(path, data)
    except OSError as error:
        raise BadInput(
            f"The report must be written to {path}, but {error.strerror}; choose a place with --out."
        ) from error
    return len(data)


def html(told: Told, drawn: dict[str, bytes], *, alive: bool) -> str:
    """The whole file. `drawn`: file name -> PNG, as `pictures.draw` makes them."""
    state = told.state
    root = Element("html", lang="en")
    head, body = SubElement(root, "head"), SubElement(root, "body")
    hashed = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{hashed}'; base-uri 'none'; form-action 'none'"
    SubElement(head, "meta", charset="utf-8")
    SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": policy})
    SubElement(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    add(head, "title", f"{plain(state.campaign.campaign)}: evolve report")
    add(head, "style", _STYLE)
    _summary(body, told, alive=alive)
    subject = state.campaign.subject
    fresh = "fresh seeds and fresh problems" if subject.fresh_problems else "fresh seeds"
    doubt = f" ({subject.unconfirmed})" if subject.unconfirmed else ""
    _figure(body, drawn, PROGRESS, "Progress of the campaign",
            "Means on the search split, which were selected for being high; bars are one standard error. Kept means"
            f" accepted by the gate on {fresh}, and by the vault{doubt}.")  # fmt: skip
    _waiting(body, state)
    _promotions(body, told)
    _leaderboard(body, state)
    for name, title in ((pictures.FRONT, "The Pareto front"), (pictures.IMPORTANCES, "Parameter importances")):
        _figure(body, drawn, name, title, "")
    _accepted(body, state)
    _trials(body, state)
    return "<!DOCTYPE html>\n" + tostring(root, encoding="unicode", method="html") + "\n"


# ---------------------------------------------------------------- elements


def add(parent: Element, tag: str, text: str = "", kind: str = "") -> Element:
    """An element of ours with a text."""
    made = SubElement(parent, tag, {"class": kind} if kind else {})
    made.text = text
    return made


def table(parent: Element, heads: Sequence[str], rows: Iterable[Sequence[str]], kinds: Sequence[str] = ()) -> None:
    """`kinds`: the class of each column, where it has one."""
    made = SubElement(parent, "table")
    row = SubElement(SubElement(made, "thead"), "tr")
    kinds = [*kinds, *[""] * (len(heads) - len(kinds))]
    for head, kind in zip(heads, kinds, strict=True):
        add(row, "th", head, kind if kind == "number" else "")
    body = SubElement(made, "tbody")
    for cells in rows:
        row = SubElement(body, "tr")
        for cell, kind in zip(cells, kinds, strict=True):
            add(row, "td", cell, kind)


def _figure(body: Element, drawn: dict[str, bytes], name: str, title: str, caption: str) -> None:
    if name not in drawn:
        return
    figure = SubElement(body, "figure")
    SubElement(figure, "img", alt=title, src="data:image/png;base64," + base64.b64encode(drawn[name]).decode())
    if caption:
        add(figure, "figcaption", caption)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _score(score: Evaluation | None) -> str:
    return "-" if score is None else f"{score.mean:.4f} ± {score.stderr:.4f}"


def _changed(state: State, candidate_id: str, limit: int = _CHANGES) -> str:
    proposal = state.entries[candidate_id].proposal
    text = plain(difference(proposal.candidate, state.campaign.start), limit)
    return text if proposal.candidate.patch is None else f"edited code; {text}"


# ---------------------------------------------------------------- the parts


def _summary(body: Element, told: Told, *, alive: bool) -> None:
    state = told.state
    subject, champion = state.campaign.subject, state.search_score(state.champion_id)
    add(body, "h1", plain(state.campaign.campaign))
    add(body, "p", f"{plain(subject.name)}: {plain(subject.description)}", "dim")
    ended = tracking_page.status(state) if state.stopped else "interrupted"
    add(body, "p", f"{'running' if alive else plain(ended)}; as of {_when(told.last)}, event {told.events}", "dim")
    floor = state.noise_floor()
    goals = "; ".join(f"{plain(o.metric, 60)}, {o.direction}" for o in state.objectives)
    facts = SubElement(body, "div", {"class": "facts"})
    waiting = len(state.pending) + len(state.stale)
    _fact(facts, str(len(acceptance.kept(state))), "kept: accepted by gate and vault")
    _fact(facts, str(waiting), "waiting for a person" + (": evolve review" if waiting else ""))
    _fact(facts, str(sum(isinstance(e, Promoted) for e in state.promotions)), "promotions by a person")
    seeds = f": standard deviation over {floor[1]} seeds" if floor else ""
    _fact(facts, f"{floor[0]:.4g}" if floor else "not known yet", f"noise floor{seeds}")
    whose = "the start config" if state.champion_id == state.campaign.start.id else "promoted"
    _fact(facts, f"{short(state.champion_id)}   {_score(champion)}", f"champion, {whose}; {goals}", "fact wide")
    _fact(facts, tracking_page.budget_text(state), "spent of the budget", "fact wide")
    promise = acceptance.promise_text(state.campaign.rules.gate)
    _fact(facts, promise, "the gate's setting and what it promises", "fact wide")


def _fact(facts: Element, value: str, name: str, kind: str = "fact") -> None:
    fact = add(facts, "div", kind=kind)
    add(fact, "b", value)
    add(fact, "span", name)


def _evidence(state: State, candidate_id: str) -> tuple[str, str]:
    entry = state.entries[candidate_id]
    return acceptance.gain_text(state, candidate_id), acceptance.seeds_text(entry.verdict)


def _promise(body: Element, state: State) -> None:
    """Wherever an acceptance is shown."""
    text = f"The intervals are corrected for having been selected. Gate {acceptance.promise_text(state.campaign.rules.gate)}."
    add(body, "p", text, "note")


def _waiting(body: Element, state: State) -> None:
    add(body, "h2", "Waiting for approval")
    waiting = [*state.pending, *state.stale]
    if not waiting:
        add(body, "p", "Nothing waits.", "dim")
        return
    rows = [
        (
            short(c),
            *_evidence(state, c),
            "champion changed: evidence to be renewed"
            if c in state.stale
            else acceptance.vault_text(state.campaign.subject),
            _changed(state, c),
        )
        for c in waiting
    ]
    table(body, ("candidate", "better by", "evidence", "vault", "changes against the start"), rows, ("id",))
    _promise(body, state)


def _promotions(body: Element, told: Told) -> None:
    state = told.state
    add(body, "h2", "Promotions")
    if not state.promotions:
        add(body, "p", "Nothing was promoted.", "dim")
        return
    rows = []
    for event, when in reversed(list(zip(state.promotions, told.times, strict=True))):
        who, why = plain(acceptance.person(state, event)), plain(acceptance.reason(state, event))
        if isinstance(event, Promoted):
            content = f"{short(event.content_hash)}, in the place of {short(event.previous_id)}"
            gain, seeds = _evidence(state, event.candidate_id)
            vault = acceptance.vault_text(state.campaign.subject)
            rows.append((_when(when), short(event.candidate_id), who, why, gain, f"{seeds}; vault {vault}", content))
        else:
            content = f"back to {short(event.restored_id)}"
            rows.append((_when(when), short(event.candidate_id), who, why, "rolled back", "", content))
    heads = ("when", "candidate", "by", "reason", "better by", "evidence", "content")
    table(body, heads, rows, ("", "id"))
    _promise(body, state)


def _leaderboard(body: Element, state: State) -> None:
    add(body, "h2", "Leaderboard")
    scored = [(c, score) for c in state.entries if (score := state.search_score(c)) is not None]
    front = set(state.front()) if state.campaign.subject.secondary else set()
    best = heapq.nlargest(LEADERS, scored, key=lambda item: (item[0] in front, state.sign * item[1].mean))
    more = [plain(o.metric, 40) for o in state.campaign.subject.secondary]
    rows = []
    for rank, (c, score) in enumerate(best, start=1):
        point = state.values(c) if more else None
        others = [f"{x:.4g}" for x in point[1:]] if point else ["-"] * len(more)
        entry = state.entries[c]
        verdict = entry.verdict.decision if entry.verdict else ""
        star = f"{rank} ★" if c in front else str(rank)
        cells = (star, short(c), _score(score), *others, verdict, stage(state, c), plain(entry.proposal.proposer, 40))
        rows.append((*cells, _changed(state, c)))
    heads = ("", "candidate", "score", *more, "verdict", "stage", "proposer", "changes against the start")
    table(body, heads, rows, ("number", "id", "number", *["number"] * len(more), "short", "short"))
    about = "Mean on the search split ± standard error: selected for being high, so that it flatters."
    add(body, "p", about + (" ★: on the Pareto front." if more else ""), "note")


def _accepted(body: Element, state: State) -> None:
    """Each accepted candidate: what changed, by how much it is better, what the guards found, what its proposer claims."""
    found = acceptance.accepted(state)
    if not found:
        return
    add(body, "h2", "Accepted candidates")
    _promise(body, state)
    if len(found) > MOST_ACCEPTED:
        add(body, "p", f"The latest {MOST_ACCEPTED} of {len(found)}.", "note")
    for c in reversed(found[-MOST_ACCEPTED:]):
        entry = state.entries[c]
        gain, seeds = _evidence(state, c)
        add(body, "h3", f"{short(c)}, {stage(state, c)}")
        vault = acceptance.vault_text(state.campaign.subject)
        add(body, "p", f"Better by {gain}; {seeds}; vault {vault}. Search {_score(state.search_score(c))}.")
        if entry.reason:
            add(body, "p", f"Reason: {plain(entry.reason)}")
        against = entry.challenge.champion_id if entry.challenge else state.campaign.start.id
        base = state.entries[against].proposal.candidate.params
        rows = [
            (plain(name, 60), value_text(old), plain(value_text(new)))
            for name, (old, new) in changes(entry.proposal.candidate.params, base).items()
        ]
        table(body, ("parameter", f"champion {short(against)}", short(c)), rows)
        if entry.proposal.candidate.patch is not None:
            add(body, "p", "It edits the code: the patch is `patch.diff` of its trials in MLflow.", "note")
        _guards(body, state, c)
        claim = plain(entry.proposal.rationale, 600)
        if claim:
            who = plain(entry.proposal.proposer, 60)
            add(body, "p", f"Claimed by its proposer ({who}), checked by nobody: {claim}", "claim")


def _guards(body: Element, state: State, candidate_id: str) -> None:
    verdict = state.entries[candidate_id].verdict
    found = verdict.guards if verdict else ()
    if not found:
        return
    made = SubElement(body, "table")
    row = SubElement(SubElement(made, "thead"), "tr")
    for head in ("guard", "candidate", "champion", "difference (+ is better)", "may be worse by", ""):
        add(row, "th", head)
    rows = SubElement(made, "tbody")
    for guard in found:
        row = SubElement(rows, "tr")
        cells = (guard.challenger, guard.champion, guard.difference, guard.margin)
        for text in (plain(guard.name, 60), *(f"{x:.4g}" for x in cells[:2]), f"{cells[2]:+.4g}", f"{cells[3]:.4g}"):
            add(row, "td", text)
        add(row, "td", "holds" if guard.holds else "broken", "good" if guard.holds else "bad")


def _trials(body: Element, state: State) -> None:
    add(body, "h2", "All trials")
    numbers = list(state.trials)[-MOST_TRIALS:]
    left_out = len(state.trials) - len(numbers)
    if left_out:
        add(
            body, "p", f"The latest {MOST_TRIALS}; {left_out} earlier ones are left out (`evolve log` has all).", "note"
        )
    rows = []
    for number in numbers:
        trial = state.trials[number]
        entry = state.entries[trial.candidate_id]
        result = _score(trial.score) if trial.score else f"{trial.state} {plain(trial.error or '', 100)}"
        verdict = entry.verdict.decision if entry.verdict else ""
        who, changed = plain(entry.proposal.proposer, 40), _changed(state, trial.candidate_id)
        rows.append((str(number), short(trial.candidate_id), trial.purpose, result, verdict,
                     stage(state, trial.candidate_id), who, changed))  # fmt: skip
    heads = ("trial", "candidate", "for", "score", "verdict", "stage", "proposer", "changes against the start")
    table(body, heads, rows, ("number", "id", "", "", "short", "short"))
    add(body, "p", "Score: on the search split ± standard error of that one training.", "note")
