"""A deterministic tuner by rules: what the field usually does next, for each role, in order of expected value.

No language model is behind it, and nothing it writes says so. It knows roles (`learning_rate`, `kl`, `phases`, ...),
never parameter names of a subject, so that it works on any space; a parameter without a known role is moved by generic
steps. From the history it learns which single changes helped and which hurt: the first are taken further and combined,
the second are not repeated. The order is `moves`; usual values and their sources are the tables at the top.

    word    what it means here
    ref     a candidate that others are compared with: incumbent, default, champion, the best, the accepted ones
    effect  a finished candidate that differs from a ref in one parameter (and what depends on it), with its gain
    gain    score minus the ref's, positive is better whatever the direction; None where the candidate failed
    unit    a number's place in its range on its own scale (linear or log), 0 to 1
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from evolve.errors import InvalidCandidate, ProposerFailed
from evolve.memory import Observation, View
from evolve.types import Candidate, Parameter, Params, Proposal, Value

# Values for parameters that a recipe brings into being. A learning rate depends on the model: the subject's default stays.
_USUAL: dict[str, Value] = {
    "kl": 0.0,  # TRL GRPOConfig.beta 0.0; DAPO (arXiv 2503.14476) has no KL term
    "clip": 0.2,  # TRL epsilon 0.2
    "temperature": 1.0,  # TRL GRPOConfig 1.0: the policy that is sampled is the one that is trained
    "group_size": 8,  # TRL num_generations 8
    "advantage_normalization": "group",  # TRL scale_rewards "group"
    "beta": 0.1,  # TRL DPOConfig 0.1; DPO (arXiv 2305.18290)
    "phase_share": 0.5,
}

# (role, how, amount, why), in order of expected value. times: of the incumbent's value; to: a value or choice.
_MENU: tuple[tuple[str, str, Value, str], ...] = (
    (
        "learning_rate",
        "times",
        3.0,
        "the learning rate matters most; half a decade up (steps of three: Bengio 1206.5533)",
    ),
    ("learning_rate", "times", 1 / 3, "half a decade down (steps of three: Bengio 1206.5533)"),
    ("prompt_masking", "to", True, "loss on the answer only (TRL SFTConfig: completion-only loss)"),
    ("kl", "to", 0.0, "no KL term where the reward is verifiable (DAPO 2503.14476; TRL beta 0.0)"),
    ("group_size", "times", 2.0, "larger groups give a better baseline (DeepSeekMath 2402.03300 samples 64)"),
    ("temperature", "to", 1.0, "sample from the policy that is trained (TRL default 1.0)"),
    ("advantage_normalization", "to", "none", "no division by the standard deviation (Dr. GRPO 2503.20783)"),
    ("clip", "to", 0.28, "a higher clip keeps exploration alive (DAPO 2503.14476: 0.28)"),
    ("warmup", "to", 0.1, "a tenth of the steps as warm-up (Zephyr 2310.16944)"),
    ("schedule", "to", "cosine", "decay by cosine (SGDR 1608.03983), as Zephyr's SFT (2310.16944)"),
    ("schedule", "to", "linear", "linear decay, the default of transformers' Trainer"),
    ("weight_decay", "to", 0.1, "decoupled decay of 0.1 (AdamW 1711.05101; DeepSeekMath 2402.03300)"),
    ("weight_decay", "to", 0.0, "no weight decay, the default of transformers' Trainer"),
    ("phase_share", "plus", 0.2, "more of the compute for the later phase"),
    ("phase_share", "plus", -0.2, "less of the compute for the later phase"),
    ("batch_size", "times", 0.5, "smaller batches make more steps of the same data (Masters & Luschi 1804.07612)"),
    ("batch_size", "times", 2.0, "larger batches have less gradient noise (McCandlish 1812.06162)"),
    ("prompts_per_step", "times", 2.0, "more prompts a step have less gradient noise (McCandlish 1812.06162)"),
    ("prompts_per_step", "times", 0.5, "fewer prompts a step make more steps of the same samples"),
    ("beta", "times", 1 / 3, "a weaker tie to the reference (DPO 2305.18290 tries 0.05 to 5)"),
    ("beta", "times", 3.0, "a stronger tie to the reference (DPO 2305.18290 tries 0.05 to 5)"),
    ("dropout", "to", 0.0, "no dropout (TRL DPOConfig.disable_dropout)"),
    ("dropout", "to", 0.1, "dropout of 0.1 (Transformer 1706.03762)"),
    ("label_smoothing", "to", 0.0, "no label smoothing (TRL default 0.0)"),
    ("label_smoothing", "to", 0.1, "label smoothing of 0.1 (Transformer 1706.03762)"),
    ("grad_clip", "to", 1.0, "clip the gradient's norm at 1.0 (TRL default max_grad_norm)"),
    ("grad_clip", "to", 0.3, "clip harder (QLoRA 2305.14314: 0.3)"),
    ("group_size", "times", 0.5, "smaller groups make more steps of the same samples"),
)

# (what the error says, [(roles to make smaller, by)], why)
_REMEDIES: tuple[tuple[re.Pattern[str], tuple[tuple[str, float], ...], str], ...] = (
    (
        re.compile(r"diverg|\bnan\b|\binf\b|infinit|non-?finite|not finite|overflow", re.IGNORECASE),
        (("learning_rate", 1 / 3), ("learning_rate", 1 / 10)),
        "the last one diverged: the same with a smaller learning rate",
    ),
    (
        re.compile(r"out of memory|\boom\b|memoryerror|bad_alloc|cannot allocate", re.IGNORECASE),
        (("batch_size", 0.5), ("group_size", 0.5), ("prompts_per_step", 0.5)),
        "the last one ran out of memory: the same in smaller batches",
    ),
    (
        re.compile(r"timed? ?out|at its limit|time limit", re.IGNORECASE),
        (("group_size", 0.5), ("prompts_per_step", 0.5), ("batch_size", 0.5)),
        "the last one ran into its time limit: the same in smaller batches",
    ),
)

NAME = "playbook"  # in which its proposals are recorded, and by which it knows its own
_REINFORCEMENT = {"grpo", "rl", "ppo", "rloo", "reinforce", "dapo", "gspo", "rlvr"}
_PREFERENCE = {"dpo", "ipo", "kto", "orpo", "simpo"}
_HALVINGS = 6  # 1/4, 1/8, ... 1/128 of the range: below that, one campaign's noise is larger than any difference
_COMBINED = 6  # helpful moves that are combined in pairs
_REFERENCES = 8  # accepted candidates, the latest, that others are compared with
_REMEMBERED = 1000  # finished candidates that effects are read from


@dataclass(frozen=True)
class Move:
    """Changes of the incumbent with a reason. `name` is the one parameter that is moved, "" for several."""

    name: str
    changes: Mapping[str, Value]
    rationale: str


@dataclass(frozen=True)
class Effect:
    name: str
    before: Value
    after: Value
    gain: float | None
    changes: Mapping[str, Value]
    here: bool  # measured against the present incumbent


class PlaybookProposer:
    """`ports.Proposer` by rules: the first of `moves` that the space admits and nobody has tried."""

    name = NAME
    instant = True

    def propose(self, view: View) -> Proposal:
        tried = {frozenset(o.params.items()) for o in view.history}
        tried |= {frozenset(s.candidate.params.items()) for s in view.suggestions}
        new = ((move, params) for move, params in _admitted(view) if frozenset(params.items()) not in tried)
        # After a duplicate that the view could not show, the loop asks again: the next one.
        for move, params in itertools.islice(new, view.retry, None):
            return Proposal(Candidate(params, view.subject_version), self.name, move.rationale, (view.incumbent_id,))
        raise ProposerFailed(
            f"A rule must have a new move left, but all were tried in {len(view.history)} candidates; use a sampler.",
            self.name,
        )


def _admitted(view: View) -> Iterator[tuple[Move, dict[str, Value]]]:
    for move in moves(view):
        try:
            params = view.space.overlay(view.incumbent, move.changes)
        except InvalidCandidate:
            continue  # an effect of another recipe, whose parameters do not exist in this one
        yield move, params


def moves(view: View) -> Iterator[Move]:
    """All moves in order of expected value; some may be tried already, or not fit the incumbent."""
    seen = effects(view)
    noise = view.noise_floor or 0.0
    helped = [e for e in seen if e.gain is not None and e.gain > noise]
    clear = [e for e in helped if e.gain is not None and e.gain > 2 * noise]
    hurt = [e for e in seen if e.gain is None or e.gain < -noise]
    hurt_here = [e for e in hurt if e.here]
    useless = [*hurt, *(replace(e, gain=0.0) for e in seen if e.gain is not None and abs(e.gain) <= noise)]
    has_reinforcement = any(_words(view.incumbent[n]) & _REINFORCEMENT for n in _active(view, "phases"))

    yield from _remedies(view)
    if not has_reinforcement:
        yield from _without(useless, _recipes(view), view)
    yield from _without(useless, _further(clear, view), view)
    yield from _without(useless, _combinations(clear, view), view)
    yield from _without(useless, _menu(view), view)
    yield from _without(useless, _recipes(view), view)
    yield from _without(useless, _further(helped, view), view)
    yield from _without(useless, _combinations(helped, view), view)
    yield from _without(useless, _steps(view), view)
    # What was no better beside another incumbent may be better beside this one.
    for again in (_menu, _recipes, _steps):
        yield from _without(hurt_here, again(view), view)


# ---------------------------------------------------------------- what the history says


def effects(view: View) -> list[Effect]:
    """Every single change that the history has measured against a reference, the oldest first."""
    finished = view.finished[-_REMEMBERED:]
    sign = view.objective.sign
    scores = {frozenset(o.params.items()): o.score for o in view.history if o.score is not None}
    scored = [o for o in finished if o.score is not None]
    best = max(scored, key=lambda o: sign * (o.score or 0.0)).params if scored else view.incumbent
    accepted = [o.params for o in finished if o.outcome in ("accepted", "champion", "declined")][-_REFERENCES:]
    known = (view.incumbent, view.default, view.champion, best, *accepted)
    references = {frozenset(p.items()): p for p in known}
    found = []
    for key, reference in references.items():
        for o in finished if key in scores else ():
            gain = None if o.score is None else sign * (o.score - scores[key])
            if (effect := _effect(o, reference, gain, reference == view.incumbent)) is not None:
                found.append(effect)
    return found


def _effect(o: Observation, reference: Params, gain: float | None, here: bool) -> Effect | None:
    moved = [n for n, v in o.params.items() if n in reference and reference[n] != v]
    if len(moved) != 1 or o.state == "PRUNED":
        return None
    name = moved[0]
    changed = {n: v for n, v in o.params.items() if reference.get(n) != v}
    return Effect(name, reference[name], o.params[name], gain, changed, here)


def _without(useless: list[Effect], candidates: Iterator[Move], view: View) -> Iterator[Move]:
    """Without the moves that repeat an effect: to the same value or, where it hurt, further in its direction."""
    for move in candidates:
        mine = [e for e in useless if e.name == move.name and e.name in view.incumbent]
        if not any(_repeats(e, view.incumbent[e.name], move.changes[e.name]) for e in mine):
            yield move


def _repeats(effect: Effect, now: Value, target: Value) -> bool:
    values = (effect.before, effect.after, now, target)
    neutral = effect.gain == 0
    if target == effect.after or neutral or any(isinstance(v, (bool, str)) for v in values):
        return target == effect.after
    before, after, current, goal = (float(v) for v in values)
    return (current < after <= goal) if after > before else (goal <= after < current)


# ---------------------------------------------------------------- the moves


def _remedies(view: View) -> Iterator[Move]:
    """Our own last candidate again, milder, where its failure has a known cure; at most after two failures in a row.

    A sampler's failures are the sampler's to learn from: they can be far from anything that is worth mending.
    """
    mine = [o for o in view.finished if o.proposer == NAME]
    states = [o.state for o in mine[-3:]]
    if states[-1:] != ["FAIL"] or states == ["FAIL"] * 3:
        return
    failed = mine[-1]
    base = {n: v for n, v in failed.params.items() if view.incumbent.get(n) != v}
    if sum(n in view.incumbent for n in base) > 3:  # too far away to be this incumbent's neighbour
        base = {}
    params = view.space.overlay(view.incumbent, base)
    for pattern, cures, why in _REMEDIES:
        if not pattern.search(failed.error or ""):
            continue
        for role, factor in cures:
            with_role = [n for n, p in view.space.parameters.items() if n in params and _numeric(p) and p.role == role]
            names = [n for n in with_role if n in base] or with_role
            smaller = {n: v for n in names if (v := _scaled(view.space.parameters[n], params[n], factor)) != params[n]}
            if smaller:
                text = ", ".join(f"{n} {_text(params[n])} -> {_text(v)}" for n, v in smaller.items())
                yield Move("", {**base, **smaller}, f"{text}: {why}.")


def _recipes(view: View) -> Iterator[Move]:
    """Other divisions of the training into phases: first those that add reinforcement, then preferences; few at once."""
    for name in _active(view, "phases"):
        now = _words(view.incumbent[name])
        ranked = []
        for choice in view.space.parameters[name].choices:
            added, lost = _words(choice) - now, now - _words(choice)
            kind = 0 if added & _REINFORCEMENT else 1 if added & _PREFERENCE else 2
            ranked.append(((bool(lost & _REINFORCEMENT), kind, len(added) + len(lost)), choice))
        for (_, kind, _), choice in sorted(ranked, key=lambda item: item[0]):
            why = (
                "reinforcement on a reward that can be checked (GRPO, DeepSeekMath 2402.03300), at its usual values",
                "learning from preferences (DPO 2305.18290), at its usual values",
                "another recipe",
            )[kind]
            if choice != view.incumbent[name]:
                yield _to(view, name, choice, why)


def _menu(view: View) -> Iterator[Move]:
    """The usual values of each role. Of several parameters with one role, the most conditional comes first."""
    for role, how, amount, why in _MENU:
        for name in sorted(_active(view, role), key=lambda n: -len(view.space.parameters[n].when)):
            p, now = view.space.parameters[name], view.incumbent[name]
            if not _numeric(p) or isinstance(amount, (bool, str)) or isinstance(now, (bool, str)):
                if _is_choice(p, amount) and amount != now:  # else a role in another type than usual: see `_steps`
                    yield _to(view, name, amount, why)
                continue
            if role == "warmup" and (p.high or 0) > 1:  # counted in steps: a tenth of the most that is allowed
                amount = 0.1 * (p.high or 0)
            goal = _scaled(p, now, amount) if how == "times" else fit(p, now + amount if how == "plus" else amount)
            if goal != now:
                yield _to(view, name, goal, why)


def _further(helped: list[Effect], view: View) -> Iterator[Move]:
    """Once more in a direction that helped, by the same step on the parameter's own scale."""
    for e in sorted(helped, key=lambda e: -(e.gain or 0.0)):
        p = view.space.parameters[e.name]
        if not _numeric(p) or e.name not in view.incumbent:
            continue
        step = unit(p, e.after) - unit(p, e.before)
        goal = at_unit(p, unit(p, e.after) + step)
        if (unit(p, goal) - unit(p, view.incumbent[e.name])) * step > 0:
            yield _to(view, e.name, goal, f"the step to {_text(e.after)} helped by {e.gain:.3g}, so further")


def _combinations(helped: list[Effect], view: View) -> Iterator[Move]:
    """Moves that helped on their own and that the incumbent lacks: each, then pairs, then all together."""
    best: dict[str, Effect] = {}
    for e in sorted(helped, key=lambda e: e.gain or 0.0):
        if view.incumbent.get(e.name) != e.after:
            best[e.name] = e
    chosen = sorted(best.values(), key=lambda e: -(e.gain or 0.0))[:_COMBINED]
    groups = [g for size in (1, 2) for g in itertools.combinations(chosen, size)]
    groups.sort(key=lambda g: (len(g), -sum(e.gain or 0.0 for e in g)))
    for group in [*groups, tuple(chosen)] if len(chosen) > 2 else groups:
        merged = {n: v for e in reversed(group) for n, v in e.changes.items()}
        text = " and ".join(f"{e.name} = {_text(e.after)} (+{e.gain:.3g})" for e in group)
        why = "each helped on its own; together" if len(group) > 1 else "helped before, so beside this incumbent too"
        yield Move(group[0].name if len(group) == 1 else "", merged, f"{text}: {why}.")


def _steps(view: View) -> Iterator[Move]:
    """Coordinate search: other choices, and steps up and down on each parameter's own scale, halved each round."""
    roles = {role for role, *_ in _MENU}
    for halving in range(_HALVINGS):
        size = 0.25 / 2**halving
        for name, now in view.incumbent.items():
            p = view.space.parameters[name]
            if not _numeric(p):
                for choice in p.choices if halving == 0 else ():
                    if choice != now:
                        yield _to(view, name, choice, "another choice, untried beside this incumbent")
            elif halving > 0 or p.role not in roles:
                for step in (size, -size):
                    if (goal := _stepped(p, now, step)) != now:
                        yield _to(view, name, goal, f"a step of {size:.3g} of its range around the incumbent")


def _to(view: View, name: str, goal: Value, why: str) -> Move:
    """One parameter to one value; what this brings into being gets its role's usual value."""
    space, changed = view.space, {name: goal}
    if not _numeric(space.parameters[name]):
        after = space.overlay(view.incumbent, changed)
        parents = {parent for p in space.parameters.values() for parent in p.when}
        for born in after:
            p = space.parameters[born]
            if born not in view.incumbent and born not in parents and p.role in _USUAL:
                changed[born] = fit(p, _USUAL[p.role])
    return Move(name, changed, f"{name} {_text(view.incumbent[name])} -> {_text(goal)}: {why}.")


# ---------------------------------------------------------------- values


def fit(p: Parameter, value: Value) -> Value:
    """The nearest value that `p` admits, rounded for people; the default where the types do not meet.

    >>> fit(Parameter("float", 0.1, low=0.0, high=0.2, step=0.05), 0.13)
    0.15
    """
    if not _numeric(p) or isinstance(value, (bool, str)):
        return value if _is_choice(p, value) else p.default
    low, high = _range(p)
    number = min(max(float(value), low), high)
    if p.type == "int":
        return int(min(max(_on_step(p, round(number)), math.ceil(low)), math.floor(high)))
    digits = 4 - math.floor(math.log10(number if p.log else high - low))
    return float(min(max(_on_step(p, round(number, digits)), low), high))


def _on_step(p: Parameter, number: float) -> float:
    if not p.step:
        return number
    low, high = _range(p)
    steps = min(round((number - low) / p.step), math.floor((high - low) / p.step + 1e-9))
    return float(f"{low + steps * p.step:.12g}")


def unit(p: Parameter, value: Value) -> float:
    """Place of `value` in the range, 0 to 1, on the parameter's own scale."""
    low, high = _range(p)
    return math.log(float(value) / low) / math.log(high / low) if p.log else (float(value) - low) / (high - low)


def at_unit(p: Parameter, place: float) -> Value:
    """The admitted number nearest to a place in the range; `place` may lie outside, the result does not."""
    low, high = _range(p)
    place = min(max(place, 0.0), 1.0)
    return fit(p, low * (high / low) ** place if p.log else low + place * (high - low))


def _stepped(p: Parameter, now: Value, step: float) -> Value:
    """A step of a part of the range, at least to the next whole number or grid point where there are such."""
    goal = at_unit(p, unit(p, now) + step)
    grid = p.step or (1.0 if p.type == "int" else 0.0)
    return goal if goal != now else fit(p, float(now) + math.copysign(grid, step))


def _range(p: Parameter) -> tuple[float, float]:
    assert p.low is not None and p.high is not None, "a numeric parameter has a range (space.py)"
    return p.low, p.high


def _scaled(p: Parameter, now: Value, factor: float) -> Value:
    return fit(p, float(now) * factor)


def _numeric(p: Parameter) -> bool:
    return p.type != "categorical"


def _is_choice(p: Parameter, value: Value) -> bool:
    return any(c == value and isinstance(c, bool) == isinstance(value, bool) for c in p.choices)


def _active(view: View, role: str) -> list[str]:
    return [n for n in view.incumbent if view.space.parameters[n].role == role]


def _words(choice: Value) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", str(choice).lower())) - {""}


def _text(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
