"""The campaign's pictures as PNG files: its progress, which parameters mattered, the Pareto front. No MLflow, no clock.

Drawn on Agg figures of their own, without pyplot: the tracker draws in its thread. Numbers come from what proposers may
see (search split); a picture that would mislead is not drawn at all. The progress is `staircase.py`'s.
"""

from __future__ import annotations

from evolve import pareto
from evolve.canvas import BLUE, GREY, ORANGE, RED, figure, png, text
from evolve.staircase import PROGRESS, progress
from evolve.state import State
from evolve.study import importances
from evolve.tracking_page import stage
from evolve.types import short

IMPORTANCES, FRONT = "importances.png", "front.png"
_BARS = 15
_FRONT_LABELS = 12  # points that are named
_MARKS = {"champion": ("*", 190, RED), "start": ("s", 60, GREY), "pending": ("D", 60, ORANGE)}


def draw(state: State) -> dict[str, bytes]:
    """File name -> PNG, of the pictures that there is enough for."""
    pictures = {PROGRESS: progress(state), FRONT: front(state), IMPORTANCES: importance_bars(state)}
    return {name: picture for name, picture in pictures.items() if picture is not None}


def importance_bars(state: State) -> bytes | None:
    """The parameters' importances as bars; None where `study.importances` has nothing to say."""
    found = importances(state)
    if found is None:
        return None
    space = state.space(state.candidate(state.incumbent_id)).parameters
    rows = list(found.shares.items())[:_BARS]
    made, [axes] = figure(8, 1.2 + 0.28 * len(rows))
    names = [text(name + (" (where active)" if space[name].when else "")) for name, _ in rows]
    bars = axes.barh(range(len(rows)), [share for _, share in rows], color=BLUE, height=0.7)
    axes.bar_label(bars, [f"{share:.0%}" for _, share in rows], padding=3, fontsize=8)
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1 * rows[0][1])
    axes.set_xticks([])
    left_out = f", {_BARS} of {len(found.shares)} parameters" if len(found.shares) > _BARS else ""
    title = f"Parameter importances (PED-ANOVA{left_out}): what sets the best {found.top} of {found.n} scored candidates apart"
    made.suptitle(title, x=0.01, ha="left", fontsize=9.5)  # of the figure: the axes begin behind the longest name
    return png(made)


def front(state: State) -> bytes | None:
    """Every candidate of a campaign with several objectives, the Pareto front, champion, start and what waits.

    The axis upwards is the primary objective; each further one has a panel of its own. Values are the search's: of candidates
    that met the gate the mean of their gate trainings, of all others one training. None with one objective or no point.
    """
    objectives, points = state.objectives, state.points()
    if len(objectives) < 2 or not points:
        return None
    made, panels = figure(8 if len(objectives) == 2 else 6.4 * (len(objectives) - 1), 4.6, len(objectives) - 1)
    whole = set(pareto.front(points, objectives))
    primary = objectives[0]
    for index, other in enumerate(objectives[1:], start=1):
        axes = panels[index - 1]
        flat = {c: (p[0], p[index]) for c, p in points.items()}
        dull = [p for c, p in flat.items() if c not in whole]
        axes.scatter([x for _, x in dull], [y for y, _ in dull], s=28, color=GREY, alpha=0.5, label="dominated")
        best = pareto.front(flat, (primary, other))  # of this panel alone, so that the line is one
        # What is reached at a cost: flat until the next point.
        corners = sorted((flat[c][1], flat[c][0]) for c in best)
        style = "steps-post" if other.sign < 0 else "steps-pre"
        axes.plot([x for x, _ in corners], [y for _, y in corners], drawstyle=style, color=BLUE, lw=1.2, alpha=0.7)
        on = [flat[c] for c in whole if c in flat]
        axes.scatter([x for _, x in on], [y for y, _ in on], s=36, color=BLUE, label="Pareto front", zorder=3)
        for kind, (marker, size, color) in _MARKS.items():
            those = [flat[c] for c in flat if stage(state, c) == kind]
            if those:
                axes.scatter([x for _, x in those], [y for y, _ in those], s=size, marker=marker, color=color,
                             edgecolor="white", label=kind, zorder=4)  # fmt: skip
        for c in best[:_FRONT_LABELS]:
            axes.annotate(short(c), (flat[c][1], flat[c][0]), xytext=(5, -9), textcoords="offset points", fontsize=7)
        axes.set_xlabel(f"{text(other.metric)} ({other.direction})")
        axes.set_ylabel(f"{text(primary.metric)} ({primary.direction})")
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, loc="best")
    return png(made)
