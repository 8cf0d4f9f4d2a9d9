"""What happens next: one pure function of the state and the rules. No clock, no files, no chance.

The life of a candidate, in the order in which `decide` looks:

    proposed -> (an edit of the harness: checked) -> trained once, scored on `search` -> above the incumbent?
      -> challenge: fresh seeds against the champion's bank on fresh `gate` problems, until the gate says
      -> ACCEPT -> a new training of both before the vault, asked once, which says yes
      -> waits for a person -> promoted (`answer` below), or more seeds, or rejected with a reason

The champion's bank (its trainings on `gate.baseline_seeds` seeds) goes first to the workers: it is the noise floor, and
the reference of every challenge. Workers that it leaves free begin with the search.

Advice is beside all this: an advisor that takes time (a language model) is asked ahead, while trainings run, and its
suggestion waits until it is proposed. No worker waits for it, unless nobody else proposes.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

from evolve import budget, gate, pareto, patches, suite
from evolve.errors import InvalidCandidate
from evolve.space import extended
from evolve.state import MOST_SUGGESTIONS, Challenge, ScoreKey, State, value_in, value_of
from evolve.types import (
    Approval,
    ApprovalRequest,
    ApprovalRequested,
    Candidate,
    ChallengeOpened,
    Command,
    CommandRefused,
    Decided,
    EvalProposal,
    Evaluation,
    Event,
    EvidenceRequested,
    GateRules,
    GuardFinding,
    HumanProposed,
    LessonRemoved,
    LessonWritten,
    Objective,
    Promoted,
    Proposal,
    Purpose,
    RolledBack,
    Rules,
    Split,
    StopRequested,
    SuiteChanged,
    SuiteMetric,
    Trial,
    TrialFinished,
    TrialScheduled,
    VaultAnswered,
    VaultAsked,
    Verdict,
    VerdictReached,
    digest,
    person_of,
    short,
)

MOST_LESSON_CHARS = 500  # of one that a person writes
_POOL = (3, 3, 2)  # sets of weights that a proposed evaluation is tried on: the champion's, the best, the worst
_ENOUGH = 3  # candidates among them, before there is anything to tell apart
VAULT_SEEDS = 1_000_000  # seed indices from here on are those of the vault's trainings, one for each round

# ---------------------------------------------------------------- actions


@dataclass(frozen=True)
class Emit:
    """Nothing to be done: what the state implies becomes an event."""

    event: Event


@dataclass(frozen=True)
class Propose:
    """Choose one new candidate, in the loop's thread: the sampler's, or a suggestion that waits."""


@dataclass(frozen=True)
class Advise:
    """Ask the advisor for one suggestion. Takes no worker, and where the advisor takes time, nobody's."""


@dataclass(frozen=True)
class CheckEdit:
    """Put a candidate's patch through the early checks, in the sandbox, on a free worker."""

    candidate_id: str


@dataclass(frozen=True)
class AssessEval:
    """Try a proposed evaluation on the stored weights of these trials, in the sandbox, on a free worker."""

    proposal_id: str
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Run:
    """Train and score a scheduled trial on a free worker."""

    trial: Trial


@dataclass(frozen=True)
class Rescore:
    """Score stored weights on the problems of one (split, round), on a free worker: several at once, as they are compared."""

    trials: tuple[Trial, ...]
    split: Split
    round: int


@dataclass(frozen=True)
class Wait:
    """Until a worker is done or a person has left a command."""


@dataclass(frozen=True)
class Stop:
    """End the loop. Only `finished` is the campaign's own end."""

    kind: str
    reason: str


Action = Emit | Propose | Advise | CheckEdit | AssessEval | Run | Rescore | Wait | Stop


def seed_for(campaign_seed: int, index: int) -> int:
    """Seed of the index-th training of any candidate: index 0 searches, 1 and above are the bank's and the gate's.

    The same indices for every candidate, so that challenger and champion are paired by seed as well as by problems.
    """
    return int(hashlib.sha256(f"evolve:{campaign_seed}:{index}".encode()).hexdigest()[:8], 16)


# ---------------------------------------------------------------- the decision


def decide(state: State, rules: Rules) -> Action:
    """The next action. Called again after each event; with several workers it returns `Run` until all are busy."""
    busy = _busy(state)
    if state.stop_requested:
        return Stop("stopped", "stopped on request")
    if (owed := settle(state) or _request_eval(state)) is not None:
        return Emit(owed)
    if (late := budget.overtime(rules.budget, state.committed)) is not None:
        return _finish(state, rules, late)
    for step in (_give_up, _continue_waiting, _fill_bank, _advance_challenge, _open_challenge):
        action = step(state, rules)
        if isinstance(action, Emit | Stop):
            return action
        if action is not None and busy < rules.workers:
            return action
    spent = _no_training(state, rules)
    if busy >= rules.workers:
        return Advise() if rules.advice_ahead and spent is None and _advice_is_due(state, rules) else Wait()
    if rules.gate.wait and state.pending:
        return Wait()
    if (assess := _assess_next(state, rules)) is not None:
        return assess
    if spent is None and (begin := _begin_next(state)) is not None:
        return begin
    if spent is None and state.failures_in_row < rules.max_proposer_failures:
        if _advice_is_due(state, rules):
            return Advise()
        if rules.advice_share < 1 or state.suggestions:
            return Propose()
        if state.advising or rules.advice_paused:
            return Wait()
    if busy:
        return Wait()
    return _assess_next(state, rules, at_end=True) or _finish(state, rules, spent)


def _busy(state: State) -> int:
    """Workers that are at work."""
    return len(state.running) + len(state.scoring) + len(state.checking) + len(state.assessing)


def _begin_next(state: State) -> Action | None:
    """The search training of the next candidate in the queue; first the checks of its patch, where it has a new one."""
    checking = {state.candidate(c).patch for c in state.checking}
    for candidate_id in state.queue:
        if not state.needs_check(candidate_id):
            return Emit(_schedule(state, candidate_id, "search", 0))
        if state.candidate(candidate_id).patch not in checking:
            return CheckEdit(candidate_id)
    return None


def _no_training(state: State, rules: Rules) -> str | None:
    """Why no other training may be scheduled, or None."""
    return budget.exhausted(rules.budget, state.committed, state.training_ahead)


def _no_call(state: State, rules: Rules) -> str | None:
    """Why no other model call may be asked for, or None."""
    return state.refused or budget.no_more_calls(rules.budget, state.committed)


def settle(state: State) -> Promoted | SuiteChanged | None:
    """What an approval is still owed: the next event after it, also where a crash came between."""
    if state.approved is None:
        return None
    r = state.approved
    if r.kind == "eval":
        p, by = (
            state.evals[r.candidate_id].proposal,
            [a.by for a in state.approvals if a.candidate_id == r.candidate_id],
        )
        metric = SuiteMetric(p.name, p.form, p.code, state.campaign.campaign, ", ".join(dict.fromkeys(by)))
        return SuiteChanged(state.suite_version + 1, metric, r.content_hash)
    return Promoted(r.candidate_id, state.champion_id, r.content_hash, r.trial_number, r.weights)


def _request_eval(state: State) -> ApprovalRequested | None:
    """A proposed evaluation that works waits for a person from now on; nothing does after edited code ran unconfined."""
    for proposal_id, entry in state.evals.items():
        if entry.stage == "assessed" and entry.report is not None and not state.tainted:
            return ApprovalRequested(
                ApprovalRequest(
                    candidate_id=proposal_id,
                    champion_id=state.champion_id,
                    weights=proposal_id,
                    trial_number=-1,
                    evidence=suite.evidence(entry.report),
                    evaluation_version=state.campaign.measured_by,
                    sandbox=state.sandbox,
                    kind="eval",
                )
            )
    return None


def _assess_next(state: State, rules: Rules, at_end: bool = False) -> AssessEval | None:
    """The oldest proposal that was not tried, once there are candidates to tell apart, or nothing else is left to do."""
    for proposal_id, entry in state.evals.items():
        if entry.stage == "proposed" and proposal_id not in state.assessing:
            pool = eval_pool(state, rules)
            if at_end or len({t.candidate_id for t in pool}) >= _ENOUGH:
                return AssessEval(proposal_id, pool)
    return None


def eval_pool(state: State, rules: Rules) -> tuple[Trial, ...]:
    """Trainings of which the store has the weights: some of the champion's, first, then of the best and the worst scored."""
    kept, (champions, most, least) = weights_to_keep(state, rules), _POOL
    stored = [t for t in state.trials.values() if t.weights in kept and t.score is not None]
    others = sorted((t for t in stored if t.candidate_id != state.champion_id), key=lambda t: -_merit(state, t))
    chosen = [t for t in stored if t.candidate_id == state.champion_id][:champions]
    chosen += others[:most] + (others[most:][-least:] if least else [])
    return tuple(chosen)


def _merit(state: State, trial: Trial) -> float:
    """The trial's search score, larger is better; -infinity without one."""
    return state.sign * trial.score.mean if trial.score else float("-inf")


def _give_up(state: State, rules: Rules) -> Action | None:
    """A trial that was interrupted too often fails. So does a campaign whose champion does not train.

    One that has trained before is tried again, up to `max_attempts` in a row: it may be the machine's fault.
    """
    for number in state.waiting:
        if state.trials[number].attempt >= rules.max_attempts:
            attempts = state.trials[number].attempt
            return Emit(TrialFinished(number, "FAIL", error=f"interrupted {attempts} times; not tried again"))
    failures = state.bank_failures  # of this session: after a resume the seed is tried once more
    if failures and (len(failures) >= rules.max_attempts or not state.bank(state.champion_id)):
        who = "default config" if not state.previous else f"champion {short(state.champion_id)}"
        error = state.trials[failures[-1]].error
        return Stop("failed", f"the {who} must train on every seed, but trial {failures[-1]} failed: {error}")
    return None


def _continue_waiting(state: State, rules: Rules) -> Action | None:
    for number in state.waiting:
        return Run(state.trials[number])
    return None


def _missing_seeds(state: State, candidate_id: str, wanted: int, challenge: Challenge | None = None) -> list[int]:
    """Seed indices that the candidate needs to have `wanted` usable trainings, those under way counted.

    For a challenge these are its own gate seeds alone: what was trained for the vault, before a person asked for more, is none.
    """
    first = 1 if challenge is None else challenge.first_seed
    under_way = [
        t for n in state.entries[candidate_id].trials if (t := state.trials[n]).state in ("WAITING", "RUNNING")
    ]
    trials = [t for t in [*state.bank(candidate_id), *under_way] if t.evidence]
    if challenge is not None:
        trials = [t for t in trials if t.purpose == "gate"]
    used = {t.seed_index for t in trials if t.seed_index >= first}
    count = wanted - len(used)
    free = (index for index in range(first, first + wanted + len(used)) if index not in used)
    return [next(free) for _ in range(count)]


def _fill_bank(state: State, rules: Rules) -> Action | None:
    missing = _missing_seeds(state, state.champion_id, rules.gate.baseline_seeds)
    if not missing or _no_training(state, rules):
        return None
    if _busy(state) >= rules.workers:
        return Wait()
    return Emit(_schedule(state, state.champion_id, "bank", missing[0]))


def _advice_is_due(state: State, rules: Rules) -> bool:
    """Whether the advisor is free, has had less than its share, and its suggestion could still be trained.

    It is asked again when another candidate has been proposed: one that fails does not spin, and one that was slow does
    not flood the pool to catch up. Where nobody else proposes, suggestions are made for the workers ahead, and a failure
    is followed by the next turn, no more than `max_proposer_failures` times in a row.
    """
    if state.advising or rules.advice_paused or rules.advice_share <= 0 or (rules.gate.wait and state.pending):
        return False
    if _no_call(state, rules):
        return False
    promised = len(_missing_seeds(state, state.champion_id, rules.gate.baseline_seeds)) + len(state.queue)
    left = float("inf") if rules.budget.trials is None else rules.budget.trials - state.spend.trials - promised
    if left <= len(state.suggestions):
        return False
    if rules.advice_share >= 1:
        ahead = min(rules.workers, MOST_SUGGESTIONS) if rules.advice_ahead else 1
        return len(state.suggestions) < ahead and state.advice_failures < rules.max_proposer_failures
    return state.advice_at != state.proposals and state.advice < rules.advice_share * (state.proposals + 1)


def _schedule(state: State, candidate_id: str, purpose: Purpose, seed_index: int) -> TrialScheduled:
    seed = seed_for(state.campaign.seed, seed_index)
    return TrialScheduled(len(state.trials), candidate_id, purpose, seed_index, seed)


def _open_challenge(state: State, rules: Rules) -> Action | None:
    """A person's request for evidence first, then the best contender."""
    if state.tainted or state.challenge is not None or not (state.evidence or state.contenders):
        return None  # after edited code has run without a sandbox, no number of this campaign is evidence
    if len(state.bank(state.champion_id)) < rules.gate.baseline_seeds:
        return None
    for candidate_id, seeds in state.evidence.items():
        before = state.entries[candidate_id].challenge
        if _no_training(state, rules) is not None:
            return None  # it stays as it is, and can be decided on
        if candidate_id in state.pending and before is not None:
            return Emit(ChallengeOpened(candidate_id, state.champion_id, before.round, seeds))
    if state.vault_queries >= rules.gate.vault_queries or state.rounds >= rules.gate.most_challenges:
        return None  # said so by `_finish`: limits are what keeps vault and promise honest
    for candidate_id in state.evidence:
        return Emit(ChallengeOpened(candidate_id, state.champion_id, state.rounds + 1))
    if len(state.objectives) > 1:
        return Emit(ChallengeOpened(_most_promising(state), state.champion_id, state.rounds + 1))
    scores = {c: score.mean for c in state.contenders if (score := state.search_score(c)) is not None}
    best = max(scores, key=lambda c: state.sign * scores[c])
    return Emit(ChallengeOpened(best, state.champion_id, state.rounds + 1))


def _most_promising(state: State) -> str:
    """Of the contenders, over several objectives; those that were measured on other hardware come last."""
    incumbent = state.values(state.incumbent_id)

    def merit(candidate_id: str) -> float:
        point = state.values(candidate_id)
        return pareto.merit(point, incumbent, state.objectives) if point and incumbent else float("-inf")

    return max(state.contenders, key=merit)


def _advance_challenge(state: State, rules: Rules) -> Action | None:
    """The next step of the open challenge, or None where it has to wait for trials under way."""
    challenge = state.challenge
    if challenge is None:
        return None
    judged = 0 if challenge.verdict is None else int(challenge.verdict.numbers.get("n", 0))
    challenger, exhausted = state.seeds(challenge), _no_training(state, rules) is not None
    wanted = challenge.wanted or judged + 1
    if challenge.wanted and exhausted and not state.running and not state.waiting:
        wanted = len(
            challenger
        )  # what a person asked for beyond the budget must not keep the rest from being decided on
    accepted = challenge.verdict is not None and challenge.verdict.decision == "ACCEPT"
    if accepted and (not challenge.wanted or judged >= wanted):
        return _ask_vault(state, rules, challenge)
    failed = [
        t
        for n in state.entries[challenge.candidate_id].trials
        if (t := state.trials[n]).purpose == "gate" and t.state == "FAIL" and t.seed_index >= challenge.first_seed
    ]
    if failed:
        return _reject(challenge, f"gate seed {failed[0].seed_index} failed: {failed[0].error}")
    champion = state.bank(challenge.champion_id)[: rules.gate.baseline_seeds]
    missing = _missing_seeds(state, challenge.candidate_id, wanted, challenge)
    if missing and not exhausted:
        if _busy(state) >= rules.workers:
            return Wait()
        return Emit(_schedule(state, challenge.candidate_id, "gate", missing[0]))
    if len(challenger) < wanted:
        return None
    # A set of problems for each challenger seed, on which the whole bank is scored as well.
    fresh = state.campaign.subject.fresh_problems
    keys: list[ScoreKey] = [
        (trial.number, "gate", problems_round(challenge.round, seed) if fresh else 0)
        for seed in range(wanted)
        for trial in (challenger[seed], *champion)
    ]
    scoring = _score_or_collect(state, rules, keys)
    if not isinstance(scoring, list):
        return _unscored(state, challenge, scoring) if isinstance(scoring, Trial) else scoring
    width = 1 + len(champion)
    keyed = [keys[i : i + width] for i in range(0, len(keys), width)]  # (seed, challenger and then bank)
    evidence = _evidence(state, keyed, challenger[:wanted], champion)
    if len(evidence) > 1:
        verdict = gate.judge_several(evidence, rules.gate)
    else:
        verdict = evidence[0].judge(rules.gate, corrected=True)
    if verdict.decision == "ACCEPT":
        verdict = _guarded(state, verdict, keyed, challenger[:wanted], champion)
    return Emit(VerdictReached(challenge.candidate_id, challenge.round, verdict))


def _evidence(
    state: State, keys: list[list[ScoreKey]], challenger: list[Trial], champion: list[Trial]
) -> list[gate.Evidence]:
    """What the gate needs of each objective. `keys`: (seed, challenger and then bank), all scored.

    What the controller measured is of the same trainings; there is one bank of it for all seeds.
    """
    assert state.challenge is not None
    evidence = []
    for index, objective in enumerate(state.objectives):
        noise = state.noise_of.get(objective.metric, {}) if index else state.noise_groups
        groups = [group for round, group in noise.items() if round != state.challenge.round]  # its own are judged here
        references: list[float] | None = None
        problems = 0.0
        if objective.measured:
            mine, bank = ([x for t in trials if (x := value_of(t, objective)) is not None]
                          for trials in (challenger, champion))  # fmt: skip
        else:
            rows = [[value_in(state.scores[key], objective) for key in row] for row in keys]
            mine, references = [row[0] for row in rows], [fmean(row[1:]) for row in rows]
            bank = [fmean(column) for column in list(zip(*rows, strict=True))[1:]]
            if not state.campaign.subject.fresh_problems:  # a scorer gives the error of its primary metric alone
                errors = [[state.scores[key].stderr for key in row] for row in keys]
                problems = math.hypot(fmean(row[0] for row in errors), fmean(fmean(row[1:]) for row in errors))
        prior = gate.pooled_variance([bank, *groups])
        accepted_at = state.challenge.accepted_at
        evidence.append(gate.Evidence(objective, mine, bank, prior, references, problems, accepted_at))
    return evidence


def _guarded(
    state: State, verdict: Verdict, keys: list[list[ScoreKey]], challenger: list[Trial], champion: list[Trial]
) -> Verdict:
    """An acceptance, unless a guard metric has become worse than its tolerance, or one of the suite's has no value."""
    if why := _caught(state, keys, challenger[0].candidate_id) or _unmeasured(state, keys):
        return replace(verdict, decision="REJECT", reason=why)
    findings = _guards(state, keys, challenger, champion)
    verdict = replace(verdict, guards=tuple(findings))
    broken = [f for f in findings if not f.holds]
    if not broken:
        return verdict
    worst = max(broken, key=lambda f: -f.difference - f.margin)
    reason = (
        f"guard {worst.name}: {worst.challenger:.4g} against the champion's {worst.champion:.4g},"
        f" worse by more than the {worst.margin:.4g} allowed"
    )
    if worst.name == "train_seconds" and worst is findings[0]:
        limits = state.campaign.subject.limits
        allowed = worst.champion + worst.margin
        reason = (
            f"more compute: {worst.challenger:.1f} CPU seconds a training, {allowed:.1f} allowed"
            f" ({limits.compute_ratio:g}x the champion's)"
        )
    return replace(verdict, decision="REJECT", reason=reason)


def _caught(state: State, keys: list[list[ScoreKey]], candidate_id: str) -> str:
    """What no honest edit does, or "": touch the file of false answers, or know the unknowable."""
    report, honeypot = state.integrity(candidate_id), state.campaign.subject.honeypot
    if report is not None and report.canary == "touched":
        return "the training touched the canary, a file of false answers that no honest training has a use for"
    if honeypot is not None:
        known = max(state.scores[row[0]].metrics.get(honeypot.metric, 0.0) for row in keys)
        if known > honeypot.at_most:
            return f"honeypot: {honeypot.metric} is {known:.4g}, above {honeypot.at_most:g}, which no honest training reaches"
    return ""


def _unmeasured(state: State, keys: list[list[ScoreKey]]) -> str:
    """Why a guard of the suite's cannot be looked at, or "": what was not measured has not held."""
    for guard in state.campaign.subject.guards:
        for evaluation in (state.scores[key] for row in keys for key in row):
            if reason := evaluation.missing.get(guard.metric):
                return f"guard {guard.metric} could not be measured: {reason}"
    return ""


def _guards(
    state: State, keys: list[list[ScoreKey]], challenger: list[Trial], champion: list[Trial]
) -> list[GuardFinding]:
    """Equal compute, then the subject's own guards, over the trainings and scores that the gate has judged."""
    subject, limits = state.campaign.subject, state.campaign.subject.limits
    guards = list(subject.guards)
    if all(o.metric != "train_seconds" for o in state.objectives):  # else the gate has judged the seconds
        slack = limits.compute_slack_seconds
        guards.insert(0, Objective("train_seconds", "minimize", slack, limits.compute_ratio - 1))
    findings = []
    for guard in guards:
        if guard.measured:
            mine, theirs = ([x for t in trials if (x := value_of(t, guard)) is not None]
                            for trials in (challenger, champion))  # fmt: skip
            if mine and theirs:
                findings.append(gate.judge_guard(guard.metric, mine, theirs, guard))
            continue
        rows = [[state.scores[key] for key in row] for row in keys]
        names = rows[0][0].groups if guard.metric == "groups" else [guard.metric]
        for name in names:
            read = [[e.groups[name] if guard.metric == "groups" else value_in(e, guard) for e in row] for row in rows]
            label = f"groups/{name}" if guard.metric == "groups" else name
            mine, theirs = [row[0] for row in read], [fmean(row[1:]) for row in read]
            findings.append(gate.judge_guard(label, mine, theirs, guard))
    return findings


def problems_round(challenge_round: int, seed: int) -> int:
    """Number of the problem set of one challenger seed (from 0) in one challenge; no two are the same."""
    return challenge_round * 100 + seed


def _reject(challenge: Challenge, reason: str) -> Emit:
    return Emit(VerdictReached(challenge.candidate_id, challenge.round, Verdict("REJECT", reason)))


def _score_or_collect(state: State, rules: Rules, keys: list[ScoreKey]) -> list[Evaluation] | Action | Trial | None:
    """The scores of `keys`; or the next to make; or None to wait for those under way; or the trial that has none.

    A failed score is tried again, up to `max_attempts`: it may be the machine's fault, not the weights'.
    """
    for key in keys:
        if len(state.score_errors.get(key, ())) >= rules.max_attempts:
            return state.trials[key[0]]
    for _, split, round in (key for key in keys if key not in state.scores and key not in state.scoring):
        todo = [k for k in keys if k[1:] == (split, round) and k not in state.scores and k not in state.scoring]
        return Rescore(tuple(state.trials[number] for number in dict.fromkeys(k[0] for k in todo)), split, round)
    if any(key in state.scoring for key in keys):
        return None
    return [state.scores[key] for key in keys]


def _unscored(state: State, challenge: Challenge, trial: Trial) -> Action:
    """What cannot be scored: a challenger is rejected for it, a champion is nobody else's fault."""
    error = next(e[-1] for key, e in reversed(state.score_errors.items()) if key[0] == trial.number)
    reason = f"trial {trial.number} could not be scored: {error}"
    if trial.candidate_id == challenge.champion_id:
        return Stop("failed", f"the champion's {reason}")
    if challenge.vault == "asked":
        return Emit(VaultAnswered(challenge.candidate_id, challenge.round, False, Verdict("REJECT", reason)))
    return _reject(challenge, reason)


def _ask_vault(state: State, rules: Rules, challenge: Challenge) -> Action | None:
    """A new training of both sides on one new seed, then the vault's question, then the request for approval."""
    if challenge.vault == "yes":
        return _request_approval(state, rules, challenge)
    index = VAULT_SEEDS + challenge.round
    pair: list[Trial] = []
    for candidate_id in (challenge.candidate_id, challenge.champion_id):
        trials = [t for n in state.entries[candidate_id].trials if (t := state.trials[n]).seed_index == index]
        done = [t for t in state.bank(candidate_id, index) if t.seed_index == index]
        if done:
            pair.append(done[0])
        elif any(t.state in ("WAITING", "RUNNING") for t in trials):
            continue
        elif candidate_id == challenge.candidate_id and (failed := [t for t in trials if t.state == "FAIL"]):
            return _reject(challenge, f"the training for the vault failed: {failed[0].error}")
        elif _no_training(state, rules) is None:
            if _busy(state) >= rules.workers:
                return Wait()
            return Emit(_schedule(state, candidate_id, "vault", index))
    if len(pair) < 2:
        return None
    if challenge.vault is None:
        if state.vault_queries >= rules.gate.vault_queries:  # a change of hardware has begun the challenge again
            return _reject(challenge, f"all {rules.gate.vault_queries} vault queries are used")
        return Emit(VaultAsked(challenge.candidate_id, challenge.round))
    assert challenge.verdict is not None
    stored = [t for t in state.bank(challenge.champion_id) if t.seed_index < index][: rules.gate.baseline_seeds]
    round = challenge.round if state.campaign.subject.fresh_problems else 0
    scoring = _score_or_collect(state, rules, [(t.number, "vault", round) for t in (*pair, *stored)])
    if not isinstance(scoring, list):
        return _unscored(state, challenge, scoring) if isinstance(scoring, Trial) else scoring
    numbers = challenge.verdict.numbers
    elsewhere = any(numbers.get(f"{o.metric}.better") for o in state.objectives[1:])
    margin = state.objectives[0].margin(fmean(e.mean for e in scoring[1:])) if elsewhere else 0.0
    level = None
    if not state.campaign.subject.fresh_problems:
        level = gate.vault_level(rules.gate, state.vault_queries, state.vault_yeses)
    verdict = gate.judge_vault(scoring[0], scoring[1:], challenge.verdict, state.sign, margin=margin, level=level)
    if unconfirmed := state.campaign.subject.unconfirmed:
        verdict = replace(verdict, reason=f"{verdict.reason}; {unconfirmed}")
    return Emit(VaultAnswered(challenge.candidate_id, challenge.round, verdict.decision == "ACCEPT", verdict))


def _request_approval(state: State, rules: Rules, challenge: Challenge) -> Action | None:
    """Of edited code first the training of the weights in question once more: does the same seed give the same?"""
    if state.candidate(challenge.candidate_id).patch is not None:
        again = state.rerun(challenge)
        if again is None and _no_training(state, rules) is None:
            if _busy(state) >= rules.workers:
                return Wait()
            return Emit(_schedule(state, challenge.candidate_id, "rerun", state.seeds(challenge)[0].seed_index))
        if again is not None and again.state in ("WAITING", "RUNNING"):
            return None
    return Emit(ApprovalRequested(_request(state, challenge)))


def _request(state: State, challenge: Challenge) -> ApprovalRequest:
    first = state.seeds(challenge)[0]
    verdict = challenge.verdict
    assert first.weights is not None and verdict is not None
    return ApprovalRequest(
        candidate_id=challenge.candidate_id,
        champion_id=challenge.champion_id,
        weights=first.weights,
        trial_number=first.number,
        evidence=digest(
            [challenge.champion_id, challenge.round, verdict.decision, dict(verdict.numbers), verdict.differences]
        ),
        evaluation_version=state.campaign.measured_by,
        sandbox=state.sandbox if state.candidate(challenge.candidate_id).patch else "none",
    )


def _finish(state: State, rules: Rules, spent: str | None) -> Stop:
    failures = max(state.failures_in_row, state.advice_failures if rules.advice_share >= 1 else 0)
    reason = spent or (
        f"no new candidate in {failures} turns: the proposers have run out"
        if failures >= rules.max_proposer_failures
        else _no_call(state, rules) or "nothing left to do"
    )
    if state.tainted:
        return Stop(
            "finished", f"{reason}; edited code ran without a sandbox (sandbox=none), so that nothing can be accepted"
        )
    if state.evidence:
        reason += f"; more evidence for {', '.join(short(c) for c in state.evidence)} is still asked for"
    if state.challenge is not None:
        reason += f"; candidate {short(state.challenge.candidate_id)} is left undecided"
    elif state.contenders and state.vault_queries >= rules.gate.vault_queries:
        reason += (
            f"; all {rules.gate.vault_queries} vault queries are used, {len(state.contenders)} candidate(s) not judged"
        )
    elif state.contenders and state.rounds >= rules.gate.most_challenges:
        reason += (
            f"; all {rules.gate.candidates} challenges that the promise covers are used (gate.candidates),"
            f" {len(state.contenders)} candidate(s) not judged"
        )
    elif state.contenders:
        reason += f"; {len(state.contenders)} candidate(s) above the incumbent not judged"
    elif state.evidence and state.vault_queries >= rules.gate.vault_queries:
        reason += f"; all {rules.gate.vault_queries} vault queries are used"
    elif state.evidence and state.rounds >= rules.gate.most_challenges:
        reason += f"; all {rules.gate.candidates} challenges that the promise covers are used (gate.candidates)"
    return Stop("finished", reason)


def expected_trials(rules: GateRules) -> str:
    """What the gate costs, for the plan that is shown before a campaign starts."""
    return (
        f"{rules.baseline_seeds} training(s) of the champion, then 1 to {rules.max_seeds} for each challenger,"
        " and one more of both for each question to the vault"
    )


# ---------------------------------------------------------------- a person's commands


def answer(state: State, command: Command) -> tuple[Event, ...]:
    """The events that a command from the inbox becomes; a command seen before becomes none, a bad one is refused.

    Fails closed: an approval holds only for exactly the content that was shown, against the champion of that moment.
    """
    if command.id in state.commands:
        return ()
    match command.kind:
        case "stop":
            return (StopRequested(command.id, command.by),)
        case "try":
            return _try(state, command)
        case "rollback":
            return _rollback(state, command)
        case "approve" | "reject":
            return _review(state, command)
        case "evidence":
            return _more_evidence(state, command)
        case "remember" | "forget":
            return _edit_memory(state, command)


def _refuse(command: Command, reason: str) -> tuple[Event, ...]:
    return (CommandRefused(command.id, reason),)


def _try(state: State, command: Command) -> tuple[Event, ...]:
    campaign, base = state.campaign, state.candidate(state.incumbent_id)
    patch, declared = base.patch, base.declared
    if command.patch:
        patch, declared = command.patch, {**base.declared, **command.declared}
    candidate = Candidate({}, campaign.subject_version, patch, declared)
    try:
        params = extended(campaign.subject.space, declared).overlay(base.params, command.params)
        candidate = check_new(state, replace(candidate, params=params))
    except InvalidCandidate as error:
        return _refuse(command, str(error))
    return (HumanProposed(Proposal(candidate, "human", command.reason, (base.id,)), command.id),)


def _rollback(state: State, command: Command) -> tuple[Event, ...]:
    if not state.previous:
        return _refuse(command, "A rollback needs a promotion before it, but this campaign has promoted nothing.")
    if command.candidate_id != state.champion_id:
        now = short(state.champion_id)
        return _refuse(
            command, f"A rollback takes back the champion that was seen, but it is {now} by now; look again."
        )
    restored, _ = state.previous[-1]
    return (RolledBack(state.champion_id, restored, command.reason, command.by, command.id),)


def _edit_memory(state: State, command: Command) -> tuple[Event, ...]:
    """A lesson is removed only where it still is the one that the person saw."""
    if command.kind == "remember":
        text = " ".join(command.reason.split())
        if not 0 < len(text) <= MOST_LESSON_CHARS:
            rule = f"A lesson must have 1 to {MOST_LESSON_CHARS} characters"
            return _refuse(command, f"{rule}, but got {len(text)}; say the one thing that matters.")
        return (LessonWritten(text, "human", person=command.by, command_id=command.id),)
    lesson = state.lessons.get(command.lesson)
    if lesson is None or digest(lesson.text) != command.content_hash:
        return _refuse(
            command, f"A lesson must be the one that was seen to be removed, but {command.lesson} is not; look again."
        )
    return (LessonRemoved(command.lesson, command.by, command.id),)


def _review(state: State, command: Command) -> tuple[Event, ...]:
    name, approves = short(command.candidate_id), command.kind == "approve"
    request = request_of(state, command.candidate_id)
    if request is None:
        return _refuse(
            command,
            f"Only a pending candidate can be decided on, but {name}: {standing(state, command.candidate_id)}; see `evolve review`.",
        )
    if command.content_hash != request.content_hash:
        return _refuse(
            command, f"An approval holds only for what was shown, but {name} has changed since; review it again."
        )
    stale = request.champion_id != state.champion_id or command.candidate_id in state.stale
    if approves and stale and request.kind == "candidate":
        return _refuse(
            command,
            f"Evidence must be against the champion of today, but {name} was judged against {short(request.champion_id)}"
            f" and the champion is {short(state.champion_id)}; renew its evidence in `evolve review`.",
        )
    if approves and request.kind == "eval" and command.confirmations < 2:
        return _refuse(
            command, f"A change of the evaluation must be confirmed twice, but {name} was once; use `evolve review`."
        )
    me = person_of(command.by)
    if approves and any(person_of(a.by) == me for a in state.yeses.get(command.candidate_id, ())):
        needed = state.campaign.rules.gate.approvals
        return _refuse(
            command, f"{needed} different persons must approve, but {command.by!r} already has; another one must."
        )
    decision: Literal["approve", "reject"] = "approve" if approves else "reject"
    return (
        Decided(
            Approval(
                request.candidate_id,
                decision,
                request.content_hash,
                command.by,
                command.reason,
                command.id,
                max(0.0, command.seconds),
                command.signature,
                request.kind,
            )
        ),
    )


def request_of(state: State, candidate_id: str) -> ApprovalRequest | None:
    """What waits under this id: a candidate, also a stale one, or a proposal for the evaluation."""
    found = state.evals.get(candidate_id)
    return state.pending.get(candidate_id) or state.stale.get(candidate_id) or (found.request if found else None)


def standing(state: State, candidate_id: str) -> str:
    """Where a candidate or a proposal that does not wait stands, and who decided so: for whoever comes too late.

    Names and reasons are as their authors wrote them: whoever shows this cleans it.
    """
    entry = state.entries.get(candidate_id) or state.evals.get(candidate_id)
    if entry is None:
        return "it is not of this campaign"
    last = next((a for a in reversed(state.approvals) if a.candidate_id == candidate_id), None)
    if last is None or entry.stage not in ("promoted", "declined", "adopted"):
        return f"it is {entry.stage}"
    if last.decision == "reject":
        return f"it is declined (rejected by {last.by}: {last.reason})"
    return f"it is {entry.stage} (approved by {last.by})"


def _more_evidence(state: State, command: Command) -> tuple[Event, ...]:
    name = short(command.candidate_id)
    request = state.pending.get(command.candidate_id) or state.stale.get(command.candidate_id)
    if request is None:
        return _refuse(command, f"Only for a candidate that waits can evidence be asked for, but {name}: "
                                f"{standing(state, command.candidate_id)}; see `evolve review`.")  # fmt: skip
    if command.content_hash != request.content_hash:
        return _refuse(command, f"{name} must be as it was shown, but has changed since; review it again.")
    have = state.entries[command.candidate_id].challenge
    seeds = int(have.verdict.numbers["n"]) if have is not None and have.verdict is not None else 0
    most = gate.MOST_SEEDS - seeds - state.evidence.get(command.candidate_id, 0)
    if command.candidate_id in state.pending and most < 1:
        return _refuse(command, f"A challenge has at most {gate.MOST_SEEDS} seeds, and {name} has them; decide on it.")
    if command.candidate_id in state.pending and not 1 <= command.seeds <= most:
        return _refuse(
            command, f"1 to {most} further seeds can be asked for, but got {command.seeds}; choose in between."
        )
    return (EvidenceRequested(command.candidate_id, max(1, command.seeds), command.by, command.id),)


# ---------------------------------------------------------------- what may be tried


def check_new(state: State, candidate: Candidate) -> Candidate:
    """The candidate itself where it may be tried; `InvalidCandidate` for a duplicate, or an edit that may not run.

    Edited code runs in the sandbox, or not at all, unless the user has chosen otherwise for this session.
    """
    if candidate.patch is not None:
        if state.sandbox == "unavailable":
            raise InvalidCandidate(
                "A harness edit needs the sandbox, which this machine does not give (`evolve doctor` says why); propose parameters."
            )
        patches.check(candidate.patch, state.campaign.subject.editable)
        if error := state.checked.get(candidate.patch):
            raise InvalidCandidate(f"A patch must be new, but this one was tried and failed: {error}")
    known = state.entries.get(candidate.id)
    if known is not None:
        raise InvalidCandidate(
            f"A candidate must be new, but {short(candidate.id)} was proposed before by {known.proposal.proposer}"
            f" ({known.stage}); change a parameter."
        )
    return candidate


def check_eval(state: State, proposal: EvalProposal) -> None:
    """Raises `InvalidCandidate` for a proposal that may not be tried."""
    subject = state.campaign.subject
    if not subject.answer_cmd:
        raise InvalidCandidate(
            "A proposed evaluation needs the subject's answer_cmd, which this one has not; leave it."
        )
    if state.sandbox != "bubblewrap":
        raise InvalidCandidate(
            "A proposed evaluation needs the sandbox, which this session does not have (`evolve doctor` says why); leave it."
        )
    if len(state.evals) >= suite.MOST_PROPOSALS and proposal.id not in state.evals:
        raise InvalidCandidate(
            f"A campaign takes {suite.MOST_PROPOSALS} evaluations, and has them; propose candidates."
        )
    suite.check(proposal, state.eval_names, state.evals)


def check_suggestion(state: State, candidate: Candidate) -> Candidate:
    """The same for a suggestion, which must not wait already either."""
    if candidate.id in state.suggestions:
        raise InvalidCandidate(
            f"A suggestion must be new, but {short(candidate.id)} is one that waits to be tried; change a parameter."
        )
    return check_new(state, candidate)


def weights_to_keep(state: State, rules: Rules) -> set[str]:
    """sha256 of the weights that may not be collected: champions, what is pending or challenging, the best few."""
    candidates = {state.champion_id, *(c for c, _ in state.previous), *state.pending, *state.stale}
    if state.approved is not None and state.approved.kind == "candidate":  # between the approval and its promotion
        candidates.add(state.approved.candidate_id)
    if state.challenge is not None:
        candidates.add(state.challenge.candidate_id)
    if state.accepted_id:
        candidates.add(state.accepted_id)
    # Whoever was trained for the gate and may meet it again: its seeds are evidence that cannot be made twice.
    candidates |= {c for c in state.retrained if state.entries[c].stage == "proposed"}
    kept = {state.trials[n].weights for _, n in state.ranking[: rules.keep_weights]}
    if state.campaign.subject.answer_cmd:  # known to be bad: what a proposed evaluation should tell from the good ones
        kept |= {state.trials[n].weights for _, n in state.ranking[-_POOL[2] :]}
    kept |= {state.trials[n].weights for numbers in state.assessing.values() for n in numbers}
    kept |= {state.trials[n].weights for c in candidates for n in state.entries[c].trials}
    return {w for w in kept if w is not None}
