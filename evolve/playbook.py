"""A deterministic tuner by rules: what the field usually does next, for each role, in order of expected value.

No language model is behind it, and nothing it writes says so. It knows roles (`learning_rate`, `kl`, `phases`, ...),
never parameter names of a subject, so that it works on any space; a parameter without a known role is moved by generic
steps. The rules and their sources are data, in `playbook.yaml`; which comes when is `moves`. From the history it learns
which recipes and single changes helped and which hurt: the first are taken further and combined, the second are not
repeated. The incumbent's curve, a claim of its training, brings forward what is usually done about its shape.

    word    what it means here
    ref     a candidate that others are compared with: incumbent, default, champion, the best, the accepted ones
    effect  a finished candidate that differs from a ref in one parameter (and what depends on it), with its gain
    gain    score minus the ref's, positive is better whatever the direction; None where the candidate failed
    unit    a number's place in its range on its own scale (linear or log), 0 to 1
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from evolve.curves import GRAVE, diagnose
from evolve.edits import Harness
from evolve.errors import InvalidCandidate, ProposerFailed
from evolve.memory import Observation, View
from evolve.playbook_rules import PHASES, WORDS, Recipe, Rule, book, kind_in, words
from evolve.scales import at_unit, fit, numeric, stepped, unit
from evolve.space import SearchSpace, extended, value_text
from evolve.types import Candidate, Params, Proposal, Value

NAME = "playbook"  # in which its proposals are recorded, and by which it knows its own
_HALVINGS = 6  # 1/4, 1/8, ... 1/128 of the range: below that, one campaign's noise is larger than any difference
_COMBINED = 6  # helpful moves that are combined in pairs
_REFERENCES = 8  # accepted candidates, the latest, that others are compared with
_NEAR = 8  # parameters in which a failed candidate may differ and still be mended: a recipe's
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
    """`ports.Proposer` by rules: the first of `moves` that the space admits and nobody has tried.

    Where the subject has ready edits and edited code may run, every other turn is an edit's, and the first one is.

    Args:
        harness: what may be edited; None where edits are refused.
    """

    name = NAME
    instant = True

    def __init__(self, harness: Harness | None = None) -> None:
        self._harness = harness

    def propose(self, view: View) -> Proposal:
        edits = self._new_edits(view)
        mine = [c.patch == view.patch for c in self._own(view)]
        turn = view.retry  # after a duplicate that the view could not show, the loop asks again: the next one
        if edits and sum(mine) >= len(mine) - sum(mine):
            if turn < len(edits):
                return edits[turn]
            turn -= len(edits)
        try:
            return self._move(view.same_harness, turn)
        except ProposerFailed:
            if turn < len(edits):
                return edits[turn]
            raise

    def _own(self, view: View) -> list[Observation | Candidate]:
        """What it has proposed so far, tried or waiting."""
        tried = [o for o in view.history if o.proposer == self.name]
        return [*tried, *(s.candidate for s in view.suggestions if s.proposer == self.name)]

    def _new_edits(self, view: View) -> list[Proposal]:
        """The ready edits that fit the incumbent's harness and that nobody has tried on it, in order."""
        known = {o.patch for o in view.history} | {s.candidate.patch for s in view.suggestions}
        found: list[Proposal] = []
        if self._harness is None:
            return []
        for edit in self._harness.ready:
            try:
                patch = self._harness.take(edit, view.patch)
                space = extended(view.space.parameters, edit.parameters)
                params = space.overlay(view.incumbent, {})
            except InvalidCandidate:
                continue  # of other code, or in it already
            if patch not in known:
                candidate = Candidate(params, view.subject_version, patch, {**view.declared, **edit.parameters})
                text = f"Harness edit: {edit.name} ({edit.source})."
                found.append(Proposal(candidate, self.name, text, (view.incumbent_id,)))
        return found

    def _move(self, view: View, skip: int) -> Proposal:
        tried = {frozenset(o.params.items()) for o in view.history}
        tried |= {frozenset(s.candidate.params.items()) for s in view.suggestions}
        new = ((move, params) for move, params in _admitted(view) if frozenset(params.items()) not in tried)
        for move, params in itertools.islice(new, skip, None):
            return Proposal(view.candidate(params), self.name, move.rationale, (view.incumbent_id,))
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

    yield from _remedies(view)
    yield from _without(useless, _reactions(view, grave=True), view)
    yield from _without(useless, _recipes(view), view)
    yield from _without(useless, _reactions(view, grave=False), view)
    yield from _without(useless, _further(clear, view), view)
    yield from _without(useless, _combinations(clear, view), view)
    yield from _without(useless, _menu(view), view)
    yield from _without(useless, _phases(view), view)
    yield from _without(useless, _further(helped, view), view)
    yield from _without(useless, _combinations(helped, view), view)
    yield from _without(useless, _steps(view), view)
    # What was no better beside another incumbent may be better beside this one.
    yield from _without(hurt_here, _recipes(view, again=True), view)
    for once_more in (_menu, _phases, _steps):
        yield from _without(hurt_here, once_more(view), view)


# ---------------------------------------------------------------- what the history says


def effects(view: View) -> list[Effect]:
    """Every single change that the history has measured against a reference, the oldest first."""
    finished, sign = view.finished[-_REMEMBERED:], view.objective.sign
    scores = _scores(view)
    found = []
    for reference in _references(view):
        key = frozenset(reference.items())
        for o in finished if key in scores else ():
            gain = None if o.score is None else sign * (o.score - scores[key])
            if (effect := _effect(o, reference, gain, reference == view.incumbent)) is not None:
                found.append(effect)
    return found


def _scores(view: View) -> dict[frozenset[tuple[str, Value]], float]:
    return {frozenset(o.params.items()): o.score for o in view.history if o.score is not None}


def _references(view: View) -> list[Params]:
    finished, sign = view.finished[-_REMEMBERED:], view.objective.sign
    scored = [o for o in finished if o.score is not None]
    best = max(scored, key=lambda o: sign * (o.score or 0.0)).params if scored else view.incumbent
    accepted = [o.params for o in finished if o.outcome in ("accepted", "champion", "declined")][-_REFERENCES:]
    known = (view.incumbent, view.default, view.champion, best, *accepted)
    return list({frozenset(p.items()): p for p in known}.values())


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
    if sum(n in view.incumbent for n in base) > _NEAR:  # too far away to be this incumbent's neighbour
        base = {}
    params = view.space.overlay(view.incumbent, base)
    for remedy in book().remedies:
        for rule in remedy.moves if remedy.fits(failed.error or "") else ():
            with_role = [n for n in _active(view.space, params, rule.role) if numeric(view.space.parameters[n])]
            names = [n for n in with_role if n in base] or with_role
            smaller = {n: v for n in names if (v := rule.of(view.space.parameters[n], params[n])) != params[n]}
            if smaller:
                text = ", ".join(f"{n} {value_text(params[n])} -> {value_text(v)}" for n, v in smaller.items())
                yield Move("", {**base, **smaller}, f"{text}: {remedy.why}.")


def _reactions(view: View, grave: bool) -> Iterator[Move]:
    """What is usually done about the shape of the incumbent's curve, where it has one: a fault, or room for more."""
    curve = next((o.curve for o in view.history if o.curve and o.params == view.incumbent), ())
    divisions = [view.incumbent[n] for n in _active(view.space, view.incumbent, PHASES)]
    for shape in diagnose(curve, one_phase=all(len(words(d)) == 1 for d in divisions)):
        if (shape in GRAVE) == grave:
            yield from _by_rules(book().reactions[shape], view)


def _recipes(view: View, again: bool = False) -> Iterator[Move]:
    """Changes that belong together, laid over the incumbent; each once, whatever came of it.

    What helped is in the incumbent, or the sampler has moved away from it for a reason. `again`: the others, too.
    """
    finished = {frozenset(o.params.items()) for o in view.history}
    references = _references(view)
    for recipe in book().recipes:
        params = _cooked(recipe, view.space, view.incumbent)
        if params is None:
            continue
        tried = (frozenset((_cooked(recipe, view.space, r) or {}).items()) for r in references)
        before = (frozenset(r.items()) for r in references)
        if not again and any(made in finished and made != ref for made, ref in zip(tried, before, strict=True)):
            continue
        changed = {n: v for n, v in params.items() if view.incumbent.get(n) != v}
        if changed:
            text = ", ".join(f"{n} {value_text(view.incumbent.get(n))} -> {value_text(v)}" for n, v in changed.items())
            name = next(iter(changed)) if len(changed) == 1 else ""
            yield Move(name, changed, f"{recipe.name}: {recipe.source}; {text}.")


def _cooked(recipe: Recipe, space: SearchSpace, base: Params) -> Params | None:
    """`base` with the recipe laid over it; None where the space has no such phases, or nothing of what the recipe sets."""
    changed: dict[str, Value] = {}
    params = dict(base)
    for name in _active(space, base, PHASES) if recipe.phases else ():
        if name not in params:
            continue  # what was changed before it has taken it away
        fitting = [c for c in space.parameters[name].choices if recipe.phases and recipe.phases.admits(c)]
        if fitting:
            changed[name] = min(fitting, key=lambda c: (c != base[name], len(words(c) ^ words(base[name]))))
            params = space.overlay(base, changed)
    if recipe.phases and not changed:
        return None
    params = space.overlay(base, {**changed, **_born(space, base, changed)})
    for role, amount in recipe.set.items():
        for name in _active(space, params, role):
            params[name] = amount.of(space.parameters[name], params[name])
    return params


def _phases(view: View) -> Iterator[Move]:
    """Other divisions of the training: first those that add reinforcement, then preferences; few changes at once."""
    for name in _active(view.space, view.incumbent, PHASES):
        now, ranked = view.incumbent[name], []
        for choice in view.space.parameters[name].choices:
            added, lost = words(choice) - words(now), words(now) - words(choice)
            kind = 0 if added & WORDS["reinforcement"] else 1 if added & WORDS["preference"] else 2
            ranked.append(((bool(lost & WORDS["reinforcement"]), kind, len(added) + len(lost)), choice))
        for (_, kind, _), choice in sorted(ranked, key=lambda item: item[0]):
            why = (
                "reinforcement on a reward that can be checked (GRPO, DeepSeekMath 2402.03300), at its usual values",
                "learning from preferences (DPO 2305.18290), at its usual values",
                "another recipe",
            )[kind]
            if choice != now:
                yield _to(view, name, choice, why)


def _menu(view: View) -> Iterator[Move]:
    yield from _by_rules(book().menu, view)


def _by_rules(rules: Iterable[Rule], view: View) -> Iterator[Move]:
    """One parameter at a time. Of several with one role, the most conditional comes first."""
    for rule in rules:
        for name in sorted(
            _active(view.space, view.incumbent, rule.role), key=lambda n: -len(view.space.parameters[n].when)
        ):
            goal = rule.of(view.space.parameters[name], view.incumbent[name])
            if goal != view.incumbent[name]:
                yield _to(view, name, goal, rule.source)


def _further(helped: list[Effect], view: View) -> Iterator[Move]:
    """Once more in a direction that helped, by the same step on the parameter's own scale."""
    for e in sorted(helped, key=lambda e: -(e.gain or 0.0)):
        p = view.space.parameters[e.name]
        if not numeric(p) or e.name not in view.incumbent:
            continue
        step = unit(p, e.after) - unit(p, e.before)
        goal = at_unit(p, unit(p, e.after) + step)
        if (unit(p, goal) - unit(p, view.incumbent[e.name])) * step > 0:
            yield _to(view, e.name, goal, f"the step to {value_text(e.after)} helped by {e.gain:.3g}, so further")


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
        text = " and ".join(f"{e.name} = {value_text(e.after)} (+{e.gain:.3g})" for e in group)
        why = "each helped on its own; together" if len(group) > 1 else "helped before, so beside this incumbent too"
        yield Move(group[0].name if len(group) == 1 else "", merged, f"{text}: {why}.")


def _steps(view: View) -> Iterator[Move]:
    """Coordinate search: other choices, and steps up and down on each parameter's own scale, halved each round."""
    roles = {rule.role for rule in book().menu}
    for halving in range(_HALVINGS):
        size = 0.25 / 2**halving
        for name, now in view.incumbent.items():
            p = view.space.parameters[name]
            if not numeric(p):
                for choice in p.choices if halving == 0 else ():
                    if choice != now:
                        yield _to(view, name, choice, "another choice, untried beside this incumbent")
            elif halving > 0 or p.role not in roles:
                for step in (size, -size):
                    if (goal := stepped(p, now, step)) != now:
                        yield _to(view, name, goal, f"a step of {size:.3g} of its range around the incumbent")


def _to(view: View, name: str, goal: Value, why: str) -> Move:
    """One parameter to one value; what this brings into being gets its role's usual value."""
    changed = {name: goal, **_born(view.space, view.incumbent, {name: goal})}
    return Move(name, changed, f"{name} {value_text(view.incumbent[name])} -> {value_text(goal)}: {why}.")


def _born(space: SearchSpace, base: Params, changed: Mapping[str, Value]) -> dict[str, Value]:
    """The usual values of what `changed` brings into being beside `base`."""
    parents = {parent for p in space.parameters.values() for parent in p.when}
    born = (n for n in space.overlay(base, changed) if n not in base and n not in parents)
    usual = book().usual
    return {n: fit(p, usual[p.role].value) for n in born if (p := space.parameters[n]).role in usual}


def _active(space: SearchSpace, params: Params, role: str) -> list[str]:
    """Names in `params` with a role; with `KIND/role`, those that exist only beside a phase of that kind."""
    kind, _, bare = role.rpartition("/")
    return [
        n
        for n in params
        if (p := space.parameters[n]).role == bare
        and (
            not kind
            or any(
                space.parameters[parent].role == PHASES and all(kind_in(v, kind) for v in values)
                for parent, values in p.when.items()
            )
        )
    ]
