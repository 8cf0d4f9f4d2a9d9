"""What the CLI prints of a campaign: plain text and plain data, from the state alone. Part of the CLI; no heavy import."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import Any

from evolve import gate, tracking_page
from evolve.errors import BadInput, did_you_mean
from evolve.policy import expected_trials
from evolve.space import changes, value_text
from evolve.state import State
from evolve.tracking_page import plain
from evolve.types import (
    SUITE,
    Candidate,
    Evaluation,
    HistoryImported,
    Objective,
    Params,
    Promoted,
    Rules,
    Subject,
    Usage,
    digest,
    short,
)

_FRONT = 10  # points of the front that `evolve status` shows
_LABEL = 11  # columns before what a line says


def folded(text: str, width: int | None = None, indent: int = _LABEL) -> str:
    """`text` with its long lines broken between words, under what they say; as it is where it goes to no terminal."""
    if width is None:
        if not sys.stdout.isatty():
            return text
        width = shutil.get_terminal_size().columns
    under = " " * indent if width > 2 * indent else ""
    folder = textwrap.TextWrapper(  # what can be copied stays in one piece
        max(1, width), subsequent_indent=under, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(folder.fill(line) for line in text.split("\n"))


def find_candidate(state: State, prefix: str) -> str:
    """The full id of the only candidate whose id begins with `prefix`. Raises `BadInput` where it is none or several."""
    found = [c for c in state.entries if c.startswith(prefix)] if prefix else []
    if len(found) == 1:
        return found[0]
    if found:
        raise BadInput(f"An ID must name one candidate, but {prefix!r} begins {len(found)} of them; give more digits.")
    known = [short(c) for c in state.pending] or [short(c) for c in state.entries]
    raise BadInput(f"{plain(prefix, 80)!r} is no candidate of {state.campaign.campaign}{did_you_mean(prefix, known)}")


def phase(state: State, *, alive: bool) -> str:
    """`running`, `interrupted` (no controller, not at its end), or how the campaign ended."""
    if alive:
        return "running"
    return state.stopped.kind if state.stopped else "interrupted"


def status(state: State, *, alive: bool) -> dict[str, Any]:
    """What `evolve status --json` prints."""
    trials = list(state.trials.values())
    best = state.best()
    score = state.search_score(best) if best else None
    floor = state.noise_floor()
    several = {"front": front(state)} if state.campaign.subject.secondary else {}
    return {
        "campaign": state.campaign.campaign,
        "state": phase(state, alive=alive),
        "reason": state.stopped.reason if state.stopped and not alive else None,
        "trials": {
            "complete": sum(t.state == "COMPLETE" for t in trials),
            "failed": sum(t.state == "FAIL" for t in trials),
            "pruned": sum(t.state == "PRUNED" for t in trials),
            "running": sum(t.state == "RUNNING" for t in trials) if alive else 0,
        },
        "candidates": len(state.entries),
        "best": {"id": best, "score": score.mean, "stderr": score.stderr} if best and score else None,
        "noise_floor": {"sd": floor[0], "n": floor[1]} if floor else None,
        "pending": list(state.pending),
        "stale": list(state.stale),
        "evaluations": {i: e.stage for i, e in state.evals.items()},
        "promoted": [p.candidate_id for p in state.promotions if isinstance(p, Promoted)],
        "champion": state.champion_id,
        **several,
        "spend": {
            "trials": state.spend.trials,
            "train_seconds": round(state.spend.train_seconds, 3),
            "llm_usd": state.spend.llm_usd,
            "llm_tokens": state.spend.llm_tokens,
            "train_usd": state.spend.train_usd,
            "wall_seconds": round(state.wall_seconds, 3),
        },
    }


def front(state: State) -> list[dict[str, Any]]:
    """The points that no other candidate dominates, best primary value first: ids with their values by metric."""
    names = [o.metric for o in state.objectives]
    points = {c: state.values(c) for c in state.front()}
    return [{"id": c, "values": dict(zip(names, p, strict=True))} for c, p in points.items() if p is not None]


def _front_lines(state: State) -> list[str]:
    lines = []
    rows = front(state)
    for row in rows[:_FRONT]:
        values = ", ".join(f"{name} {value:.4g}" for name, value in row["values"].items())
        lines.append(f"front      {short(row['id'])}  {values}  {tracking_page.stage(state, row['id'])}")
    return [*lines, f"front      and {len(rows) - _FRONT} more (--json)"] if len(rows) > _FRONT else lines


def score_text(score: Evaluation | None) -> str:
    return "no score" if score is None else f"{score.mean:.4f} ± {score.stderr:.4f}"


def status_text(state: State, *, alive: bool) -> str:
    """The same for people."""
    s = status(state, alive=alive)
    budget, spend = state.budget, state.spend
    lines = [f"campaign   {s['campaign']}  ({s['state']}{': ' + s['reason'] if s['reason'] else ''})"]
    counts = ", ".join(f"{n} {what}" for what, n in s["trials"].items() if n)
    lines.append(f"trials     {spend.trials}{f' of {budget.trials}' if budget.trials else ''}: {counts or 'none yet'}")
    if s["best"]:
        lines.append(
            f"best       {short(s['best']['id'])}  {s['best']['score']:.4f} ± {s['best']['stderr']:.4f} on search"
        )
    champion = state.search_score(state.champion_id)
    lines.append(f"champion   {short(state.champion_id)}  {score_text(champion)} on search, {_origin(state)}")
    if s["noise_floor"]:
        lines.append(f"noise      sd {s['noise_floor']['sd']:.4f} over {s['noise_floor']['n']} seeds of the champion")
    if state.campaign.subject.secondary:
        lines += _front_lines(state)
    rules = state.campaign.rules.gate
    lines.append(f"gate       {rules.setting}: {gate.promise(rules)}")
    lines.append(f"spend      {spend_text(state)}")
    lines += _edit_lines(state)
    for request in state.pending.values():
        lines.append(f"pending    {short(request.candidate_id)}  decide with `evolve review`")
    for proposal_id, entry in state.evals.items():
        if entry.request:
            lines.append(
                f"evaluation {short(proposal_id)}  {plain(entry.proposal.name, 40)}: decide with `evolve review`"
            )
    for request in state.stale.values():
        lines.append(f"stale      {short(request.candidate_id)}  renew or reject with `evolve review`")
    return "\n".join(lines)


def _edit_lines(state: State) -> list[str]:
    """What became of edits of the harness; nothing where there were none."""
    patched = [c for c, entry in state.entries.items() if entry.proposal.candidate.patch is not None]
    lines = []
    if patched:
        refused = sum(bool(state.entries[c].check_error) for c in patched)
        failed = f", {refused} of them not trained: they failed an early check" if refused else ""
        lines.append(
            f"edits      {len(patched)} candidate{'' if len(patched) == 1 else 's'} with an edited harness{failed}"
        )
    if state.tainted:
        lines.append("untrusted  edited code ran without a sandbox: nothing of this campaign can be accepted")
    return lines


def _origin(state: State) -> str:
    if state.previous:
        return f"promoted ({len(state.previous)})"
    return state.campaign.start_origin


def spend_text(state: State) -> str:
    spend = state.spend
    parts = [f"{spend.train_seconds:.0f} CPU s of training"]
    if state.spend.train_usd:
        parts[0] += f" (${spend.train_usd:.4f})"
    if spend.llm_tokens:
        parts.append(f"{spend.llm_tokens} tokens, ${spend.llm_usd:.4f}")
    if state.calls:
        reserved = sum(call.reserved.llm_usd for call in state.calls.values())
        parts.append(f"{len(state.calls)} model call(s) under way (at most ${reserved:.4f})")
    return ", ".join(parts)


def objectives_text(subject: Subject) -> str:
    """`maximize score`; with several objectives each, with how much worse on it a promoted candidate may be."""
    if not subject.secondary:
        return f"{subject.objective.direction} {subject.objective.metric}"
    return "; ".join(f"{o.direction} {o.metric} (tolerance {_tolerance_text(o)})" for o in subject.objectives)


def _tolerance_text(objective: Objective) -> str:
    parts = [f"{objective.tolerance:g}"] if objective.tolerance else []
    parts += [f"{objective.relative_tolerance:.0%} of the champion's"] if objective.relative_tolerance else []
    return " and ".join(parts)


# ---------------------------------------------------------------- the plan


def plan_text(subject: Subject, rules: Rules, start: str, proposer: str, dollars: str, edits: str) -> str:
    """`evolve run --dry-run`: what would run, and what it would take. Hours are from the subject's own estimates."""
    trials = rules.budget.trials
    each = subject.estimate.train_seconds + subject.estimate.score_seconds
    lines = [
        f"subject    {subject.name}: {subject.description}",
        f"objective  {objectives_text(subject)}, {subject.problems} problems a score",
        *(
            [f"suite      version {len(subject.suite)}: {', '.join(m.metric for m in subject.suite)}"]
            if subject.suite
            else []
        ),
        f"space      {len(subject.space)} parameters: {', '.join(subject.space)}",
        f"start      {start}",
        f"proposer   {proposer}",
        f"edits      {edits}",
        *gate_lines(subject, rules),
        f"trials     {trials if trials is not None else 'no limit'}, {rules.workers} at a time",
    ]
    if trials is not None:
        hours = trials * each / rules.workers / 3600
        lines.append(f"time       about {hours:.2f} hours ({each:.1f} s a trial by the subject's estimate)")
    if rules.budget.train_seconds is not None:
        lines.append(f"limit      {rules.budget.train_seconds:.0f} CPU seconds of training")
    if rules.budget.wall_seconds is not None:
        lines.append(f"limit      {rules.budget.wall_seconds:.0f} seconds of wall clock, all sessions together")
    if rules.budget.usd is not None:
        lines.append(f"limit      ${rules.budget.usd:.2f} for models and trainings together")
    return "\n".join([*lines, f"dollars    {dollars}"])


def gate_lines(subject: Subject, rules: Rules) -> list[str]:
    """The gate's setting, what its bank takes before anything can be promoted, and what it promises; before a campaign starts."""
    each = subject.estimate.train_seconds + subject.estimate.score_seconds
    reckoned = f"; reckoned with {each:g} s a trial, the subject's `estimate`" if subject.is_project else ""
    more = "; and that a challenger beyond a tolerance is" if subject.secondary else ""
    return [
        f"gate       {rules.gate.setting}: {expected_trials(rules.gate)}; at most {rules.gate.vault_queries} vault queries",
        f"bank       {_bank_cost(rules, each)}{reckoned}",
        f"promise    {gate.promise(rules.gate)}{more}",
        *_stricter(rules),
    ]


def _bank_cost(rules: Rules, seconds_each: float) -> str:
    size, trials = rules.gate.baseline_seeds, rules.budget.trials
    share = f", {size / trials:.0%} of the trials" if trials else ""
    return f"about {size * seconds_each / rules.workers / 60:.1f} minutes{share}, spent before the first challenge"


def _stricter(rules: Rules) -> list[str]:
    """What a larger budget would carry, where a stricter setting exists than the one that it carries now."""
    from evolve.config import BANK_SHARE, CARRIED, bank_size

    name = rules.gate.setting
    if name not in ("cheap", "exploratory") or rules.budget.trials is None:
        return []
    better = CARRIED[CARRIED.index(name) - 1] if name in CARRIED else CARRIED[-1]
    return [
        f"stricter   gate={better} fits budgets from {BANK_SHARE * bank_size(better)} trials on (gate=auto then takes it)"
    ]


def imported_lines(imported: HistoryImported | None) -> list[str]:
    """What was taken of another study, and what was not and why; nothing without one."""
    if imported is None:
        return []
    scored = sum(t.score is not None for t in imported.observations)
    failed = len(imported.observations) - scored
    skipped = sum(imported.skipped.values())
    return [
        f"import     {scored} scored and {failed} failed trials of {plain(imported.source)}"
        + (f"; {skipped} skipped" if skipped else "")
        + ": claims, for the proposers alone",
        *(f"           skipped {n}: {reason}" for reason, n in imported.skipped.items()),
        *(f"           {note}" for note in imported.notes),
    ]


def _changes(params: Params, base: Params) -> list[str]:
    """A line for each parameter that differs, in columns."""
    rows = [(name, f"{value_text(a)} -> {value_text(b)}") for name, (a, b) in changes(params, base).items()]
    width = max((len(name) for name, _ in rows), default=0)
    return [f"           {name:<{width}}  {text}" for name, text in rows] or ["           (none)"]


def compare_text(state: State, a: str, b: str) -> str:
    """Two candidates side by side: parameters that differ, scores, compute, who proposed them."""
    left, right = state.entries[a], state.entries[b]
    lines = [f"{'':<12}{short(a):<28}{short(b)}"]
    rows = [
        ("proposer", plain(left.proposal.proposer, 26), plain(right.proposal.proposer, 26)),
        ("stage", left.stage, right.stage),
        ("harness", _harness(left.proposal.candidate), _harness(right.proposal.candidate)),
        ("search", score_text(state.search_score(a)), score_text(state.search_score(b))),
        ("cpu s", _cpu(state, a), _cpu(state, b)),
    ]
    pair = (state.values(a), state.values(b)) if state.campaign.subject.secondary else (None, None)
    for index, objective in enumerate(state.objectives[1:], start=1):
        rows.append((objective.metric[:11], *(f"{point[index]:.4g}" if point else "-" for point in pair)))  # type: ignore[arg-type]
    first, second = state.search_score(a), state.search_score(b)
    if first and second:
        rows += [
            (f"  {g}", f"{first.groups[g]:.4f}", f"{second.groups[g]:.4f}") for g in first.groups if g in second.groups
        ]
        rows += [
            (name, f"{first.metrics[name]:.4f}", f"{second.metrics[name]:.4f}")
            for name in first.metrics
            if name in second.metrics and name.startswith(SUITE)
        ]
    wide = max(12, *(len(name) + 2 for name, _, _ in rows))
    lines[0] = f"{'':<{wide}}{short(a):<28}{short(b)}"
    lines += [f"{name:<{wide}}{x:<28}{y}" for name, x, y in rows]
    return "\n".join([*lines, "changes", *_changes(right.proposal.candidate.params, left.proposal.candidate.params)])


def _harness(candidate: Candidate) -> str:
    return f"edited ({short(digest(candidate.patch))})" if candidate.patch else "as it was"


def _cpu(state: State, candidate_id: str) -> str:
    used: list[Usage] = [u for n in state.entries[candidate_id].trials if (u := state.trials[n].usage)]
    return f"{sum(u.cpu_seconds for u in used) / len(used):.1f}" if used else "-"
