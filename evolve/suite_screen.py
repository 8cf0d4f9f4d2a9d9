"""What a reviewer sees of a proposed evaluation: the report, what approving means, the claims; its code is paged. Part of the CLI.

The code and all words of its proposer are foreign text: cleaned in `describe`, and drawn as `rich.text.Text`.
"""

from __future__ import annotations

import textwrap
from typing import Any

from rich.table import Table
from rich.text import Text

from evolve import suite
from evolve.state import State
from evolve.types import ApprovalRequest
from evolve.waiting import describe

_LABEL = 11  # columns
MEANING = (
    "From the next campaign on every training of {subject} gets {metric} beside its score: shown, and usable as a guard"
    " (`{guard}` among the subject's guards). It is never an objective, counts nowhere in this campaign, and its code stays in the sandbox. Existing"
    " metrics stay as they are. A new campaign trains its champion anew, and so measures it by version {version} of the suite."
)


def lines(state: State, request: ApprovalRequest, width: int, since: float | None = None) -> list[Table | Text]:
    """The screen's parts, from top to bottom."""
    data = describe(state, request, None, since)
    report, form = state.evals[request.candidate_id].report, state.evals[request.candidate_id].proposal.form
    assert report is not None
    head = [
        ("evaluation", Text.assemble((data["name"], "bold"), f" ({data['form']}), {data['candidate']}")),
        ("content", Text(data["content_hash"])),
        ("EVAL", Text("changes what is measured: two separate confirmations", "bold red")),
    ]
    if data["approvals_needed"] > 1:
        who = ", ".join(data["approvals"])
        said = f"{len(data['approvals'])} of {data['approvals_needed']}: {who + ' approved' if who else 'nobody yet'}"
        head.append(("approvals", Text(said, "bold")))
    hidden = data["code"].count("<U+")
    made = f"; {hidden} hidden character(s) made visible as <U+...>" if hidden else ""
    count = len(data["code"].splitlines())
    code = [("code", Text(f"{count} lines, `{suite.FUNCTIONS[form][0]}`{made}; read it with c", "bold"))]
    facts = [(label, Text(text)) for label, text in suite.facts(report).items()]
    warned = suite.cautions(report)
    facts += [("look" if i == 0 else "", Text(text, "bold yellow")) for i, text in enumerate(warned)]
    guard = f"{{metric: {data['metric']}, direction: maximize, tolerance: 0.05}}"
    values = {"subject": data["subject"], "metric": data["metric"], "guard": guard, "version": data["suite_version"]}
    meaning = MEANING.format_map(values)
    return [
        _grid(head),
        Text(),
        _grid(code),
        Text(),
        _grid(facts),
        Text(),
        _grid([("approving", Text(meaning)), ("sandbox", Text(data["sandbox"]))]),
        Text(),
        Text.assemble(("claims", "bold"), "     of its proposer, checked by nobody"),
        _claims(data["claims"], width),
    ]


def _grid(rows: list[tuple[str, Text]]) -> Table:
    grid = Table.grid(padding=0)
    grid.add_column(width=_LABEL + 1, no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in rows:
        grid.add_row(Text(label, "bold"), text)
    return grid


def _claims(claims: dict[str, Any], width: int) -> Table:
    model = f" with {claims['model']}" if claims["model"] else ""
    grid = Table.grid(padding=0)
    grid.add_column(width=2, no_wrap=True)
    grid.add_column(width=_LABEL - 2, no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in (("by", f"{claims['proposer']}{model}"), ("why", claims["rationale"] or "(nothing said)")):
        for index, line in enumerate(textwrap.wrap(text, max(20, width - _LABEL - 1))):  # each with the block's bar
            grid.add_row(Text("│", "dim"), Text(label if index == 0 else "", "dim"), Text(line))
    return grid
