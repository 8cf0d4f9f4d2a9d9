"""What waits for a person, as plain data: what the review's screen, `evolve review --json` and notifications are made of. Pure.

Facts that the controller measured, and one block of claims. All foreign text in it is cleaned (`plain`, `visible`), so that
no tool that prints it can be drawn on. Intervals are the gate's, corrected for selection; a naive difference with its
standard error is never among them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from evolve import gate, policy, suite
from evolve.space import changes
from evolve.state import State
from evolve.tracking_page import plain
from evolve.types import SUITE, ApprovalRequest, GateRules, Verdict, digest, person_of

_CLAIM_CHARS = 1000

# Letters and marks that show as nothing, beside what Unicode counts among controls, formats and separators.
_BLANK = {0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}


def visible(text: str) -> str:
    """Foreign text of several lines in which nothing hides: each character that does not show as itself as `<U+202E>`.

    Line ends stay, a tab becomes four blanks.

    >>> visible("a\\u202eb\\r\\n\\tc")
    'a<U+202E>b<U+000D>\\n    c'
    """

    def shown(c: str) -> str:
        if c == "\n":
            return c
        if c == "\t":
            return "    "
        hidden = unicodedata.category(c)[0] == "C" or unicodedata.category(c) in ("Zl", "Zp") or ord(c) in _BLANK
        return f"<U+{ord(c):04X}>" if hidden or (c.isspace() and c != " ") else c

    return "".join(map(shown, text))


# ---------------------------------------------------------------- the order


def requests(state: State) -> list[ApprovalRequest]:
    """All that waits, candidates first and each kind the oldest first; what has become stale comes last."""
    return [*state.pending.values(), *(e.request for e in state.evals.values() if e.request), *state.stale.values()]


def request_of(state: State, candidate_id: str) -> ApprovalRequest | None:
    return policy.request_of(state, candidate_id)


def is_stale(state: State, request: ApprovalRequest) -> bool:
    """Whether the champion has changed since the evidence was taken, so that it cannot be approved."""
    if request.kind == "eval":  # its report compares many candidates
        return False
    return request.candidate_id in state.stale or request.champion_id != state.champion_id


def approved_by(state: State, candidate_id: str) -> list[str]:
    """Who has said yes so far, where the gate asks for more than one; cleaned."""
    return [plain(a.by, 100) for a in state.yeses.get(candidate_id, ())]


def has_approved(state: State, candidate_id: str, by: str) -> bool:
    return any(person_of(a.by) == person_of(by) for a in state.yeses.get(candidate_id, ()))


# ---------------------------------------------------------------- the evidence


def interval(numbers: Mapping[str, float], prefix: str = "") -> dict[str, float | None] | None:
    """`estimate`, `low` and `high` of a verdict's numbers, corrected; None where the gate has none."""
    if f"{prefix}estimate" not in numbers:
        return None
    return {name: numbers.get(f"{prefix}{name}") for name in ("estimate", "low", "high")}


def interval_text(numbers: Mapping[str, float], rules: GateRules, prefix: str = "") -> str:
    """`better by 0.32, 95 % interval 0.29 to 0.35`, in the metric's units and the direction of better."""
    found = interval(numbers, prefix)
    if found is None:
        return "no interval: one seed, no test" if rules.max_seeds == 1 else "no interval: no gain was shown"
    if found["low"] is None:
        return f"better by {found['estimate']:.4g}, lower bound not above 0, at most {found['high']:.4g} (95 %)"
    return f"better by {found['estimate']:.4g}, 95 % interval {found['low']:.4g} to {found['high']:.4g}"


def guards(verdict: Verdict | None) -> list[dict[str, Any]]:
    """The guard metrics that the gate looked at: both means, and by how much the challenger may be worse."""
    found = verdict.guards if verdict else ()
    return [asdict(g) | {"name": plain(g.name, 60), "holds": g.holds} for g in found]


@dataclass(frozen=True)
class EvidenceCost:
    """What further evidence takes: `least` to `most` trainings, minutes by what trainings took here."""

    least: int
    most: int
    minutes: float  # for `most`

    @property
    def text(self) -> str:
        count = f"{self.most}" if self.least == self.most else f"{self.least} to {self.most}"
        time = f"about {self.minutes:.1f} minutes" if self.minutes >= 0.1 else "a few seconds"
        at_most = "" if self.least == self.most else "at most "
        return f"{count} training{'' if self.most == 1 else 's'}, {at_most}{time} by what trainings took here"


def most_further_seeds(state: State, candidate_id: str) -> int:
    """How many further seeds may be asked for; what `policy.answer` allows."""
    challenge = state.entries[candidate_id].challenge
    seeds = int(challenge.verdict.numbers["n"]) if challenge is not None and challenge.verdict is not None else 0
    return gate.MOST_SEEDS - seeds - state.evidence.get(candidate_id, 0)


def evidence_cost(state: State, request: ApprovalRequest, seeds: int) -> EvidenceCost:
    """Of `seeds` further seeds for what is pending; of the whole evidence anew for what is stale."""
    rules, estimate = state.campaign.rules.gate, state.campaign.subject.estimate
    used = [t.usage.wall_seconds for t in state.trials.values() if t.usage and t.state == "COMPLETE"]
    each = fmean(used) if used else estimate.train_seconds
    least = most = seeds
    if is_stale(state, request):
        bank = max(0, rules.baseline_seeds - len(state.bank(state.champion_id)))
        vault = 2
        least, most = bank + 1, bank + rules.max_seeds + vault
    scoring = most * estimate.score_seconds * (1 + rules.baseline_seeds)  # the whole bank, on each seed's problems
    return EvidenceCost(least, most, (most * each / max(1, state.workers) + scoring) / 60)


# ---------------------------------------------------------------- one candidate


def compute(state: State, request: ApprovalRequest) -> dict[str, float] | None:
    """Mean CPU seconds of a training of both, as the gate compared them or by their banks; None on other hardware."""
    entry = state.entries[request.candidate_id]
    for guard in guards(entry.verdict):
        if guard["name"] == "train_seconds":
            return {"challenger": guard["challenger"], "champion": guard["champion"]}

    def mean(candidate_id: str) -> float | None:
        used = [t.usage.cold_seconds for t in state.bank(candidate_id) if t.usage]
        return fmean(used) if used else None

    mine, theirs = mean(request.candidate_id), mean(request.champion_id)
    return None if mine is None or theirs is None else {"challenger": mine, "champion": theirs}


def lineage(state: State, request: ApprovalRequest) -> list[dict[str, str]]:
    """The parents that a proposal names, with their stage; who reviews a descendant of something rejected is told so."""
    found = []
    for parent in state.entries[request.candidate_id].proposal.parents:
        known = [c for c in state.entries if parent and c.startswith(parent)]
        stage = state.entries[known[0]].stage if known else "not of this campaign"
        reason = state.entries[known[0]].reason if stage == "declined" else ""
        found.append({"id": plain(parent, 64), "stage": stage, "rejected_because": plain(reason, 200)})
    return found


def describe(
    state: State, request: ApprovalRequest, link: str | None = None, since: float | None = None
) -> dict[str, Any]:
    """What waits, ready for `json.dumps`. `since`: seconds since the epoch at which it began to wait."""
    if request.kind == "eval":
        return _describe_eval(state, request, since)
    entry, champion = state.entries[request.candidate_id], state.entries[request.champion_id]
    rules, subject, proposal = state.campaign.rules.gate, state.campaign.subject, entry.proposal
    numbers = dict(entry.verdict.numbers) if entry.verdict else {}
    patch = proposal.candidate.patch
    used = sum(t.usage.cpu_seconds for n in entry.trials if (t := state.trials[n]).usage)
    stale = is_stale(state, request)
    return {
        "campaign": state.campaign.campaign,
        "candidate": request.candidate_id,
        "content_hash": request.content_hash,
        "kind": request.kind,
        "stale": stale,
        "since": since,
        "champion": request.champion_id,
        "champion_now": state.champion_id,
        "parameters": {k: {"champion": a, "candidate": b}
                       for k, (a, b) in changes(proposal.candidate.params, champion.proposal.candidate.params).items()},
        "patch": None if patch is None else visible(patch),
        "patch_sha256": None if patch is None else digest(patch),
        "metric": subject.objective.metric,
        "direction": subject.objective.direction,
        "interval": interval(numbers),
        "interval_text": interval_text(numbers, rules),
        "verdict": {"decision": entry.verdict.decision, "reason": plain(entry.verdict.reason), "numbers": numbers}
        if entry.verdict else None,
        "vault": {"passed": entry.challenge is not None and entry.challenge.vault == "yes",
                  "queries": state.vault_queries, "allowed": rules.vault_queries, "unconfirmed": subject.unconfirmed},
        "gate": rules.setting,
        "promise": gate.promise(rules),
        "guards": guards(entry.verdict),
        "compute": compute(state, request),
        "integrity": integrity(state, request),
        "integrity_report": integrity_report(state, request),
        "sandbox": plain(request.sandbox, 60),
        "cost": {"trainings": len(entry.trials), "train_seconds": used, "llm_tokens": proposal.spend.llm_tokens,
                 "llm_usd": proposal.spend.llm_usd, "campaign_trainings": state.spend.trials,
                 "campaign_train_seconds": state.spend.train_seconds, "campaign_usd": state.spend.usd},
        "claims": {"proposer": plain(proposal.proposer, 60), "model": plain(proposal.model or "", 100) or None,
                   "rationale": plain(proposal.rationale, _CLAIM_CHARS), "chosen": plain(proposal.decided, _CLAIM_CHARS)},
        "lineage": lineage(state, request),
        "link": link,
        "approvals": approved_by(state, request.candidate_id),
        "approvals_needed": rules.approvals,
        "confirmations_needed": 1,
    }  # fmt: skip


def _describe_eval(state: State, request: ApprovalRequest, since: float | None) -> dict[str, Any]:
    """A proposed evaluation: no champion, no interval and no patch, but code and the quality report."""
    entry = state.evals[request.candidate_id]
    proposal, report = entry.proposal, entry.report
    return {
        "campaign": state.campaign.campaign,
        "subject": plain(state.campaign.subject.name, 80),
        "candidate": request.candidate_id,
        "content_hash": request.content_hash,
        "kind": request.kind,
        "stale": False,
        "since": since,
        "name": plain(proposal.name, 60),
        "metric": f"{SUITE}{plain(proposal.name, 60)}",
        "form": proposal.form,
        "code": visible(proposal.code),
        "report": suite.describe_report(report),
        "facts": suite.facts(report) if report else {},
        "suite_version": state.suite_version + 1,
        "evaluation_version": request.evaluation_version,
        "sandbox": plain(request.sandbox, 60),
        "claims": {"proposer": plain(proposal.proposer, 60), "model": plain(proposal.model or "", 100) or None,
                   "rationale": plain(proposal.rationale, _CLAIM_CHARS)},
        "approvals": approved_by(state, request.candidate_id),
        "approvals_needed": state.campaign.rules.gate.approvals,
        "confirmations_needed": 2,
    }  # fmt: skip


def integrity(state: State, request: ApprovalRequest) -> str:
    """What ran on behalf of the candidate, behind what, and what was seen of it, on one line."""
    sandbox = plain(request.sandbox, 60)
    if state.candidate(request.candidate_id).patch is None:
        return f"parameters only: no edited code ran; sandbox {sandbox}"
    report = state.integrity(request.candidate_id)
    if report is None:
        return f"edited code ran in sandbox {sandbox}; no integrity report"
    findings = report.findings(state.campaign.subject.honeypot)
    start, middle, end = report.phases
    seen = f"{len(findings)} finding{'' if len(findings) == 1 else 's'}" if findings else "nothing found"
    return (
        f"edited code ran in sandbox {sandbox}; {seen}; canary {report.canary}; re-run on the same seed: {report.rerun or 'not made'};"
        f" {start:.1f} s to the first report, {middle:.1f} s to the last, {end:.1f} s to the end"
    )


def integrity_report(state: State, request: ApprovalRequest) -> dict[str, Any] | None:
    """All of the report as data, with what a reviewer should look at as sentences; None without edited code."""
    report = state.integrity(request.candidate_id)
    if report is None:
        return None
    found = {name: [plain(v, 300) for v in value] if isinstance(value, tuple) and name != "phases" else value
             for name, value in asdict(report).items()}  # fmt: skip
    return found | {"findings": [plain(line, 600) for line in report.findings(state.campaign.subject.honeypot)]}
