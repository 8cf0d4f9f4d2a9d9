"""The journal and its decisions as text: `evolve log`, and what an approval or a rollback has led to. Part of the CLI."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from evolve import acceptance, gate, suite
from evolve.show import imported_lines, score_text
from evolve.state import State, apply
from evolve.tracking_page import plain
from evolve.types import (
    SUITE,
    Approval,
    ApprovalRequest,
    ApprovalRequested,
    CampaignStopped,
    ChallengeOpened,
    Command,
    Decided,
    EditChecked,
    EvalAssessed,
    EvalProposed,
    EvidenceRequested,
    HistoryImported,
    JournalRepaired,
    LessonRemoved,
    LessonWritten,
    ModelCallFinished,
    ModelCallRefused,
    Promoted,
    ProposalFailed,
    Proposed,
    Record,
    RolledBack,
    Suggested,
    SuiteChanged,
    TrialFinished,
    TrialInterrupted,
    VaultAnswered,
    VaultAsked,
    VerdictReached,
    short,
)

WIDTH = 100
KINDS = ("Decided", "EvidenceRequested", "RolledBack")  # events that are a person's decision


# ---------------------------------------------------------------- the journal


def log_lines(records: Iterable[Record]) -> Iterable[str]:
    """The journal for people: who proposed, what came out, who approved what on which evidence."""
    for record in records:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.time))
        text = _log_text(record)
        if text:
            yield f"{when}  {record.seq:>5}  {text}"


def _log_text(record: Record) -> str | None:
    match record.event:
        case HistoryImported():
            return imported_lines(record.event)[0]
        case Proposed(p):
            why = f" ({plain(p.decided, 120)})" if p.decided else ""
            return f"proposed   {short(p.candidate.id)} by {plain(p.proposer, 40)}{why}: {plain(p.rationale, 120)}"
        case Suggested(p):
            return f"suggested  {short(p.candidate.id)} by {plain(p.proposer, 40)}: {plain(p.rationale, 120)}"
        case ProposalFailed(proposer, reason):
            return f"no proposal from {plain(proposer, 40)}: {plain(reason, 160)}"
        case ModelCallFinished(call, spend, error) if error:
            return f"model call {call}: {spend.llm_tokens} tokens, ${spend.llm_usd:.4f}: {plain(error, 160)}"
        case EvalProposed(p, error):
            refused = f": refused: {plain(error, 200)}" if error else f": {plain(p.rationale, 120)}"
            return f"evaluation {short(p.id)} {plain(p.name, 40)} ({p.form}) by {plain(p.proposer, 40)}{refused}"
        case EvalAssessed(proposal_id, report, error):
            found = (
                f"{report.separation:+.1f} standard errors between known good and bad" if report else plain(error, 200)
            )
            return f"evaluation {short(proposal_id)} {'works' if report else 'refused'}: {found}"
        case SuiteChanged(version, metric):
            return f"suite      version {version}: {plain(metric.metric, 60)} adopted by {plain(metric.by, 60)}"
        case ModelCallRefused(by, reason):
            return f"no model call by {plain(by, 40)}: {plain(reason, 160)}"
        case EditChecked(candidate_id, stage, error):
            found = f"fails at {stage}: {plain(error, 200)}" if error else "passes the early checks"
            return f"edit       {short(candidate_id)} {found}"
        case TrialFinished(number, state, score, error):
            return f"trial      {number} {state} {score_text(score) if score else plain(error or '', 160)}"
        case TrialInterrupted(number, _, reason) if reason:
            return f"trial      {number} lost, runs again: {plain(reason, 160)}"
        case VerdictReached(candidate_id, _, verdict):
            return f"gate       {short(candidate_id)} {verdict.decision}: {plain(verdict.reason, 160)}"
        case ChallengeOpened(candidate_id, champion_id, round, more):
            what = f"{more} further seed(s)" if more else "fresh seeds"
            return f"challenge  {short(candidate_id)} against {short(champion_id)}, round {round}: {what}"
        case VaultAsked(candidate_id):
            return f"vault      {short(candidate_id)} is asked about"
        case VaultAnswered(candidate_id, _, passed, verdict):
            return f"vault      {short(candidate_id)} {'yes' if passed else 'no'}: {plain(verdict.reason, 160)}"
        case ApprovalRequested(request):
            return f"waits      {short(request.candidate_id)} for a person, content {short(request.content_hash)}"
        case EvidenceRequested(candidate_id, seeds, by):
            return (
                f"evidence   {short(candidate_id)}: {plain(by, 60)} asks for more ({seeds} seed(s), or all of it anew)"
            )
        case Decided(a):
            why = f": {plain(a.reason, 160)}" if a.reason else ""
            return (
                f"{a.decision:<10} {short(a.candidate_id)} by {plain(a.by, 60)} on content {short(a.content_hash)}{why}"
            )
        case Promoted():
            e = record.event
            return (
                f"promoted   {short(e.candidate_id)} in the place of {short(e.previous_id)}, weights {short(e.weights)}"
            )
        case RolledBack(candidate_id, restored_id, reason, by):
            why = f": {plain(reason, 160)}" if reason else ""
            return f"rollback   {short(candidate_id)} -> {short(restored_id)} by {plain(by, 60)}{why}"
        case LessonWritten(text, by, _, origin, person):
            where = f" of campaign {plain(origin, 80)}" if origin else ""
            return f"lesson     by {plain(person or by, 60)}{where}: {plain(text, 160)}"
        case LessonRemoved(number, person):
            return f"lesson     {number} removed by {plain(person, 60)}"
        case JournalRepaired(line, lines, reason, kept_as, _, by):
            what = f"{lines} line(s) from line {line} on were cut off by {plain(by, 60)}, kept as {plain(kept_as, 80)}"
            return f"repaired   {what}: {plain(reason, 160)}"
        case CampaignStopped(kind, reason):
            return f"{kind:<10} {plain(reason, 200)}"
        case _:
            return None


# ---------------------------------------------------------------- what a decision has led to


def outcome(state: State, command: Command, elsewhere: str | None) -> str:
    """What an approval or a rollback that was carried out has led to. `elsewhere`: another campaign, which promoted later,
    has the subject's champion."""
    stale = len(state.stale)
    waiting = f"; {stale} candidate(s) that waited must renew their evidence (`evolve review`)" if stale else ""
    last = state.promotions[-1] if state.promotions else None
    if command.kind == "rollback" and isinstance(last, RolledBack):
        start = " (the start config)" if last.restored_id == state.campaign.start.id else ""
        done = f"rolled back: {short(last.candidate_id)} -> {short(last.restored_id)}{start}"
    elif any(isinstance(p, Promoted) and p.candidate_id == command.candidate_id for p in state.promotions):
        previous = next(c for c, p in reversed(state.previous) if p.candidate_id == command.candidate_id)
        done = f"approved and promoted: {short(command.candidate_id)} in the place of {short(previous)}"
        done += f" ({state.campaign.subject.unconfirmed})" if state.campaign.subject.unconfirmed else ""
    else:
        needed, so_far = state.campaign.rules.gate.approvals, len(state.yeses.get(command.candidate_id, ()))
        return f"approved: {short(command.candidate_id)}, by {so_far} of {needed} persons; it waits for the others"
    if elsewhere is not None:
        done += f"; the subject's champion stays that of campaign {elsewhere}, which promoted later"
    return done + waiting


def adopted(state: State, proposal_id: str) -> str:
    """What the approval of an evaluation has led to."""
    p = state.evals[proposal_id].proposal
    return (
        f"adopted: {SUITE}{p.name} ({short(proposal_id)}) is measured by campaigns of {plain(state.campaign.subject.name, 80)}"
        " that begin from now on"
    )


# ---------------------------------------------------------------- the decisions


@dataclass(frozen=True)
class Decision:
    """Who decided what, when, and on which evidence; of a campaign, as its journal has it.

    `low` and `high` are the gate's 95 % interval of the gain, corrected for the selection; None where it has none. `vault` is
    None for what has not been asked. `promoted`: this decision was the last that a promotion needed.
    """

    time: float
    campaign: str
    what: str  # approve, reject, evidence, rollback
    by: str
    candidate: str
    champion: str  # against which it was judged; of a rollback: which is the champion again
    reason: str = ""
    content: str = ""
    evidence: str = ""  # seeds, in words
    gain: str = ""  # the interval, in words
    asked_seeds: int | None = None
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    vault: bool | None = None
    unconfirmed: str = ""  # why the vault's yes confirms nothing, where it does not
    setting: str = ""
    promise: str = ""
    seconds: float | None = None  # that the prompt waited for the person
    signed: bool = False
    promoted: bool = False
    evaluation: str = ""  # its name, where the decision was about a proposed evaluation


def decisions(records: Iterable[Record]) -> Iterator[Decision]:
    """Those of one journal, in its order."""
    state, vault = State(), dict[str, bool]()
    for record in records:
        event = record.event
        before = dict(state.pending) | state.stale
        before |= {i: e.request for i, e in state.evals.items() if e.request is not None}
        champion = state.champion_id
        apply(state, event, record.time)
        match event:
            case VaultAnswered(candidate_id, _, passed):
                vault[candidate_id] = passed
            case Decided(a):
                promoted = state.approved is not None and state.approved.candidate_id == a.candidate_id
                yield _decision(record.time, state, a, before[a.candidate_id], vault.get(a.candidate_id), promoted)
            case EvidenceRequested(candidate_id, seeds, by):
                request = before[candidate_id]
                made = Approval(candidate_id, "reject", request.content_hash, by)
                found = _decision(record.time, state, made, request, vault.get(candidate_id), promoted=False)
                yield replace(found, what="evidence", asked_seeds=seeds, seconds=None)
            case RolledBack(candidate_id, restored_id, reason, by):
                assert candidate_id == champion
                yield Decision(record.time, state.campaign.campaign, "rollback", by, candidate_id, restored_id, reason)


def _decision(
    when: float, state: State, approval: Approval, request: ApprovalRequest, vault: bool | None, promoted: bool
) -> Decision:
    rules = state.campaign.rules.gate
    common = Decision(
        time=when,
        campaign=state.campaign.campaign,
        what=approval.decision,
        by=approval.by,
        candidate=request.candidate_id,
        champion=request.champion_id,
        reason=approval.reason,
        content=request.content_hash,
        setting=rules.setting,
        seconds=approval.seconds,
        signed=bool(approval.signature),
    )
    if request.kind == "eval":
        entry = state.evals[request.candidate_id]
        assert entry.report is not None
        evidence = "; ".join(suite.facts(entry.report).values())
        return replace(common, evidence=evidence, evaluation=SUITE + entry.proposal.name)
    verdict = state.entries[request.candidate_id].verdict
    numbers: Mapping[str, float] = verdict.numbers if verdict is not None else {}
    return replace(
        common,
        evidence=acceptance.seeds_text(verdict),
        gain=acceptance.gain_text(state, request.candidate_id),
        estimate=numbers.get("estimate"),
        low=numbers.get("low"),
        high=numbers.get("high"),
        vault=vault,
        unconfirmed=state.campaign.subject.unconfirmed,
        promise=gate.promise(rules),
        promoted=promoted,
    )


_VERBS = {"approve": "approved", "reject": "rejected", "evidence": "more evidence", "rollback": "rolled back"}


def decision_text(d: Decision) -> str:
    """A block of lines of at most `WIDTH` characters."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(d.time))
    verb = "promoted" if d.promoted else _VERBS[d.what]
    head = f"{when}  {verb:<13}  {short(d.candidate)}  by {plain(d.by, 24):<12}  campaign {plain(d.campaign, 80)}"
    if d.what == "rollback":
        facts = [("restored", short(d.champion))]
    elif d.evaluation:
        facts = [
            ("evaluation", f"{plain(d.evaluation, 80)}, content {short(d.content)}"),
            ("report", plain(d.evidence, 600)),
        ]
    else:
        facts = [
            ("against", f"{short(d.champion)}, content {short(d.content)}"),
            ("gain", f"{d.gain}; {d.evidence}"),
            ("vault", "not asked" if d.vault is None else acceptance.answer_text(d.vault, d.unconfirmed)),
            ("gate", f"{d.setting}: {d.promise}"),
        ]
    if d.asked_seeds is not None:
        facts.append(
            ("asked for", f"{d.asked_seeds} further seed(s), or all of it anew where the champion has changed")
        )
    if d.seconds is not None and d.what in ("approve", "reject"):
        facts.append(("prompt", f"waited {d.seconds:.0f} s, {'signed' if d.signed else 'not signed'}"))
    if d.reason:
        facts.append(("reason", plain(d.reason, 300)))
    lines = [head if len(head) <= WIDTH else head[: WIDTH - 1] + "…"]
    for name, text in facts:
        lines += textwrap.wrap(text, WIDTH, initial_indent=f"    {name:<10} ", subsequent_indent=" " * 15)
    return "\n".join(lines)
