"""The gate: is the challenger better than the champion, beyond what seeds and chance explain? Pure.

A group-sequential test with an O'Brien-Fleming boundary on the difference between the challenger's seeds and the mean
of the champion's stored trainings (the bank). Each challenger seed has fresh problems of its own, on which the bank is
scored again: problems that happen to suit the challenger are then noise of one seed, which the test sees, and not an
advantage of all of them, which it could not see. Where a subject's data is fixed there is one set for all, and the error over
its problems is a part of the variance that no number of seeds makes smaller. Variances are moderated with the
pooled within-recipe variance of the campaign, since a handful of seeds says little about its own.

Notation: n challenger seeds of at most N, m bank trainings, e_j the j-th challenger score minus the bank's mean (sign: larger
is better), s0^2 pooled variance with df0 degrees of freedom, nu0 = min(6, df0), p the error over problems that all seeds share.

    s_c^2 = max((nu0 s0^2 + SS_own) / (nu0 + n - 1), SS_own / (n - 1)),   s_i^2 = (nu0 s0^2 + (m - 1) s_bank^2) / (nu0 + m - 1)
    V = s_c^2 / n + s_i^2 / m + p^2,   T = mean(e) / sqrt(V) with Welch's degrees of freedom
    accept where n >= 2 and T >= t_nu^-1(1 - Phi(-C sqrt(N / n))), C from `sequential.constant(alpha / candidates, N)`
    reject (non-binding) where n < N and mean(e) < delta s_i (0.62 - 1 / n), or n = N

The challenger's own variance where it is larger than the moderated one is our addition: without it a recipe whose seeds vary
more than the champion's is accepted too often (docs/log.md, "The gate's promise").

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
(moderated variance), Welch 1947 (degrees of freedom), Berger 1982 (intersection-union tests), Nakkiran and Blasiok, arXiv
1809.05596 (the vault where data is fixed).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean

from evolve import sequential
from evolve.types import Evaluation, GateRules, GuardFinding, Objective, Verdict

PRIOR_DF_LIMIT = 6  # more weight than this to the pooled variance hurts when recipes differ in their seed variance
MOST_SEEDS = 24


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
    """Threshold in normal quantiles at `n` seeds: C sqrt(N / n); beyond N, which only a person can ask for, it goes on falling."""
    return sequential.constant(rules.alpha / rules.candidates, rules.max_seeds) * math.sqrt(rules.max_seeds / n)


def promise(rules: GateRules) -> str:
    """What the setting promises, in one sentence; shown wherever an acceptance is. Figures: `python benchmarks/gate.py`."""
    if rules.max_seeds == 1:
        return "none: keep if better, on one seed; nearly every campaign of 50 useless candidates accepts some"
    simulated = "" if rules.setting != "custom" else "; not simulated for these numbers"
    if rules.candidates == 1:
        found = "" if simulated else ": of simulated campaigns of 50 useless ones 27 to 48% promote one"
        return f"at most {rules.alpha:.0%} for each useless candidate, none for the campaign{found}{simulated}"
    return f"at most {rules.alpha:.0%} that a campaign of {rules.candidates} useless candidates promotes any{simulated}"


@dataclass(frozen=True)
class _Spread:
    """The variances behind one comparison, in squared units of the score; see the module's text."""

    seed: float  # s_c^2
    bank: float  # s_i^2
    bank_size: int
    prior_df: int
    problems: float  # p^2

    def variance(self, n: int) -> float:
        return self.seed / n + self.bank / self.bank_size + self.problems

    def df(self, n: int) -> float:
        """Welch and Satterthwaite, by shares of the variance: the square of a tiny one would be 0."""
        total = self.variance(n)
        parts = (
            (self.seed / n, self.prior_df + n - 1),
            (self.bank / self.bank_size, self.prior_df + self.bank_size - 1),
        )
        shares = sum((part / total) ** 2 / max(1, df) for part, df in parts)
        return 1 / max(shares, 1e-6)  # none where only the problems vary: the normal distribution

    def threshold(self, rules: GateRules, n: int) -> float:
        """Of t at `n` seeds."""
        return _t_quantile(NormalDist().cdf(-boundary(rules, n)), self.df(n))

    def futile(self, rules: GateRules, n: int) -> float:
        """A mean below which `n` seeds are enough to give up."""
        return rules.delta * math.sqrt(self.bank) * (0.62 - 1 / n)


def _spread(
    differences: Sequence[float], champion: Sequence[float], prior: tuple[float, int], problems: float
) -> _Spread:
    s0, df0 = prior
    nu0 = min(PRIOR_DF_LIMIT, df0)

    def moderated(scores: Sequence[float]) -> tuple[float, float]:
        own = sum((x - fmean(scores)) ** 2 for x in scores)
        df = nu0 + len(scores) - 1
        return (nu0 * s0 + own) / df if df else 0.0, own / (len(scores) - 1) if len(scores) > 1 else 0.0

    return _Spread(max(moderated(differences)), moderated(champion)[0], len(champion), nu0, problems**2)


def judge(
    challenger: Sequence[float],
    champion: Sequence[float],
    rules: GateRules,
    *,
    references: Sequence[float] | None = None,
    sign: int = 1,
    prior: tuple[float, int] = (0.0, 0),
    problems: float = 0.0,
    accepted_at: int = 0,
    corrected: bool = True,
) -> Verdict:
    """ACCEPT, REJECT or NEED_MORE seeds.

    Args:
        challenger: scores of the challenger's trainings, one per seed, in the order of the seeds; at least one.
        champion: scores of the champion's stored trainings, each a mean over the same sets of problems; at least two, one
            where `rules.max_seeds` is 1.
        references: the bank's mean on the problems of each challenger seed; None where all seeds had the same problems.
        sign: +1 where larger scores are better, -1 where smaller are.
        prior: pooled within-recipe variance s0^2 and its degrees of freedom.
        problems: standard error of the difference over the problems, where all seeds had the same ones.
        accepted_at: the seeds of an earlier acceptance, to which a person asked for more: there is no other look before all
            are there, and what falls below the boundary is rejected.
        corrected: whether an acceptance gets its interval (tens of milliseconds).

    The numbers: `n`, `m`, `difference` (in the direction of better), `stderr`, `t`, `threshold` (of t), `df`,
    `challenger_mean`, `champion_mean`; after an acceptance `estimate` and the bounds `low` and `high` at 95 %, corrected
    for the selection (`interval`), where there is no `low` if none could be determined. Never accepts a single seed, unless
    the rules have only one. A difference of zero with variance zero (a true no-op) is REJECT. The reject before the last
    seed is non-binding: dropping it would not raise the error rate.

    Raises `ValueError` for a non-finite score: the caller has let something through that is not a score.
    """
    least = 1 if rules.max_seeds == 1 else 2
    if not challenger or len(champion) < least or not all(map(math.isfinite, (*challenger, *champion))):
        raise ValueError("judge needs finite scores: one challenger and two champion trainings at least")
    n, m = len(challenger), len(champion)
    references = references or [fmean(champion)] * n
    differences = tuple(sign * (x - r) for x, r in zip(challenger, references, strict=True))
    mean = fmean(differences)
    spread = _spread(differences, champion, prior, problems)
    variance = spread.variance(n)
    numbers = {
        "n": float(n),
        "m": float(m),
        "difference": mean,
        "stderr": math.sqrt(variance),
        "challenger_mean": fmean(challenger),
        "champion_mean": fmean(references),
    }

    def verdict(decision: str, reason: str) -> Verdict:
        return Verdict(decision, reason, numbers, differences)  # type: ignore[arg-type]

    if rules.max_seeds == 1:
        if mean > 0:
            return verdict("ACCEPT", f"difference {mean:+.4f} on {n} seed(s): better, whether by chance is not tested")
        return verdict("REJECT", f"difference {mean:+.4f} on {n} seed(s)")
    # Scores that are equal but for rounding have a variance of rounding errors.
    if variance <= (1e-12 * max(abs(x) for x in (*challenger, *champion))) ** 2:
        # Neither seeds nor bank vary, and nothing is known of the noise: no test can be made on that.
        return verdict(
            "REJECT",
            "no difference at all" if mean == 0 else "no variance between seeds: noise cannot be told from gain",
        )
    t = mean / math.sqrt(variance)
    numbers |= {"t": t, "df": spread.df(n)}
    if n >= 2:
        threshold = numbers["threshold"] = spread.threshold(rules, n)
        if t >= threshold:
            if corrected:
                numbers |= interval(spread, rules, n, mean, accepted_at)
            return verdict("ACCEPT", f"t {t:.2f} >= {threshold:.2f} over {n} seeds")
        if n >= rules.max_seeds or accepted_at:
            return verdict("REJECT", f"t {t:.2f} < {threshold:.2f} after all {n} seeds")
    if mean < (futility := spread.futile(rules, n)):
        return verdict("REJECT", f"difference {mean:+.4f} is below {futility:+.4f} after {n} seed(s)")
    return verdict("NEED_MORE", f"difference {mean:+.4f} is not decided by {n} seed(s)")


def interval(spread: _Spread, rules: GateRules, n: int, mean: float, accepted_at: int = 0) -> dict[str, float]:
    """`estimate`, `low` and `high` of the true difference after an acceptance, corrected for having been selected by it.

    `sequential.interval` knows the variances; that they were estimated is allowed for by widening by the ratio of Student's
    to the normal quantile.
    """
    look = accepted_at or n
    looks = range(1, max(rules.max_seeds, look) + 1)
    accept = [math.inf if k < 2 else spread.threshold(rules, k) * math.sqrt(spread.variance(k)) for k in looks]
    futile = [spread.futile(rules, k) if k < rules.max_seeds else -math.inf for k in looks]
    error = math.sqrt(spread.bank / spread.bank_size + spread.problems)
    design = sequential.Design(accept, futile, math.sqrt(spread.seed), error)
    low, estimate, high = sequential.interval(design, look, mean, n - look)
    wider = _t_quantile(0.025, spread.df(n)) / NormalDist().inv_cdf(0.975)
    found = {"estimate": estimate, "high": estimate + wider * (high - estimate)}
    return found if low is None else found | {"low": estimate - wider * (estimate - low)}


@dataclass(frozen=True)
class Evidence:
    """What `judge` needs of one objective; `challenger` and `champion` as there."""

    objective: Objective
    challenger: Sequence[float]
    champion: Sequence[float]
    prior: tuple[float, int]
    references: Sequence[float] | None = None
    problems: float = 0.0
    accepted_at: int = 0

    def judge(self, rules: GateRules, margins: float = 0.0, *, corrected: bool = False) -> Verdict:
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
            problems=self.problems,
            accepted_at=self.accepted_at,
            corrected=corrected,
        )


def judge_several(evidence: Sequence[Evidence], rules: GateRules, *, corrected: bool = True) -> Verdict:
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
        for index, e in enumerate(
            evidence if corrected else ()
        ):  # of what was not selected for being better there is nothing to correct
            found, prefix = e.judge(strict, corrected=True).numbers, f"{e.objective.metric}." if index else ""
            numbers |= {f"{prefix}{key}": found[key] for key in ("low", "estimate", "high") if key in found}
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
    last = n >= rules.max_seeds or evidence.accepted_at > 0
    return "REJECT" if last or (n >= 2 and numbers["difference"] < 0) else "NEED_MORE"


def _in_words(metric: str, numbers: Mapping[str, float], difference: float) -> str:
    found = "within the tolerance" if numbers[f"{metric}.not_worse"] else "not shown to be within the tolerance"
    return f"{metric} {'better' if numbers[f'{metric}.better'] else found} ({difference:+.4g})"


def judge_guard(name: str, challenger: Sequence[float], champion: Sequence[float], guard: Objective) -> GuardFinding:
    """A guard metric's values of the challenger's trainings and of the champion's (or its means on the same problems)."""
    mine, theirs = fmean(challenger), fmean(champion)
    return GuardFinding(name, mine, theirs, guard.sign * (mine - theirs), guard.margin(theirs))


def vault_level(rules: GateRules, asked: int, passed: int) -> float:
    """One-sided level of one question to a vault of fixed data, so that all together are false yeses with at most alpha.

    The Generic Holdout (arXiv 1809.05596, section 2): who learns only yes or no can ask, as its `asked`-th question after
    `passed` yeses, one of C(asked - 1, passed) things, each of which must be safe. Levels halve with each yes.

    >>> vault_level(GateRules(vault_queries=10), 1, 0)
    0.0025
    """
    return rules.alpha / (rules.vault_queries * 2.0 ** (passed + 1) * math.comb(asked - 1, passed))


def judge_vault(
    challenger: Evaluation,
    champion: Sequence[Evaluation],
    gate: Verdict,
    sign: int,
    *,
    margin: float = 0.0,
    level: float | None = None,
) -> Verdict:
    """The vault's yes or no: is the gain there again, in a new training and on problems that no search and no gate ever used?

    Args:
        challenger: its new training, on a seed of its own.
        champion: its new training on the same seed, and its stored ones.
        gate: the acceptance that is asked about.
        margin: where the gain is in another objective, the scorer's metric must be not worse than that.
        level: where the data is fixed, the level of this question (`vault_level`): the difference must then exceed the error
            over problems so far, which is taken as if the two sides had different problems (never too small).

    On fresh problems a positive difference is enough: seeds have been judged, and a candidate whose gain is gone has one
    chance in two, on top of the gate's. A gain that is less than the gate's by more than three standard errors of both was
    made for the gate's problems: no.
    """
    theirs = fmean(e.mean for e in champion)
    difference = sign * (challenger.mean - theirs)
    stderr = math.hypot(challenger.stderr, fmean(e.stderr for e in champion))
    least = 0.0 if level is None else NormalDist().inv_cdf(1 - level) * stderr
    n, m = gate.numbers["n"], gate.numbers["m"]
    single = (
        gate.numbers["stderr"] / math.sqrt(1 / n + 1 / m) * math.sqrt(1 + 1 / n + 2 / m)
    )  # one seed more against all
    floor = gate.numbers["difference"] - 3 * math.hypot(single, stderr)
    numbers = {"difference": difference, "stderr": stderr, "least": least, "margin": margin, "floor": floor}
    if difference + margin > least and (margin or difference >= floor):
        return Verdict("ACCEPT", f"vault: {difference:+.4f} ± {stderr:.4f}", numbers)
    what = f"within {margin:.4g} is not shown" if margin else "the gain is not there again"
    return Verdict("REJECT", f"{what} on the vault: {difference:+.4f} ± {stderr:.4f}", numbers)


def _t_quantile(tail: float, df: float) -> float:
    """t with upper tail probability `tail` at `df` (not necessarily whole) degrees of freedom."""
    from scipy.special import stdtrit  # 0.1 s to import, and only campaigns that reach a verdict need it

    return -float(stdtrit(df, tail))
