"""The gate: is the challenger better than the champion, beyond what seeds and chance explain? Pure.

A group-sequential test with an O'Brien-Fleming boundary on the difference between the challenger's seeds and the mean
of the champion's stored trainings (the bank). Each challenger seed has fresh problems of its own, on which the bank is
scored again: problems that happen to suit the challenger are then noise of one seed, which the test sees, and not an
advantage of all of them, which it could not see. Variances are moderated with the
pooled within-recipe variance of the campaign, since a handful of seeds says little about its own.

Notation: n challenger seeds, m bank trainings, e_j the j-th challenger score minus the bank's mean (sign: larger is
better), s0^2 pooled variance with df0 degrees of freedom.

Several objectives, k = 1..K, d_k the true difference on the k-th (larger is better) and M_k its margin, `Objective.margin`
of the champion's value. `judge_several` accepts where for some k, at the same number of seeds,

    better(k):     d_k > g_k is shown at alpha / (candidates K), with g_k = 0 for a metric of the scorer's, M_k for a
                   measured one: seconds drift with the machine's load, which seeds do not show
    not worse(j):  d_j > -M_j is shown at alpha, for every other j (non-inferiority)

each by the test above with the champion's values moved by g_k or M_j. The promises: of `candidates` candidates that are
better on no objective any is accepted with at most alpha (Bonferroni over the objectives); one challenge of a candidate
that is worse than the margin on some objective is accepted with at most alpha, whatever it gains elsewhere (every way
to accept it goes through that one test). The second is not divided by `candidates`: at alpha / candidates a margin of
some five standard deviations over seeds would be needed to pass anything at all, and what slips through is about one margin
worse. A trade beyond the margins is not accepted, however large its gain: it stays on the front (`pareto.py`).

Sources: O'Brien and Fleming 1979 (boundary), Jennison and Turnbull 2000 (group-sequential tests), Smyth 2004
(moderated variance), Welch 1947 (degrees of freedom), Berger 1982 (intersection-union tests).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean

from evolve.types import Evaluation, GateRules, Objective, Verdict

# Boundary constant for one-sided alpha / candidates = 0.001 with looks at n = 2..N: simulated for N = 8 and N = 12.
# For N below 8 the constant of 8 is used, which errs on the side of rejecting.
_OBRIEN_FLEMING = {8: 3.147, 12: 3.162}
PRIOR_DF_LIMIT = 6  # more weight than this to the pooled variance hurts when recipes differ in their seed variance


def pooled_variance(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Within-group variance over all groups of two and more, and its degrees of freedom; (0.0, 0) without any.

    >>> pooled_variance([[1.0, 3.0], [5.0]])
    (2.0, 1)
    """
    df = sum(len(g) - 1 for g in groups if len(g) > 1)
    if df == 0:
        return 0.0, 0
    return sum(sum((x - fmean(g)) ** 2 for x in g) for g in groups if len(g) > 1) / df, df


def boundary(rules: GateRules, n: int) -> float:
    """Threshold in normal quantiles at `n` seeds: C * sqrt(N / n).

    C was simulated for alpha / candidates = 0.001; other promises shift it by the difference of the fixed-sample
    quantiles, which is exact for one look and within 0.03 for the range of settings offered.
    """
    if rules.max_seeds > max(_OBRIEN_FLEMING):
        raise ValueError(f"gate.max_seeds <= {max(_OBRIEN_FLEMING)} must hold, but got {rules.max_seeds}; lower it.")
    base = _OBRIEN_FLEMING[min(size for size in _OBRIEN_FLEMING if size >= rules.max_seeds)]
    quantile = NormalDist().inv_cdf
    c = base + quantile(1 - rules.alpha / rules.candidates) - quantile(1 - 0.001)
    return c * math.sqrt(rules.max_seeds / n)


def judge(
    challenger: Sequence[float],
    champion: Sequence[float],
    rules: GateRules,
    *,
    references: Sequence[float] | None = None,
    sign: int = 1,
    prior: tuple[float, int] = (0.0, 0),
) -> Verdict:
    """ACCEPT, REJECT or NEED_MORE seeds.

    Args:
        challenger: scores of the challenger's trainings, one per seed, in the order of the seeds; at least one.
        champion: scores of the champion's stored trainings, each a mean over the same sets of problems; at least two.
        references: the bank's mean on the problems of each challenger seed; None where all seeds had the same problems.
        sign: +1 where larger scores are better, -1 where smaller are.
        prior: pooled within-recipe variance s0^2 and its degrees of freedom.

    The numbers: `n`, `m`, `difference` (in the direction of better), `stderr`, `t`, `threshold` (of t), `df`,
    `challenger_mean`, `champion_mean`. Never accepts a single seed. A difference of zero with variance zero (a true
    no-op) is REJECT. The reject before the last seed is non-binding: dropping it would not raise the error rate.

    Raises `ValueError` for a non-finite score: the caller has let something through that is not a score.
    """
    if not challenger or len(champion) < 2 or not all(map(math.isfinite, (*challenger, *champion))):
        raise ValueError("judge needs finite scores: one challenger and two champion trainings at least")
    n, m = len(challenger), len(champion)
    references = references or [fmean(champion)] * n
    differences = tuple(sign * (x - r) for x, r in zip(challenger, references, strict=True))
    mean = fmean(differences)
    s0, df0 = prior
    nu0 = min(PRIOR_DF_LIMIT, df0)

    def moderated(scores: Sequence[float]) -> float:
        own = sum((x - fmean(scores)) ** 2 for x in scores)
        df = nu0 + len(scores) - 1
        return (nu0 * s0 + own) / df if df else 0.0

    s_c, s_i = moderated(differences), moderated(champion)
    variance = s_c / n + s_i / m
    numbers = {
        "n": float(n),
        "m": float(m),
        "difference": mean,
        "stderr": math.sqrt(variance),
        "challenger_mean": fmean(challenger),
        "champion_mean": fmean(references),
    }
    # Scores that are equal but for rounding have a variance of rounding errors.
    if variance <= (1e-12 * max(abs(x) for x in (*challenger, *champion))) ** 2:
        # Neither seeds nor bank vary, and nothing is known of the noise: no test can be made on that.
        reason = "no difference at all" if mean == 0 else "no variance between seeds: noise cannot be told from gain"
        return Verdict("REJECT", reason, numbers, differences)
    # Welch and Satterthwaite, by shares of the variance: the square of a tiny one would be 0.
    df = 1 / sum((v / k / variance) ** 2 / max(1, nu0 + k - 1) for v, k in ((s_c, n), (s_i, m)))
    t = mean / math.sqrt(variance)
    noise = math.sqrt(s_i)
    numbers |= {"t": t, "df": df}
    if n >= 2:
        threshold = _t_quantile(NormalDist().cdf(-boundary(rules, n)), df)
        numbers["threshold"] = threshold
        if t >= threshold:
            return Verdict("ACCEPT", f"t {t:.2f} >= {threshold:.2f} over {n} seeds", numbers, differences)
        if n >= rules.max_seeds:
            return Verdict("REJECT", f"t {t:.2f} < {threshold:.2f} after all {n} seeds", numbers, differences)
    futility = rules.delta * noise * (0.62 - 1 / n)
    if mean < futility:
        return Verdict(
            "REJECT", f"difference {mean:+.4f} is below {futility:+.4f} after {n} seed(s)", numbers, differences
        )
    return Verdict("NEED_MORE", f"difference {mean:+.4f} is not decided by {n} seed(s)", numbers, differences)


@dataclass(frozen=True)
class Evidence:
    """What `judge` needs of one objective; `challenger` and `champion` as there."""

    objective: Objective
    challenger: Sequence[float]
    champion: Sequence[float]
    prior: tuple[float, int]
    references: Sequence[float] | None = None

    def judge(self, rules: GateRules, margins: float = 0.0) -> Verdict:
        """Against a champion that is better by so many margins; -1: is the challenger not worse than the margin?"""

        def move(x: float) -> float:
            return x + margins * self.objective.sign * self.objective.margin(x)

        return judge(
            self.challenger,
            [move(x) for x in self.champion],
            rules,
            references=None if self.references is None else [move(x) for x in self.references],
            sign=self.objective.sign,
            prior=self.prior,
        )


def judge_several(evidence: Sequence[Evidence], rules: GateRules) -> Verdict:
    """ACCEPT, REJECT or NEED_MORE seeds over several objectives, the primary one first; the rule is in the module's text.

    The numbers are the primary objective's under the names that `judge` gives them, and of each further one under
    `<metric>.<name>`; for all of them `<metric>.margin`, `<metric>.better` (1 where that was shown) and `<metric>.not_worse`.
    """
    strict = replace(rules, candidates=rules.candidates * len(evidence))
    better = [e.judge(strict, 1.0 if e.objective.measured else 0.0) for e in evidence]
    not_worse = [_not_worse(e, rules) for e in evidence]
    numbers: dict[str, float] = {}
    differences: list[tuple[float, ...]] = []
    for index, (e, gain, level) in enumerate(zip(evidence, better, not_worse, strict=True)):
        plain, name = e.judge(strict), e.objective.metric
        differences.append(plain.differences)
        numbers |= plain.numbers if index == 0 else {f"{name}.{key}": x for key, x in plain.numbers.items()}
        numbers[f"{name}.margin"] = e.objective.margin(plain.numbers["champion_mean"])
        numbers[f"{name}.better"] = float(gain.decision == "ACCEPT")
        numbers[f"{name}.not_worse"] = float(level == "ACCEPT")

    def rest(k: int) -> list[str]:
        return [level for j, level in enumerate(not_worse) if j != k]

    def verdict(decision: str, reason: str) -> Verdict:
        names = [e.objective.metric for e in evidence[1:]]
        further = dict(zip(names, differences[1:], strict=True))
        return Verdict(decision, reason, numbers, differences[0], further)  # type: ignore[arg-type]

    shown = "; ".join(
        _in_words(e.objective.metric, numbers, fmean(d)) for e, d in zip(evidence, differences, strict=True)
    )
    n = len(evidence[0].challenger)
    if any(gain.decision == "ACCEPT" and set(rest(k)) == {"ACCEPT"} for k, gain in enumerate(better)):
        return verdict("ACCEPT", f"{shown}; over {n} seeds")
    if all(gain.decision == "REJECT" or "REJECT" in rest(k) for k, gain in enumerate(better)):
        beyond = [
            fmean(d) < -numbers[f"{e.objective.metric}.margin"] for e, d in zip(evidence, differences, strict=True)
        ]
        advice = ""
        if any(gain.numbers["difference"] > 0 for gain in better) and any(beyond):
            advice = ": a trade for the front, not a promotion; a larger tolerance would allow it"
        elif any(gain.decision == "ACCEPT" for gain in better):
            advice = ": too much noise to tell; more seeds or a larger tolerance might"
        return verdict("REJECT", f"{shown}; after {n} seed(s){advice}")
    return verdict("NEED_MORE", f"{shown}; not decided by {n} seed(s)")


def _not_worse(evidence: Evidence, rules: GateRules) -> str:
    """The decision on non-inferiority, at alpha for this one challenge. An estimate beyond the margin ends it early."""
    verdict = evidence.judge(replace(rules, candidates=1), -1.0)
    numbers = verdict.numbers
    if "t" not in numbers:  # nothing varies: equal in every seed is not worse, anything else cannot be told from noise
        return "ACCEPT" if evidence.judge(rules).numbers["difference"] >= 0 else "REJECT"
    if "threshold" in numbers and numbers["t"] >= numbers["threshold"]:
        return "ACCEPT"
    n = len(evidence.challenger)
    return "REJECT" if n >= rules.max_seeds or (n >= 2 and numbers["difference"] < 0) else "NEED_MORE"


def _in_words(metric: str, numbers: Mapping[str, float], difference: float) -> str:
    found = "within the tolerance" if numbers[f"{metric}.not_worse"] else "not shown to be within the tolerance"
    return f"{metric} {'better' if numbers[f'{metric}.better'] else found} ({difference:+.4g})"


def judge_vault(
    challenger: Evaluation, champion: Evaluation, verdict: Verdict, sign: int, margin: float = 0.0
) -> Verdict:
    """The vault's yes or no: is the gain there on problems that no search and no gate ever used?

    The promoted weights (first gate seed) and the champion's first bank training, on the same vault problems. Seeds
    were judged before; here the difference must be positive by more than its standard error over problems, and not
    contradict the gate's interval (three standard errors of both). `margin`: where the gain is in another objective, the
    scorer's metric must be not worse than that, by the same standard error.
    """
    difference = sign * (challenger.mean - champion.mean)
    stderr = math.hypot(challenger.stderr, champion.stderr)
    gate_difference, gate_stderr = verdict.numbers["difference"], verdict.numbers["stderr"]
    # One seed each in the vault: the seeds' own noise is that of a single pair.
    single = gate_stderr / math.sqrt(1 / verdict.numbers["n"] + 1 / verdict.numbers["m"]) * math.sqrt(2)
    floor = gate_difference - 3 * math.hypot(stderr, single)
    numbers = {"difference": difference, "stderr": stderr, "floor": floor}
    if margin:
        numbers["margin"] = margin
    if difference + margin > stderr and difference >= floor:
        return Verdict("ACCEPT", f"vault: {difference:+.4f} ± {stderr:.4f}", numbers)
    what = f"within {margin:.4g} is not shown" if margin else "the gain does not hold"
    return Verdict("REJECT", f"{what} on the vault: {difference:+.4f} ± {stderr:.4f}", numbers)


def _t_quantile(tail: float, df: float) -> float:
    """t with upper tail probability `tail` at `df` (not necessarily whole) degrees of freedom."""
    from scipy.special import stdtrit  # 0.1 s to import, and only campaigns that reach a verdict need it

    return float(-stdtrit(df, tail))
