"""What a proposed evaluation must be, and how good it is: the contract of its code, the quality report in numbers and words. Pure.

An evaluation is one Python function, on the standard library alone, in one of three forms:

| form | function | its value |
|---|---|---|
| `slice` | `select(prompt: str) -> bool` | the share of the selected problems that the model solves |
| `metric` | `measure(prompt: str, answer: str, expected: str) -> float` in [0, 1] | the mean over the problems |
| `generator` | `generate(seed: int, n: int) -> list[tuple[str, str]]`: prompts with their right answers | the share that the model answers so |

`suite_runs.py` runs it, `suite_file.py` keeps what was adopted. Nothing here executes it.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, stdev
from typing import Any, get_args

from evolve.errors import InvalidCandidate
from evolve.types import EvalForm, EvalProposal, EvalReport, digest

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
FORMS: tuple[EvalForm, ...] = get_args(EvalForm)
FUNCTIONS: Mapping[EvalForm, tuple[str, int]] = {
    "slice": ("select", 1),
    "metric": ("measure", 3),
    "generator": ("generate", 2),
}
MOST_CHARS = 6000  # of the code: a person reads it whole
MOST_PROPOSALS = 10  # a campaign, refused ones too
LEAST_ITEMS = 20  # fewer say nothing
LEAST_RANKED = 4  # sets of weights, for a rank correlation
CLEAR = 2.0  # standard errors: what is less apart is not told apart
_WHY_CHARS = 1000

# ---------------------------------------------------------------- a proposal


def read(raw: object, proposer: str, model: str | None = None) -> tuple[EvalProposal, str]:
    """What a model sent as a proposal, whatever it is, and what is wrong with it as it stands ("" for nothing)."""
    given = raw if isinstance(raw, Mapping) else {}
    texts = {key: given.get(key) for key in ("name", "form", "code", "rationale")}
    form = texts["form"] if texts["form"] in FORMS else "slice"
    name, code, why = (value if isinstance(value := texts[key], str) else "" for key in ("name", "code", "rationale"))
    proposal = EvalProposal(_line(name, 40), form, code[:MOST_CHARS], _line(why, _WHY_CHARS), proposer, model)  # type: ignore[arg-type]
    if not isinstance(raw, Mapping):
        return (
            proposal,
            f"An evaluation must be an object with name, form, code and rationale, but is {type(raw).__name__}.",
        )
    if unknown := [key for key in given if key not in texts]:
        return (
            proposal,
            f"An evaluation has name, form, code and rationale, but got {_line(str(unknown[0]), 40)!r}; leave it out.",
        )
    if wrong := [key for key, value in texts.items() if not isinstance(value, str)]:
        return proposal, f"{wrong[0]} of an evaluation must be text, but is {type(texts[wrong[0]]).__name__}; write it."
    if texts["form"] not in FORMS:
        return (
            proposal,
            f"form must be one of {', '.join(FORMS)}, but got {_line(str(texts['form']), 40)!r}; choose one.",
        )
    if len(code) > MOST_CHARS:
        return proposal, f"code must have at most {MOST_CHARS} characters, but has {len(code)}; write less."
    return proposal, ""


def check(proposal: EvalProposal, taken: Collection[str], known: Collection[str]) -> None:
    """Raises `InvalidCandidate` with a reason that its author can act on.

    Args:
        taken: names of metrics that there are, and of proposals that wait or were adopted.
        known: ids of the proposals so far.
    """
    if not NAME.fullmatch(proposal.name):
        raise InvalidCandidate(
            f"An evaluation's name must be 1 to 40 of a-z, 0-9 and _, a letter first, but got {proposal.name!r}; rename it."
        )
    if proposal.id in known:
        raise InvalidCandidate(f"An evaluation must be new, but {proposal.name!r} was proposed before; change it.")
    if proposal.name in taken:
        raise InvalidCandidate(
            f"An evaluation adds a metric, but there is {proposal.name!r}; existing ones stay as they are."
        )
    if len(proposal.code) > MOST_CHARS:
        raise InvalidCandidate(
            f"code must have at most {MOST_CHARS} characters, but has {len(proposal.code)}; write less."
        )
    name, count = FUNCTIONS[proposal.form]
    try:
        tree = ast.parse(proposal.code)
    except SyntaxError as error:
        raise InvalidCandidate(
            f"code must be Python, but line {error.lineno} is not: {error.msg}; correct it."
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise InvalidCandidate("code must be Python that can be read, but is not; nest less.") from error
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    arguments = found[0].args if found else None
    if arguments is None or len(found) > 1 or len(arguments.posonlyargs) + len(arguments.args) != count:
        raise InvalidCandidate(
            f"A {proposal.form} must define one function `{name}` of {count} argument(s), but this code does not; write it so."
        )


def _line(text: str, limit: int) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * limit]).split())[:limit]


# ---------------------------------------------------------------- the report


@dataclass(frozen=True)
class Measured:
    """One set of weights: `values` of the proposed evaluation item by item, `primary` the existing results problem by problem.

    `rank`: the primary metric, larger is better, by which good and bad were known before (the search score; of the untrained
    checkpoint its mean on these problems).
    """

    rank: float
    values: tuple[float, ...]
    primary: tuple[float, ...]
    champion: bool = False


def report(pool: Sequence[Measured]) -> EvalReport:
    """The quality report over sets of weights that all have the same items, at least `LEAST_ITEMS`, and the same problems.

    Good are the best third of the pool by `rank` and bad the worst third, at least one each. Raises `InvalidCandidate` where
    the evaluation measures nothing.
    """
    items = len(pool[0].values)
    if items < LEAST_ITEMS:
        raise InvalidCandidate(
            f"It must have at least {LEAST_ITEMS} items to say anything, but has {items}; make it wider."
        )
    if len(pool) < 2:
        raise InvalidCandidate(
            "It must be tried on two sets of weights at least, but none was trained yet; propose it later."
        )
    means = [fmean(m.values) for m in pool]
    if len(set(means)) == 1:
        raise InvalidCandidate(
            f"It must tell models apart, but gives {means[0]:.4g} for each of {len(pool)} sets of weights; measure something else."
        )
    order = sorted(range(len(pool)), key=lambda i: pool[i].rank)
    third = max(1, len(pool) // 3)
    bad, good = order[:third], order[-third:]
    seeds = [mean for m, mean in zip(pool, means, strict=True) if m.champion]
    champion = next((m for m in pool if m.champion), pool[order[-1]])
    return EvalReport(
        items=items,
        weights=len(pool),
        champion=fmean(champion.values),
        stderr=_stderr(champion.values),
        ceiling=sum(v >= 1 for v in champion.values) / items,
        floor=sum(v <= 0 for v in champion.values) / items,
        good=fmean(means[i] for i in good),
        bad=fmean(means[i] for i in bad),
        good_bad=(len(good), len(bad)),
        separation=_separation([pool[i].values for i in good], [pool[i].values for i in bad]),
        primary_separation=_separation([pool[i].primary for i in good], [pool[i].primary for i in bad]),
        seed_sd=stdev(seeds) if len(seeds) > 1 else None,
        agreement=spearman(means, [fmean(m.primary) for m in pool]),
    )


def _stderr(values: Sequence[float]) -> float:
    mean, n = fmean(values), len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n) if n > 1 else 0.0


def _separation(good: Sequence[Sequence[float]], bad: Sequence[Sequence[float]]) -> float:
    """Good minus bad, in standard errors of the difference over the items, which all share. 0 where both are the same."""
    differences = [fmean(g) - fmean(b) for g, b in zip(zip(*good, strict=True), zip(*bad, strict=True), strict=True)]
    mean, error = fmean(differences), _stderr(differences)
    if mean == 0:
        return 0.0
    # Where every item says the same there is no spread to divide by; half an item's worth of doubt stands in for it.
    return max(-999.0, min(999.0, mean / max(error, 0.5 / len(differences))))


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Rank correlation with mean ranks for ties; None below `LEAST_RANKED` pairs, or where one side is constant.

    >>> spearman([1, 2, 3, 4], [10, 20, 30, 25])
    0.8
    """
    if len(a) < LEAST_RANKED or len(set(a)) < 2 or len(set(b)) < 2:
        return None
    x, y = _ranks(a), _ranks(b)
    mx, my = fmean(x), fmean(y)
    top = sum((p - mx) * (q - my) for p, q in zip(x, y, strict=True))
    return round(top / math.sqrt(sum((p - mx) ** 2 for p in x) * sum((q - my) ** 2 for q in y)), 12)


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [ordered.index(v) + (ordered.count(v) - 1) / 2 for v in values]


def evidence(found: EvalReport) -> str:
    """sha256 of what an approval is bound to: the report without the seconds, which differ between equal runs."""
    return digest(asdict(replace(found, seconds=0.0)))


# ---------------------------------------------------------------- in words


def facts(r: EvalReport) -> dict[str, str]:
    """The report in a few lines, by label."""
    ranked = (
        "not enough sets of weights to say"
        if r.agreement is None
        else f"rank correlation {r.agreement:.2f} over {r.weights} sets of weights"
    )
    found = {
        "value": f"champion {r.champion:.4f} ± {r.stderr:.4f} over {r.items} items"
        + ("" if r.seed_sd is None else f"; standard deviation over its seeds {r.seed_sd:.4f}"),
        "good/bad": (
            f"known good {r.good:.4f} ({r.good_bad[0]}), known bad {r.bad:.4f} ({r.good_bad[1]}): {r.separation:+.1f}"
            f" standard errors apart (primary metric: {r.primary_separation:+.1f})"
        ),
        "saturation": f"{r.ceiling:.1%} of the items at the ceiling, {r.floor:.1%} at the floor, of the champion",
        "agreement": f"with the primary metric: {ranked}",
        "overlap": f"{r.overlap:.1%} of its prompts could be in the train split"
        + ("; they are left out" if r.overlap else ""),
        "determinism": f"equal in two runs, {r.seconds:.1f} s of code",
    }
    if r.left_out:
        found["left out"] = ", ".join(f"{n} {why}" for why, n in r.left_out.items())
    return found


def cautions(r: EvalReport) -> tuple[str, ...]:
    """What a reviewer should think of before saying yes; nothing here decides."""
    found = []
    if r.separation <= -CLEAR:
        found.append("It is upside down: known good candidates have the lower value.")
    elif r.separation < CLEAR:
        found.append(f"It does not tell known good from known bad candidates ({r.separation:+.1f} standard errors).")
    elif r.seed_sd is not None and r.good - r.bad < CLEAR * r.seed_sd:
        found.append("Known good and bad are no further apart than two seeds of one candidate may be.")
    if r.champion >= 0.98 or r.champion <= 0.02:
        found.append(
            f"It is saturated: the champion's value is {r.champion:.4f}, so that little can be seen to change."
        )
    if r.stderr > 0.03:
        found.append(f"It is coarse: a standard error of {r.stderr:.3f}.")
    if r.agreement is not None and r.agreement < 0:
        found.append("It ranks candidates the other way round than the primary metric.")
    if r.primary_separation < CLEAR:
        found.append("The primary metric does not tell these candidates apart either: little could be learned yet.")
    return tuple(found)


def told(name: str, form: str, stage: str, reason: str) -> str:
    """One line for the agent's next prompt: what came of a proposal. No number of the report's is in it."""
    words = {
        "proposed": "waits to be tried",
        "assessed": "works",
        "refused": f"refused: {reason}",
        "pending": "works, and waits for a person",
        "adopted": "adopted, for later campaigns",
        "declined": f"rejected by a person: {reason}",
    }
    return f"{name} ({form}): {words[stage]}"


def describe_report(r: EvalReport | None) -> dict[str, Any] | None:
    """The report for `--json`."""
    return None if r is None else asdict(r) | {"cautions": list(cautions(r))}
