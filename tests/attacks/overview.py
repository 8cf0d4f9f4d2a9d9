"""Writes docs/attacks.md from the table: `python tests/attacks/overview.py`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from attacks.scene import ROOT, summary
from attacks.table import ATTACKS, SECTIONS, Attack
from attacks.test_edits import FORGED, HONEST, HOSTILE, VALUES
from attacks.without import DEFENCES

TARGET = ROOT / "docs" / "attacks.md"
HEAD = """# Attacks on the evaluation, and what blocks each

Written by `python tests/attacks/overview.py` from `tests/attacks/table.py`; a test keeps it current.

Each row is a real edit of the quadratic subject's editable file. It goes in by `evolve try --patch`, is checked, trained in
the sandbox and scored by the same two processes as any candidate. The test then reads the journal: what the attack tried
for must not be there. Beside each is its **honest twin**, an edit that looks like it and must be checked, trained and scored
like any other. **Without** is the same attack on the same program with a few lines changed (`tests/attacks/without.py`), so
that a defence is missing: there the test demands that the attack gets through. Where several defences are named, all of
them are taken away, and a slow test shows that each one alone is enough.

    python -m pytest -n 2 tests/attacks             # all attacks, one run of each twin
    python -m pytest -n 2 tests/attacks -m slow     # layers one by one, each twin on three further seeds, torch's part

"""


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def row(attack: Attack) -> str:
    if attack.without:
        without = "; ".join(DEFENCES[name].says for name in attack.without)
        without = f"without {without}: gets through"
    else:
        without = f"not shown: {attack.note}"
    what = attack.item.split(": ", 1)[1]
    cells = (what, f"`{attack.payload}`: {summary('payloads', attack.payload)}", f"{attack.blocked_by}.", f"{without}.",
             f"`{attack.twin}`: {summary('twins', attack.twin)}")  # fmt: skip
    return "| " + " | ".join(map(cell, cells)) + " |"


def overview() -> str:
    titles = (*SECTIONS, "not on the list")
    shown = len([a for a in ATTACKS if a.without])
    lines = [HEAD + f"{len(ATTACKS)} payloads, {shown} of them also without what blocks them;"
             f" {len({a.twin for a in ATTACKS})} honest twins.", ""]  # fmt: skip
    for title in titles:
        found = [a for a in ATTACKS if a.item.split(": ")[0] == title]
        if found:
            lines += [f"## {title}", "", "| attack | payload | what blocks it | taken away | honest twin |"]
            lines += ["|---|---|---|---|---|", *map(row, found), ""]
    lines += [
        "## Edits that are refused at the door",
        "",
        f"`tests/attacks/test_edits.py`: {len(FORGED)} patches that say one thing and do another, {len(HOSTILE)} hostile"
        f" declarations of hyperparameters, {len(VALUES)} values that are more than a value; and {len(HONEST)} honest forms of"
        " a patch, which are all queued. Refused are edits of",
        "",
        *(f"- {name}" for name in FORGED),
        "",
        "## The person, the rival, the model that reads",
        "",
        "`tests/attacks/test_person.py`: boasts in the progress reports, codes of the terminal in output, metric names,"
        " rationale and errors, instructions in the log of a failure, a pipe at the prompt, an approval of other content, a"
        " training that writes on the terminal; each also without its defence, but for the instructions.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(overview())
