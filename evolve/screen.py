"""What a reviewer sees: the screen of one candidate, and the pages of its patch. Part of the CLI.

Everything is taken from `waiting.describe`, whose foreign text is clean, and drawn as `rich.text.Text`, which reads no markup.
Colour only on a terminal (and not where NO_COLOR is set); the plain text says the same.
"""

from __future__ import annotations

import io
import sys
import textwrap
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from rich.cells import chop_cells
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from evolve import suite_screen
from evolve.show import score_text, spend_text
from evolve.space import value_text
from evolve.state import State
from evolve.tracking_page import plain
from evolve.types import ApprovalRequest, Objective, short
from evolve.waiting import describe, interval_text, visible

_LABEL = 11  # columns
_WIDEST = 110  # longer lines are hard to read
_PLAIN_WIDTH = 120
_TALL = 20  # parameters shown one a line

Row = tuple[str, list[Text]]


def console(width: int | None = None) -> Console:
    """Of standard output, as wide as the terminal but not wider than is good to read."""
    made = Console(highlight=False, file=sys.stdout)
    made.width = width or (min(made.width, _WIDEST) if sys.stdout.isatty() else _PLAIN_WIDTH)
    return made


def candidate_text(state: State, request: ApprovalRequest, link: str | None, width: int = _PLAIN_WIDTH) -> str:
    """The screen as plain text."""
    out = Console(file=io.StringIO(), width=width, highlight=False, color_system=None)
    _draw(out, state, request, link, None)
    assert isinstance(out.file, io.StringIO)
    return "\n".join(line.rstrip() for line in out.file.getvalue().splitlines())


def show(
    state: State,
    request: ApprovalRequest,
    link: str | None,
    *,
    heading: str,
    since: float | None = None,
    now: float = 0.0,
) -> None:
    """Prints the screen under a line with `heading` and how long the candidate has waited."""
    out = console()
    waited = "" if since is None or now < since else f", for {_duration(now - since)}"
    out.print()
    out.print(Rule(Text(f"{heading}{waited}"), align="left", style="dim", characters="─"))
    if request.kind == "eval":
        out.print()
        for part in suite_screen.lines(state, request, out.width, since):
            out.print(part)
        return
    _draw(out, state, request, link, since)


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return (
        f"{minutes:.0f} min"
        if minutes < 100
        else f"{minutes / 60:.0f} h"
        if minutes < 72 * 60
        else f"{minutes / 1440:.0f} days"
    )


def _draw(out: Console, state: State, request: ApprovalRequest, link: str | None, since: float | None) -> None:
    data = describe(state, request, link, since)
    for group in (_identity(data), _what_changes(data), _evidence(state, request, data), _facts(state, request, data)):
        grid = Table.grid(padding=0)
        grid.add_column(width=_LABEL, no_wrap=True)
        grid.add_column(overflow="fold")
        for label, lines in group:
            for index, line in enumerate(lines):
                grid.add_row(Text(label if index == 0 else "", "bold"), line)
        out.print()
        out.print(grid)
    out.print()
    for block in _claims(data, out.width):
        out.print(block)
    if link:
        out.print()
        out.print(Text(f"mlflow     {link}", "dim"), soft_wrap=True)  # one piece, so that it can be clicked


def _identity(data: dict[str, Any]) -> list[Row]:
    rows: list[Row] = [
        ("candidate", [Text(data["candidate"])]),
        ("content", [Text(data["content_hash"])]),
    ]
    if data["stale"]:
        now = short(data["champion_now"])
        text = f"judged against {short(data['champion'])}, but the champion is {now} by now: it cannot be approved before its evidence is renewed"  # fmt: skip
        rows.append(("STALE", [Text(text, "bold red")]))
    if data["approvals_needed"] > 1:
        who = ", ".join(data["approvals"])
        said = f"{len(data['approvals'])} of {data['approvals_needed']}: {who + ' approved' if who else 'nobody yet'}"
        rows.append(("approvals", [Text(said, "bold")]))
    return rows


def _what_changes(data: dict[str, Any]) -> list[Row]:
    lines = [Text(f"against the champion {short(data['champion'])}")]
    changed = [(k, value_text(v["champion"]), value_text(v["candidate"])) for k, v in data["parameters"].items()]
    width = max((len(name) for name, _, _ in changed), default=0)
    for name, before, after in changed[:_TALL]:
        lines.append(Text.assemble(f"{name:<{width}}  {before} -> ", (after, "bold")))
    if len(changed) > _TALL:
        lines.append(
            Text(
                f"and {len(changed) - _TALL} more: `evolve compare {short(data['champion'])} {short(data['candidate'])}`"
            )
        )
    if not changed:
        lines.append(Text("no parameter"))
    rows: list[Row] = [("changes", lines)]
    if data["patch"] is not None:
        rows.append(("patch", [Text(_patch_summary(data["patch"]), "bold")]))
    return rows


def _patch_summary(patch: str) -> str:
    """Of a visible patch."""
    lines = patch.splitlines()
    files = [line.removeprefix("+++ ").removeprefix("b/") for line in lines if line.startswith("+++ ")]
    added = sum(line.startswith("+") and not line.startswith("+++ ") for line in lines)
    removed = sum(line.startswith("-") and not line.startswith("--- ") for line in lines)
    hidden = patch.count("<U+")
    made = f"; {hidden} hidden character(s) made visible as <U+...>" if hidden else ""
    return f"+{added} -{removed} lines in {', '.join(plain(f, 80) for f in files) or 'no file'}{made}; read it with d"


def _evidence(state: State, request: ApprovalRequest, data: dict[str, Any]) -> list[Row]:
    rules, subject = state.campaign.rules.gate, state.campaign.subject
    numbers = data["verdict"]["numbers"] if data["verdict"] else {}
    rows: list[Row] = []
    if "n" in numbers:
        fresh = "fresh problems" if subject.fresh_problems else "the same held-out problems"
        corrected = "; corrected for selection" if data["interval"] else ""
        shown = _found(subject.objective, numbers) if subject.secondary else ""
        lines = [
            Text(data["interval_text"], "bold green" if data["interval"] else "bold yellow"),
            Text(
                f"{data['metric']} {numbers['challenger_mean']:.4f}, champion {numbers['champion_mean']:.4f}"
                f" ({data['direction']}){shown}{corrected}"
            ),
            Text(f"{numbers['n']:.0f} fresh seeds against {numbers['m']:.0f} of the champion, {fresh}"),
        ]
        for o in subject.secondary:
            name = o.metric
            means = f"{numbers[f'{name}.challenger_mean']:.4g}, champion {numbers[f'{name}.champion_mean']:.4g}"
            lines.append(Text(f"{name} ({o.direction}){_found(o, numbers)}"))
            lines.append(Text(f"{means}: {interval_text(numbers, rules, f'{name}.')}"))
        rows.append(("gain", lines))
    vault = data["vault"]
    answer = Text("yes" if vault["passed"] else "no", "bold green" if vault["passed"] else "bold red")
    if vault["passed"]:
        where = "unused problems" if subject.fresh_problems else "the vault's problems"
        where = "the search's own problems" if vault["unconfirmed"] else where
        answer.append(f", there again on a new seed and {where}", "not bold default")
    answer.append(f" ({vault['queries']} of {vault['allowed']} asked)", "not bold default")
    rows.append(("vault", [answer, *([Text(vault["unconfirmed"], "bold red")] if vault["unconfirmed"] else [])]))
    rows.append(("gate", [Text(data["gate"])]))
    rows.append(("promise", [Text(data["promise"])]))
    if guards := [g for g in data["guards"] if g["name"] != "train_seconds"]:
        width = max(len(g["name"]) for g in guards)
        rows.append(("guards", [_guard(g, width) for g in guards]))
    if subject.secondary:
        rows += [("trainings", [_point(state, o, request)]) for o in state.objectives]
    return rows


def _guard(g: dict[str, Any], width: int) -> Text:
    text = Text.assemble(
        f"{g['name']:<{width}}  ",
        ("holds" if g["holds"] else "BROKEN", "green" if g["holds"] else "bold red"),
        f"  {g['challenger']:.4g}, champion {g['champion']:.4g}; may be worse by {g['margin']:.3g}",
    )
    return text


def _found(objective: Objective, numbers: dict[str, float]) -> str:
    """What was shown of an objective, where one gain may be paid for with a loss within the tolerance."""
    name = objective.metric
    within = "within the tolerance" if numbers[f"{name}.not_worse"] else "neither better nor within the tolerance"
    return f"; shown: {'better' if numbers[f'{name}.better'] else within} ({numbers[f'{name}.margin']:.4g})"


def _point(state: State, objective: Objective, request: ApprovalRequest) -> Text:
    """Candidate and champion on one objective: mean, sd over trainings where there are two, and how many."""

    def text(candidate_id: str) -> str:
        values = state.samples(candidate_id, objective)
        if not values:
            return "not known on this hardware"
        spread = f" (sd {stdev(values):.2g}, n {len(values)})" if len(values) > 1 else " (n 1)"
        return f"{fmean(values):.4g}{spread}"

    return Text(f"{objective.metric} {text(request.candidate_id)}, champion {text(request.champion_id)}")


def _facts(state: State, request: ApprovalRequest, data: dict[str, Any]) -> list[Row]:
    cost = data["cost"]
    tokens = f", {cost['llm_tokens']} tokens (${cost['llm_usd']:.4f})" if cost["llm_tokens"] else ""
    spent = f"{cost['trainings']} trainings, {cost['train_seconds']:.0f} CPU s{tokens}"
    search, champion = state.search_score(request.candidate_id), state.search_score(request.champion_id)
    return [
        ("compute", [Text(_compute(state, data))]),
        ("integrity", [Text(data["integrity"]), *_findings(data)]),
        (
            "search",
            [Text(f"{score_text(search)}, champion {score_text(champion)} (selected by it: flatters)")],
        ),
        ("cost", [Text(f"{spent} (campaign: {cost['campaign_trainings']} trainings, {spend_text(state)})")]),
    ]


def _findings(data: dict[str, Any]) -> list[Text]:
    """What a reviewer should look at, of what was seen of edited code."""
    report = data["integrity_report"]
    return [Text(f"! {line}", "bold yellow") for line in report["findings"]] if report else []


def _compute(state: State, data: dict[str, Any]) -> str:
    found = data["compute"]
    if found is None:
        return "measured on other hardware"
    mine, theirs = found["challenger"], found["champion"]
    used = f"{mine:.2f} CPU s a training, champion {theirs:.2f}" + (f" ({mine / theirs:.2f}x)" if theirs else "")
    if any(o.metric == "train_seconds" for o in state.objectives):
        return used
    limits = state.campaign.subject.limits
    slack = f" and {limits.compute_slack_seconds:g} s" if limits.compute_slack_seconds else ""
    return f"{used}; limit {limits.compute_ratio:g}x{slack}"


def _claims(data: dict[str, Any], width: int) -> list[Table | Text]:
    """Who proposed it and why: one block below the facts, which nothing in it can leave."""
    claims = data["claims"]
    model = f" with {claims['model']}" if claims["model"] else ""
    rows = [("by", f"{claims['proposer']}{model}"), ("why", claims["rationale"] or "(nothing said)")]
    rows += [("chosen", claims["chosen"])] if claims["chosen"] else []
    for parent in data["lineage"]:
        rejected = f", which a person rejected: {parent['rejected_because']}" if parent["stage"] == "declined" else ""
        rows.append(("parent", f"{short(parent['id'])} ({parent['stage']}){rejected}"))
    grid = Table.grid(padding=0)
    grid.add_column(width=2, no_wrap=True)
    grid.add_column(width=_LABEL - 2, no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in rows:
        for index, line in enumerate(textwrap.wrap(text, max(20, width - _LABEL - 1))):  # each with the block's bar
            grid.add_row(Text("│", "dim"), Text(label if index == 0 else "", "dim"), Text(line))
    return [Text.assemble(("claims", "bold"), "     of its proposer, checked by nobody"), grid]


# ---------------------------------------------------------------- the patch


def patch_pages(patch: str, width: int, height: int) -> list[list[Text]]:
    """A patch in pages of `height` lines, none wider than `width` cells: what is long goes on in the next line, nothing is cut.

    Characters that do not show are `<U+202E>` and the like, in reverse.
    """
    lines: list[Text] = []
    for line in visible(patch).split("\n"):
        style = _line_style(line)
        for piece in chop_cells(line, max(10, width)) or [""]:
            text = Text(piece, style)
            text.highlight_regex(r"<U\+[0-9A-F]{4,6}>", "reverse bold red")
            lines.append(text)
    height = max(1, height)
    return [lines[i : i + height] for i in range(0, len(lines), height)]


def _line_style(line: str) -> str:
    if line.startswith(("+++ ", "--- ", "diff ")):
        return "bold"
    return {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")


def show_page(page: Sequence[Text]) -> None:
    out = Console(highlight=False, file=sys.stdout)
    for line in page:
        out.print(line, soft_wrap=True)
