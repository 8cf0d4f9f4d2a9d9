"""Budgets: what is left, and whether one more step fits. Pure; limits are inclusive.

Every step is reserved before it costs anything and settled when its cost is known: a trial by `TrialScheduled`, a model
call by `ModelCallStarted` and `ModelCallFinished`, a training by its `TrialFinished` or, where it was killed together with
its controller, by the next `SessionStarted`. The `spend` that is asked about
here is `State.committed`: what is settled and what is reserved for all that is under way.

A model call is reserved at the most that it can cost, so that tokens and dollars for models never pass their limits.
What a training uses is known only afterwards: it is reserved at the largest one so far (before the first, at the
subject's estimate), and may pass a limit by what it uses beyond that, at most up to the subject's own limit. Wall
seconds end the session when they are over, with whatever runs.
"""

from __future__ import annotations

from evolve.types import Budget, Spend, Usage

_HOUR = 3600.0


def training_spend(budget: Budget, usage: Usage, device: str) -> Spend:
    """What one training used, in dollars too: CPU hours at their price, and off the CPU its hours at the GPU's price."""
    dollars = usage.cpu_seconds / _HOUR * (budget.price_cpu_hour or 0.0)
    if device != "cpu":
        dollars += usage.wall_seconds / _HOUR * (budget.price_gpu_hour or 0.0)
    return Spend(train_seconds=usage.cpu_seconds, train_usd=dollars)


def exhausted(budget: Budget, spend: Spend, ahead: Spend | None = None) -> str | None:
    """One line saying which limit leaves no room for another training that may take `ahead`, or None.

    Its wall clock runs beside that of the others.
    """
    if budget.trials is not None and spend.trials >= budget.trials:
        return f"budget.trials: {spend.trials} of {budget.trials} spent"
    ahead = ahead or Spend()
    for name, unit, limit, used, more in (
        ("train_seconds", "CPU seconds", budget.train_seconds, spend.train_seconds, ahead.train_seconds),
        ("wall_seconds", "seconds", budget.wall_seconds, spend.wall_seconds, ahead.wall_seconds),
        ("usd", "dollars", budget.usd, spend.usd, ahead.train_usd),
    ):
        if limit is not None and (used >= limit or used + more > limit):
            form = ".4f" if name == "usd" else ".0f"
            text = f"budget.{name}: {used:{form}} of {limit:{form}} {unit} spent"
            return text if used >= limit else f"{text}, a training may take {more:{form}}"
    return None


def overtime(budget: Budget, spend: Spend) -> str | None:
    """One line where the wall clock's limit is reached, or None: then also what runs must end."""
    if budget.wall_seconds is None or spend.wall_seconds < budget.wall_seconds:
        return None
    return f"budget.wall_seconds: {spend.wall_seconds:.0f} of {budget.wall_seconds:.0f} seconds spent"


def no_more_calls(budget: Budget, spend: Spend) -> str | None:
    """One line saying which limit leaves no room for any model call, or None."""
    if budget.llm_tokens is not None and spend.llm_tokens >= budget.llm_tokens:
        return f"budget.llm_tokens: {spend.llm_tokens} of {budget.llm_tokens} spent"
    if budget.llm_usd is not None and spend.llm_usd >= budget.llm_usd:
        return f"budget.llm_usd: {spend.llm_usd:.4f} of {budget.llm_usd:.4f} spent"
    if budget.usd is not None and spend.usd >= budget.usd:
        return f"budget.usd: {spend.usd:.4f} of {budget.usd:.4f} dollars spent"
    return None


def room(budget: Budget, spend: Spend, ahead: Spend) -> str | None:
    """Why a model call that may cost up to `ahead` does not fit, or None."""
    after = spend + ahead
    if budget.llm_tokens is not None and after.llm_tokens > budget.llm_tokens:
        return f"budget.llm_tokens: {spend.llm_tokens} of {budget.llm_tokens} spent, a call may take {ahead.llm_tokens}"
    if budget.llm_usd is not None and after.llm_usd > budget.llm_usd:
        return f"budget.llm_usd: {spend.llm_usd:.4f} of {budget.llm_usd:.4f} spent, a call may take {ahead.llm_usd:.4f}"
    if budget.usd is not None and after.usd > budget.usd:
        return f"budget.usd: {spend.usd:.4f} of {budget.usd:.4f} dollars spent, a call may take {ahead.llm_usd:.4f}"
    return None
