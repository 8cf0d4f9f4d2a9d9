"""What happens next: one pure function of the state and the rules. No clock, no files, no chance.

The life of a candidate, in the order in which `decide` looks:

    proposed -> trained once, scored on `search` -> above the incumbent?
      -> challenge: fresh seeds against the champion's bank on fresh `gate` problems, until the gate says
      -> ACCEPT -> the vault, asked once, says yes -> waits for a person -> promoted (`answer` below)

The champion's bank (its trainings on `gate.baseline_seeds` seeds) goes first to the workers: it is the noise floor, and
the reference of every challenge. Workers that it leaves free begin with the search.

Advice is beside all this: an advisor that takes time (a language model) is asked ahead, while trainings run, and its
suggestion waits until it is proposed. No worker waits for it, unless nobody else proposes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

from evolve import budget, gate, pareto
from evolve.errors import InvalidCandidate
from evolve.space import SearchSpace
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
    Event,
    GateRules,
    HumanProposed,
    LessonRemoved,
    LessonWritten,
    Promoted,
    Proposal,
    Purpose,
    RolledBack,
    Rules,
    StopRequested,
    Trial,
    TrialFinished,
    TrialScheduled,
    VaultAnswered,
    VaultAsked,
    Verdict,
    VerdictReached,
    digest,
    short,
)

MOST_LESSON_CHARS = 500  # of one that a person writes

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
class Run:
    """Train and score a scheduled trial on a free worker."""

    trial: Trial


@dataclass(frozen=True)
class Rescore:
    """Score a stored training's weights on fresh problems, on a free worker."""

    trial: Trial
    key: ScoreKey


@dataclass(frozen=True)
class Wait:
    """Until a worker is done or a person has left a command."""


@dataclass(frozen=True)
class Stop:
    """End the loop. Only `finished` is the campaign's own end."""

    kind: str
    reason: str


Action = Emit | Propose | Advise | Run | Rescore | Wait | Stop


def seed_for(campaign_seed: int, index: int) -> int:
    """Seed of the index-th training of any candidate: index 0 searches, 1 and above are the bank's and the gate's.

    The same indices for every candidate, so that challenger and champion are paired by seed as well as by problems.
    """
    return int(hashlib.sha256(f"evolve:{campaign_seed}:{index}".encode()).hexdigest()[:8], 16)


# ---------------------------------------------------------------- the decision


def decide(state: State, rules: Rules) -> Action:
    """The next action. Called again after each event; with several workers it returns `Run` until all are busy."""
    busy = len(state.running) + len(state.scoring)
    if state.stop_requested:
        return Stop("stopped", "stopped on request")
    if (owed := settle(state)) is not None:
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
    if state.queue and spent is None:
        return Emit(_schedule(state, state.queue[0], "search", 0))
    if spent is None and state.failures_in_row < rules.max_proposer_failures:
        if _advice_is_due(state, rules):
            return Advise()
        if rules.advice_share < 1 or state.suggestions:
            return Propose()
        if state.advising or rules.advice_paused:
            return Wait()
    if busy:
        return Wait()
    return _finish(state, rules, spent)


def _no_training(state: State, rules: Rules) -> str | None:
    """Why no other training may be scheduled, or None."""
    return budget.exhausted(rules.budget, state.committed, state.training_ahead)


def _no_call(state: State, rules: Rules) -> str | None:
    """Why no other model call may be asked for, or None."""
    return state.refused or budget.no_more_calls(rules.budget, state.committed)


def settle(state: State) -> Promoted | None:
    """The promotion that an approval is still owed: the next event after it, also where a crash came between."""
    if state.approved is None:
        return None
    r = state.approved
    return Promoted(r.candidate_id, state.champion_id, r.content_hash, r.trial_number, r.weights)


def _give_up(state: State, rules: Rules) -> Action | None:
    """A trial that was interrupted too often fails; a failed default ends the campaign."""
    for number in state.waiting:
        if state.trials[number].attempt >= rules.max_attempts:
            attempts = state.trials[number].attempt
            return Emit(TrialFinished(number, "FAIL", error=f"interrupted {attempts} times; not tried again"))
    if state.bank_failure is not None:  # of this session: after a resume the seed is tried once more
        who = "default config" if not state.previous else f"champion {short(state.champion_id)}"
        error = state.trials[state.bank_failure].error
        return Stop("failed", f"the {who} must train on every seed, but trial {state.bank_failure} failed: {error}")
    return None


def _continue_waiting(state: State, rules: Rules) -> Action | None:
    for number in state.waiting:
        return Run(state.trials[number])
    return None


def _missing_seeds(state: State, candidate_id: str, wanted: int) -> list[int]:
    """Seed indices from 1 on that the candidate needs to have `wanted` usable trainings, those under way counted."""
    under_way = [
        t for n in state.entries[candidate_id].trials if (t := state.trials[n]).state in ("WAITING", "RUNNING")
    ]
    used = {t.seed_index for t in [*state.bank(candidate_id), *under_way] if t.purpose != "search"}
    count = wanted - len(used)
    free = (index for index in range(1, wanted + len(used) + 1) if index not in used)
    return [next(free) for _ in range(count)]


def _fill_bank(state: State, rules: Rules) -> Action | None:
    missing = _missing_seeds(state, state.champion_id, rules.gate.baseline_seeds)
    if not missing or _no_training(state, rules):
        return None
    if len(state.running) + len(state.scoring) >= rules.workers:
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
    if state.challenge is not None or not state.contenders:
        return None
    if len(state.bank(state.champion_id)) < max(2, rules.gate.baseline_seeds):
        return None
    if state.vault_queries >= rules.gate.vault_queries:
        return None  # said so by `_finish`: the vault's limit is what keeps it honest
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
    if challenge.verdict is not None and challenge.verdict.decision == "ACCEPT":
        return _ask_vault(state, rules, challenge)
    failed = [
        t
        for n in state.entries[challenge.candidate_id].trials
        if (t := state.trials[n]).purpose == "gate" and t.state == "FAIL"
    ]
    if failed:
        return _reject(challenge, f"gate seed {failed[0].seed_index} failed: {failed[0].error}")
    champion = state.bank(challenge.champion_id)[: rules.gate.baseline_seeds]
    challenger = state.bank(challenge.candidate_id)
    judged = 0 if challenge.verdict is None else int(challenge.verdict.numbers.get("n", 0))
    wanted = max(2, judged + 1)
    missing = _missing_seeds(state, challenge.candidate_id, wanted)
    if missing and _no_training(state, rules) is None:
        if len(state.running) + len(state.scoring) >= rules.workers:
            return Wait()
        return Emit(_schedule(state, challenge.candidate_id, "gate", missing[0]))
    if len(challenger) < wanted:
        return None
    # A set of problems for each challenger seed, on which the whole bank is scored as well.
    keys: list[ScoreKey] = [
        (trial.number, "gate", problems_round(challenge.round, seed))
        for seed in range(wanted)
        for trial in (challenger[seed], *champion)
    ]
    scoring = _score_or_collect(state, rules, keys)
    if not isinstance(scoring, list):
        return _unscored(state, challenge, scoring) if isinstance(scoring, Trial) else scoring
    width = 1 + len(champion)
    rows = [scoring[i : i + width] for i in range(0, len(scoring), width)]  # (seed, challenger and then bank)
    bank = [fmean(column) for column in list(zip(*rows, strict=True))[1:]]
    if len(state.objectives) > 1:
        keyed = [keys[i : i + width] for i in range(0, len(keys), width)]
        verdict = gate.judge_several(_evidence(state, keyed, challenger[:wanted], champion), rules.gate)
    else:
        verdict = gate.judge(
            [row[0] for row in rows],
            bank,
            rules.gate,
            references=[fmean(row[1:]) for row in rows],
            sign=state.sign,
            prior=gate.pooled_variance([bank, *state.noise_groups]),
        )
    equal_compute = all(o.metric != "train_seconds" for o in state.objectives)  # else the gate has judged the seconds
    if equal_compute and verdict.decision == "ACCEPT" and (excess := _compute_excess(state, champion, challenger)):
        verdict = replace(verdict, decision="REJECT", reason=excess)
    return Emit(VerdictReached(challenge.candidate_id, challenge.round, verdict))


def _evidence(
    state: State, keys: list[list[ScoreKey]], challenger: list[Trial], champion: list[Trial]
) -> list[gate.Evidence]:
    """What the gate needs of each objective. `keys`: (seed, challenger and then bank), all scored.

    What the controller measured is of the same trainings; there is one bank of it for all seeds.
    """
    evidence = []
    for index, objective in enumerate(state.objectives):
        groups = state.noise_of.get(objective.metric, []) if index else state.noise_groups
        references: list[float] | None = None
        if objective.measured:
            mine, bank = ([x for t in trials if (x := value_of(t, objective)) is not None]
                          for trials in (challenger, champion))  # fmt: skip
        else:
            rows = [[value_in(state.scores[key], objective) for key in row] for row in keys]
            mine, references = [row[0] for row in rows], [fmean(row[1:]) for row in rows]
            bank = [fmean(column) for column in list(zip(*rows, strict=True))[1:]]
        prior = gate.pooled_variance([bank, *groups])
        evidence.append(gate.Evidence(objective, mine, bank, prior, references))
    return evidence


def problems_round(challenge_round: int, seed: int) -> int:
    """Number of the problem set of one challenger seed (from 0) in one challenge; no two are the same."""
    return challenge_round * 100 + seed


def _reject(challenge: Challenge, reason: str) -> Emit:
    return Emit(VerdictReached(challenge.candidate_id, challenge.round, Verdict("REJECT", reason)))


def _score_or_collect(state: State, rules: Rules, keys: list[ScoreKey]) -> list[float] | Action | Trial | None:
    """The scores of `keys`; or the next to make; or None to wait for those under way; or the trial that has none.

    A failed score is tried again, up to `max_attempts`: it may be the machine's fault, not the weights'.
    """
    for key in keys:
        if len(state.score_errors.get(key, ())) >= rules.max_attempts:
            return state.trials[key[0]]
    for key in keys:
        if key not in state.scores and key not in state.scoring:
            return Rescore(state.trials[key[0]], key)
    if any(key in state.scoring for key in keys):
        return None
    return [state.scores[key].mean for key in keys]


def _unscored(state: State, challenge: Challenge, trial: Trial) -> Action:
    """What cannot be scored: a challenger is rejected for it, a champion is nobody else's fault."""
    error = next(e[-1] for key, e in reversed(state.score_errors.items()) if key[0] == trial.number)
    reason = f"trial {trial.number} could not be scored: {error}"
    if trial.candidate_id == challenge.champion_id:
        return Stop("failed", f"the champion's {reason}")
    if challenge.vault == "asked":
        return Emit(VaultAnswered(challenge.candidate_id, challenge.round, False, Verdict("REJECT", reason)))
    return _reject(challenge, reason)


def _compute_excess(state: State, champion: list[Trial], challenger: list[Trial]) -> str | None:
    """Equal compute, measured by the controller: mean CPU seconds over seeds against the allowance of the subject."""
    limits = state.campaign.subject.limits

    def mean_cpu(trials: list[Trial]) -> float:
        seconds = [t.usage.cpu_seconds for t in trials if t.usage]
        return sum(seconds) / len(seconds)

    used, allowed = mean_cpu(challenger), mean_cpu(champion) * limits.compute_ratio + limits.compute_slack_seconds
    if used <= allowed:
        return None
    return f"more compute: {used:.1f} CPU seconds a training, {allowed:.1f} allowed ({limits.compute_ratio:g}x the champion's)"


def _ask_vault(state: State, rules: Rules, challenge: Challenge) -> Action | None:
    if challenge.vault is None:
        return Emit(VaultAsked(challenge.candidate_id, challenge.round))
    assert challenge.verdict is not None
    if challenge.vault == "asked":
        pair = [state.bank(challenge.candidate_id)[0], state.bank(challenge.champion_id)[0]]
        keys: list[ScoreKey] = [(t.number, "vault", challenge.round) for t in pair]
        scoring = _score_or_collect(state, rules, keys)
        if not isinstance(scoring, list):
            return _unscored(state, challenge, scoring) if isinstance(scoring, Trial) else scoring
        mine, theirs = (state.scores[key] for key in keys)
        numbers = challenge.verdict.numbers
        elsewhere = any(numbers.get(f"{o.metric}.better") for o in state.objectives[1:])
        margin = state.objectives[0].margin(theirs.mean) if elsewhere else 0.0
        verdict = gate.judge_vault(mine, theirs, challenge.verdict, state.sign, margin)
        passed = verdict.decision == "ACCEPT"
        return Emit(VaultAnswered(challenge.candidate_id, challenge.round, passed, verdict))
    return Emit(ApprovalRequested(_request(state, challenge)))


def _request(state: State, challenge: Challenge) -> ApprovalRequest:
    first = state.bank(challenge.candidate_id)[0]
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
        evaluation_version=state.campaign.evaluation_version,
        sandbox=state.sandbox,
    )


def _finish(state: State, rules: Rules, spent: str | None) -> Stop:
    failures = max(state.failures_in_row, state.advice_failures if rules.advice_share >= 1 else 0)
    reason = spent or (
        f"no new candidate in {failures} turns: the proposers have run out"
        if failures >= rules.max_proposer_failures
        else _no_call(state, rules) or "nothing left to do"
    )
    if state.challenge is not None:
        reason += f"; candidate {short(state.challenge.candidate_id)} is left undecided"
    elif state.contenders and state.vault_queries >= rules.gate.vault_queries:
        reason += (
            f"; all {rules.gate.vault_queries} vault queries are used, {len(state.contenders)} candidate(s) not judged"
        )
    elif state.contenders:
        reason += f"; {len(state.contenders)} candidate(s) above the incumbent not judged"
    return Stop("finished", reason)


def expected_trials(rules: GateRules) -> str:
    """What the gate costs, for the plan that is shown before a campaign starts."""
    return f"{rules.baseline_seeds} trainings of the champion, then 2 to {rules.max_seeds} for each challenger"


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
        case "remember" | "forget":
            return _edit_memory(state, command)


def _refuse(command: Command, reason: str) -> tuple[Event, ...]:
    return (CommandRefused(command.id, reason),)


def _try(state: State, command: Command) -> tuple[Event, ...]:
    campaign = state.campaign
    base = state.entries[state.incumbent_id].proposal.candidate
    try:
        params = SearchSpace(campaign.subject.space).overlay(base.params, command.params)
        candidate = check_new(state, Candidate(params, campaign.subject_version, base.patch))
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
    name = short(command.candidate_id)
    request = state.pending.get(command.candidate_id)
    if request is None:
        entry = state.entries.get(command.candidate_id)
        now = f"it is {entry.stage}" if entry else "it is not of this campaign"
        return _refuse(command, f"Only a pending candidate can be decided on, but {name}: {now}; see `evolve review`.")
    if command.content_hash != request.content_hash:
        return _refuse(
            command, f"An approval holds only for what was shown, but {name} has changed since; review it again."
        )
    if command.kind == "approve" and request.champion_id != state.champion_id:
        return _refuse(
            command, f"The champion has changed since {name} was judged; its evidence must be renewed first."
        )
    decision: Literal["approve", "reject"] = "approve" if command.kind == "approve" else "reject"
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
            )
        ),
    )


# ---------------------------------------------------------------- what may be tried


def check_new(state: State, candidate: Candidate) -> Candidate:
    """The candidate itself where it may be tried; `InvalidCandidate` for a duplicate or a patch.

    Harness edits are refused: edited code may only run in a sandbox, and this version has none.
    """
    if candidate.patch is not None:
        raise InvalidCandidate(
            "A harness edit needs the sandbox, which this version does not have; propose parameters."
        )
    known = state.entries.get(candidate.id)
    if known is not None:
        raise InvalidCandidate(
            f"A candidate must be new, but {short(candidate.id)} was proposed before by {known.proposal.proposer}"
            f" ({known.stage}); change a parameter."
        )
    return candidate


def check_suggestion(state: State, candidate: Candidate) -> Candidate:
    """The same for a suggestion, which must not wait already either."""
    if candidate.id in state.suggestions:
        raise InvalidCandidate(
            f"A suggestion must be new, but {short(candidate.id)} is one that waits to be tried; change a parameter."
        )
    return check_new(state, candidate)


def weights_to_keep(state: State, rules: Rules) -> set[str]:
    """sha256 of the weights that may not be collected: champions, what is pending or challenging, the best few."""
    candidates = {state.champion_id, *(c for c, _ in state.previous), *state.pending}
    if state.challenge is not None:
        candidates.add(state.challenge.candidate_id)
    if state.accepted_id:
        candidates.add(state.accepted_id)
    value: Callable[[Trial], float] = lambda t: state.sign * t.score.mean if t.score else float("-inf")  # noqa: E731
    # Whoever was trained for the gate and may meet it again: its seeds are evidence that cannot be made twice.
    candidates |= {c for c, entry in state.entries.items() if entry.stage == "proposed" and len(entry.trials) > 1}
    best = sorted((t for t in state.trials.values() if t.weights), key=value, reverse=True)[: rules.keep_weights]
    kept = {t.weights for t in best}
    kept |= {state.trials[n].weights for c in candidates for n in state.entries[c].trials}
    return {w for w in kept if w is not None}
