"""What `evolve cost` and `evolve plan` print: tables for people, plain data for programs. Part of the CLI."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from typing import Any, TypeVar

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from evolve.capacity import GIB, Capacity, Memory, Model, Point
from evolve.costs import STEPS, WHO, CampaignCosts, Prices, Reading, YearRow, waiting_text
from evolve.tracking_page import plain

T = TypeVar("T")

_WIDTH = 130  # where the output is no terminal


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], notes: Iterable[str] = ()) -> None:
    """Prints one table, its first column to the left, the others to the right, and lines below it."""
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    table = Table(
        box=box.SIMPLE_HEAD, title=Text(title), title_justify="left", pad_edge=False, show_header=any(columns)
    )
    for index, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: what a journal says draws nothing
    console.print(table)
    for note in notes:
        console.print(Text(note), soft_wrap=True)


def followed(items: Sequence[T]) -> Iterable[T]:
    """`items`, with a bar on standard error while a person waits for them at a terminal."""
    errors = Console(stderr=True)
    return track(items, "exporting", console=errors, transient=True, disable=not errors.is_terminal)


def dollars(value: float | None) -> str:
    """Thousands without cents, little things with four digits behind the point; a dash where there is none."""
    if value is None:
        return "-"
    return f"${value:,.0f}" if value >= 100 else f"${value:.2f}" if value >= 1 or value == 0 else f"${value:.4f}"


def number(value: float | None, form: str = ".1f", unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


# ---------------------------------------------------------------- evolve cost


def year_data(rows: Sequence[YearRow], reading: Reading) -> dict[str, Any]:
    return {"reading": asdict(reading), "rows": [asdict(row) for row in rows]}


def show_year(rows: Sequence[YearRow], reading: Reading) -> None:
    read = f"{reading.tokens_in_per_out:.3g} tokens read for each written, {reading.cached:.0%} of them cached"
    show(
        "A year round the clock, US dollars",
        ("model", "tokens/s", "output only", "ratio", "in the press", "with what is read"),
        [
            (
                r.name, f"{r.tokens_per_second:g}", dollars(r.output_usd), f"{r.ratio:.1f}x", r.press or "-",
                dollars(r.total_usd),
            )
            for r in rows
        ],
        (
            f"with what is read: {read} ({reading.source}); 365 days, one stream of output, no pause for reading.",
            "prices: litellm's map on this machine. In the press: rules of thumb for output at 50 tokens/s.",
        ),
    )  # fmt: skip


def campaign_data(name: str, costs: CampaignCosts, prices: Prices | None) -> dict[str, Any]:
    data = {f.name: getattr(costs, f.name) for f in fields(costs)} | {
        key: getattr(costs, key)
        for key in (
            "usd", "tokens_per_second", "usd_per_accepted", "usd_per_promoted", "prompt_minutes_per_promotion",
            "median_seconds_to_promotion", "automated", "with_a_person",
        )
    }  # fmt: skip
    counted = {"models": dict(costs.models), "steps": {step: dict(by) for step, by in costs.steps.items()}}
    return {"campaign": name, **data, **counted, "waits": waiting_text(costs, prices)}


def show_campaign(name: str, costs: CampaignCosts, prices: Prices | None) -> None:
    calls = f"{costs.calls} calls" + (
        f", {costs.calls_unsettled} of them not settled: at the most that they can cost"
        if costs.calls_unsettled
        else ""
    )
    models = ", ".join(plain(model, 60) for model in costs.models) or "no model"
    show(
        f"What {name} cost",
        ("", "", ""),
        [
            ("model", dollars(costs.model_usd), f"{models}; {calls}"),
            ("tokens in", f"{costs.tokens_in:,}", f"{costs.tokens_cached:,} of them cached"),
            ("tokens out", f"{costs.tokens_out:,}", f"{number(costs.tokens_per_second)} a second of calls"),
            ("training", dollars(costs.train_usd), f"{costs.trainings} trainings, {costs.train_seconds:.0f} CPU s"),
            ("together", dollars(costs.usd), f"{costs.wall_seconds:.0f} s of sessions"),
            ("an accepted improvement", dollars(costs.usd_per_accepted), f"{costs.accepted} by gate and vault"),
            ("a promotion", dollars(costs.usd_per_promoted), f"{costs.promoted} by a person"),
            (
                "a person's time",
                number(costs.prompt_minutes_per_promotion, ".1f", " min"),
                "a promotion, while prompts waited for a decision",
            ),
            ("proposal to promotion", number(costs.median_seconds_to_promotion, ".0f", " s"), "median"),
        ],
        (waiting_text(costs, prices),),
    )
    show(
        "Who did what",
        ("step", *WHO),
        [(step, *(str(costs.steps[step][who]) if costs.steps[step][who] else "-" for who in WHO)) for step in STEPS],
        (
            "automated: -"
            if costs.automated is None
            else f"automated: {costs.automated:.0%} of the counted steps were done by no person; each counts as one."
            f" A person took part in: {', '.join(costs.with_a_person) or 'none'}.",
        ),
    )


# ---------------------------------------------------------------- evolve plan


def capacity_data(found: Sequence[Capacity]) -> list[dict[str, Any]]:
    return [asdict(c) for c in found]


def show_capacity(points: Sequence[Point], found: Sequence[Capacity], source: str) -> None:
    rows = [
        (
            f"{c.interactivity:g}",
            f"{c.agents:,.0f}",
            f"{c.tokens_per_second_total:,.0f}",
            f"{c.tokens_per_second_megawatt:,.0f}",
            "measured" if c.measured else "interpolated",
            "not measured" if c.doubling is None else f"{c.doubling:.1f}",
        )
        for c in found
    ]
    (low, high), steep = found[0].wall, found[0].wall_elasticity
    show(
        f"Agents that the server carries ({len(points)} points: {source})",
        ("tokens/s each", "agents", "tokens/s in all", "tokens/s a MW", "", "twice as many at"),
        rows,
        (
            f"the wall: between {low:g} and {high:g} tokens/s each 1 % more speed costs {steep:.1f} % of the agents.",
            "between measured points: a straight line; outside them: nothing.",
        ),
    )


def memory_data(table: Sequence[tuple[Model, Sequence[Memory]]]) -> list[dict[str, Any]]:
    return [{"model": asdict(model), "memory": [asdict(m) | {"total": m.total} for m in row]} for model, row in table]


def show_memory(table: Sequence[tuple[Model, Sequence[Memory]]]) -> None:
    contexts = [m.context for m in table[0][1]]
    show(
        "Memory of one sequence's keys, values and states, GiB, by tokens of context",
        ("model", "weights", *(f"{c:,}" for c in contexts)),
        [(model.name, f"{row[0].weights / GIB:,.1f}", *(f"{m.cache / GIB:,.2f}" for m in row)) for model, row in table],
        (
            f"weights at {table[0][0].weight_bits:g} bits, keys and values at {table[0][0].cache_bits:g}; each further"
            " sequence takes its own cache.",
        ),
    )
