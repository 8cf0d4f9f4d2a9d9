"""What is shown of a trial in MLflow: tags, metrics, notes and files, as values that no MLflow is needed for.

`tracking_runs.py` says when and to which run they go.
"""

from __future__ import annotations

import math
import os
import re
import stat
from pathlib import Path

from evolve import acceptance
from evolve.edits import difference
from evolve.state import State, value_of
from evolve.tracking_page import campaign_key, escape, plain, stage
from evolve.types import (
    SUITE,
    EditChecked,
    Environment,
    Evaluation,
    Honeypot,
    IntegrityReport,
    Progress,
    Proposal,
    TrialFinished,
    short,
)

CURVE_POINTS = 300  # of one curve, evenly thinned: a training reports as often as it likes
CURVE_NAMES = 20
PATCH_LINES, PATCH_CHARS = 40, 120  # of a patch in the description, which MLflow cuts at 8000 characters

Metric = tuple[str, float, int]  # name, value, step
Shown = tuple[str, str, str]  # stage, verdict, reason


def trial_tags(state: State, number: int, parent_run_id: str) -> dict[str, str]:
    """The tags of a trial's run when it is made."""
    trial, started = state.trials[number], state.campaign
    entry = state.entries[trial.candidate_id]
    proposal = entry.proposal
    tags = {
        "mlflow.parentRunId": parent_run_id,
        "mlflow.source.name": "evolve",
        "evolve.kind": "trial",
        "evolve.campaign": plain(started.campaign),
        "evolve.campaign_key": campaign_key(started),
        "evolve.trial": str(number),
        "evolve.candidate": trial.candidate_id,
        "evolve.id": short(trial.candidate_id),
        "evolve.proposer": plain(proposal.proposer),
        "evolve.purpose": trial.purpose,
        "evolve.seed": str(trial.seed),
        "evolve.seed_index": str(trial.seed_index),
        "evolve.fidelity": f"{trial.fidelity:g}",
        "evolve.attempt": str(trial.attempt),
        "evolve.state": "RUNNING",
        "evolve.changes": plain(difference(proposal.candidate, started.start), 500),
        "evolve.rationale": plain(proposal.rationale),
        "evolve.decided": plain(proposal.decided),
        "evolve.parents": " ".join(short(parent) for parent in proposal.parents),
        **stage_tags(shown_of(state, trial.candidate_id)),
    }
    if proposal.model:
        tags |= {"evolve.model": plain(proposal.model), "evolve.prompt_hash": proposal.prompt_hash or ""}
    return {name: value for name, value in tags.items() if value}


def shown_of(state: State, candidate_id: str) -> Shown:
    """Where a candidate stands, as its runs' tags say it."""
    entry = state.entries[candidate_id]
    verdict = ""
    if entry.verdict:  # of an acceptance the corrected gain: its reason may name the naive one
        accepted = entry.verdict.decision == "ACCEPT"
        why = acceptance.gain_text(state, candidate_id) if accepted else entry.verdict.reason
        verdict = f"{entry.verdict.decision}: {plain(why)}"
    return stage(state, candidate_id), verdict, plain(entry.reason)


def stage_tags(shown: Shown) -> dict[str, str]:
    """`shown` as tags; empty ones too, since they may have to overwrite."""
    return dict(zip(("evolve.stage", "evolve.verdict", "evolve.reason"), shown, strict=True))


def integrity_tags(report: IntegrityReport, honeypot: Honeypot | None) -> dict[str, str]:
    """What was seen of a training of edited code."""
    findings = report.findings(honeypot)
    return {
        "evolve.sandbox": plain(report.sandbox, 60),
        "evolve.canary": report.canary,
        "evolve.integrity": plain(" ".join(findings) or "nothing found", 500),
    }


def environment_tags(environment: Environment) -> dict[str, str]:
    """Where it ran."""
    return {
        "evolve.hardware": plain(environment.hardware),
        "evolve.platform": plain(environment.platform),
        "evolve.lock": environment.lock,
        "evolve.commit": environment.commit or "(none)",
        "evolve.python": environment.python,
    }


def trial_note(event: TrialFinished, proposal: Proposal) -> str:
    """The Markdown description of a trial's run. MLflow previews no `.diff`, so that the beginning of a patch is here too."""
    score = event.score
    measured = f" {escape(score.metric, 60)} {score.mean:.4f} ± {score.stderr:.4f}" if score else ""
    return _note(f"**{event.state}**{measured}" + (f" {escape(event.error, 500)}" if event.error else ""), proposal)


def check_note(event: EditChecked, proposal: Proposal) -> str:
    """The same for an edit that failed an early check."""
    return _note(f"**not trained**: {escape(event.stage, 40)}: {escape(event.error, 500)}", proposal)


def check_tags(state: State, candidate_id: str, parent_run_id: str) -> dict[str, str]:
    """The tags of the run of an edit that was not trained."""
    proposal, started = state.entries[candidate_id].proposal, state.campaign
    return {
        "mlflow.parentRunId": parent_run_id,
        "mlflow.source.name": "evolve",
        "evolve.kind": "check",
        "evolve.campaign": plain(started.campaign),
        "evolve.campaign_key": campaign_key(started),
        "evolve.candidate": candidate_id,
        "evolve.id": short(candidate_id),
        "evolve.proposer": plain(proposal.proposer),
        "evolve.state": "FAIL",
        "evolve.changes": plain(difference(proposal.candidate, started.start), 500),
        "evolve.rationale": plain(proposal.rationale) or "(none)",
        **stage_tags(shown_of(state, candidate_id)),
    }


def _note(first: str, proposal: Proposal) -> str:
    lines = [first]
    if proposal.rationale:
        lines += ["", f"Rationale, as {escape(proposal.proposer, 40)} wrote it: {escape(proposal.rationale)}"]
    if proposal.candidate.patch is not None:
        patch = printable(proposal.candidate.patch).split("\n")
        more = f"; {len(patch) - PATCH_LINES} more lines in patch&#46;diff" if len(patch) > PATCH_LINES else ""
        # An indented block: nothing in it is markup, and no line of it can end it.
        lines += ["", f"Patch{more}:", "", *(f"    {line[:PATCH_CHARS]}" for line in patch[:PATCH_LINES])]
    return "\n".join(lines)


def measured(event: TrialFinished) -> list[Metric]:
    """What scorer and kernel measured."""
    metrics: list[Metric] = []
    if event.score is not None:
        metrics = [("score", event.score.mean, 0), ("stderr", event.score.stderr, 0)]
        metrics += [(f"score/{name.replace('/', '_')}", mean, 0) for name, mean in event.score.groups.items()]
        metrics += suite_metrics(event.score, 0)
    if event.usage is not None:
        metrics += [
            ("cpu_seconds", event.usage.cpu_seconds, 0),
            ("wall_seconds", event.usage.wall_seconds, 0),
            ("peak_memory_mb", event.usage.peak_memory_mb, 0),
        ]
    return metrics


def suite_metrics(evaluation: Evaluation, step: int, prefix: str = "") -> list[Metric]:
    """What the adopted evaluations have measured."""
    return [(prefix + name, mean, step) for name, mean in evaluation.metrics.items() if name.startswith(SUITE)]


def objective_metrics(state: State, number: int) -> list[Metric]:
    """The trial's values of the secondary objectives, under their own names; none of a failed trial, whose seconds are no result."""
    if state.trials[number].score is None:
        return []
    values = [(o.metric, value_of(state.trials[number], o)) for o in state.campaign.subject.secondary]
    return [(name, value, 0) for name, value in values if value is not None and name != "peak_memory_mb"]


def curve_points(curve: tuple[Progress, ...]) -> list[Metric]:
    """`progress/<name>`: the training's own report, which the name says, since it was measured by nobody else."""
    every = math.ceil(len(curve) / CURVE_POINTS) or 1
    points = [p for i, p in enumerate(curve) if i % every == 0 or i == len(curve) - 1]
    points = [p for p in points if abs(p.step) < 2**53]
    names = list(dict.fromkeys(name for p in points for name in p.metrics))[:CURVE_NAMES]
    return [(f"progress/{n.replace('/', '_')}", p.metrics[n], p.step) for p in points for n in names if n in p.metrics]


def log_name(name: str) -> str:
    """A name that MLflow takes for a metric or a param."""
    return re.sub(r"[^A-Za-z0-9_\-. /]", "_", name)[:200]


def read_regular(path: Path, last: int | None = None) -> bytes:
    """A regular file's bytes (the `last` ones), b"" where there is none; never through a link."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    with open(descriptor, "rb") as file:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            return b""
        if last is not None and info.st_size > last:
            file.seek(-last, os.SEEK_END)
        return file.read()


def printable(text: str) -> str:
    """Text of many lines without control characters."""
    return "".join(c if c in "\n\t" or c.isprintable() else " " for c in text)
