"""Budgets: what is left, and whether one more step fits. Pure; limits are inclusive and are never passed.

Trials are reserved by their `TrialScheduled` event, before they cost anything. Model calls are settled by the event
that carries their spend; before a call the proposer asks `room` with the most that the call could cost.
"""

from __future__ import annotations

from evolve.types import Budget, Spend


def exhausted(budget: Budget, spend: Spend) -> str | None:
    """One line saying which limit leaves no room for another training, or None.

    Training seconds are known only afterwards: a training may start while any are left, and its own limit bounds it.
    """
    if budget.trials is not None and spend.trials >= budget.trials:
        return f"budget.trials: {spend.trials} of {budget.trials} spent"
    if budget.train_seconds is not None and spend.train_seconds >= budget.train_seconds:
        return f"budget.train_seconds: {spend.train_seconds:.0f} of {budget.train_seconds:.0f} CPU seconds spent"
    return None


def no_more_calls(budget: Budget, spend: Spend) -> str | None:
    """One line saying which limit leaves no room for any model call, or None."""
    if budget.llm_tokens is not None and spend.llm_tokens >= budget.llm_tokens:
        return f"budget.llm_tokens: {spend.llm_tokens} of {budget.llm_tokens} spent"
    if budget.llm_usd is not None and spend.llm_usd >= budget.llm_usd:
        return f"budget.llm_usd: {spend.llm_usd:.4f} of {budget.llm_usd:.4f} spent"
    return None


def room(budget: Budget, spend: Spend, ahead: Spend) -> str | None:
    """Why a model call that may cost up to `ahead` does not fit, or None."""
    after = spend + ahead
    if budget.llm_tokens is not None and after.llm_tokens > budget.llm_tokens:
        return f"budget.llm_tokens: {spend.llm_tokens} of {budget.llm_tokens} spent, a call may take {ahead.llm_tokens}"
    if budget.llm_usd is not None and after.llm_usd > budget.llm_usd:
        return f"budget.llm_usd: {spend.llm_usd:.4f} of {budget.llm_usd:.4f} spent, a call may take {ahead.llm_usd:.4f}"
    return None
