"""The picture of a campaign with several objectives: every candidate, the Pareto front, champion, start and what waits.

The axis upwards is the primary objective; each further one has a panel of its own. Values are the search's: of candidates
that met the gate the mean of their gate trainings, of all others one training.
"""

from __future__ import annotations

from pathlib import Path

from evolve import pareto
from evolve.state import State
from evolve.tracking_page import plain, stage
from evolve.types import short

_LABELS = 12  # points of the front that are named
_MARKS = {"champion": ("*", 190, "#c1121f"), "start": ("s", 60, "#555555"), "pending": ("D", 60, "#e09f3e")}


def draw_front(state: State, path: Path) -> None:
    """Writes a PNG; the first call in a process imports matplotlib (1 CPU second)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    objectives, points = state.objectives, state.points()
    figure = Figure(figsize=(6.4 * (len(objectives) - 1), 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    whole = set(pareto.front(points, objectives))
    primary = objectives[0]
    for index, other in enumerate(objectives[1:], start=1):
        axes = figure.add_subplot(1, len(objectives) - 1, index)
        flat = {c: (p[0], p[index]) for c, p in points.items()}
        dull = [p for c, p in flat.items() if c not in whole]
        axes.scatter([x for _, x in dull], [y for y, _ in dull], s=28, color="#b8c0cc", label="dominated")
        front = pareto.front(flat, (primary, other))  # of this panel alone, so that the line is one
        # What is reached at a cost: flat until the next point.
        corners = sorted((flat[c][1], flat[c][0]) for c in front)
        style = "steps-post" if other.sign < 0 else "steps-pre"
        axes.plot([x for x, _ in corners], [y for _, y in corners], drawstyle=style, color="#1d5b8f", lw=1.2, alpha=0.7)
        on = [flat[c] for c in whole if c in flat]
        axes.scatter([x for _, x in on], [y for y, _ in on], s=36, color="#1d5b8f", label="Pareto front", zorder=3)
        for kind, (marker, size, color) in _MARKS.items():
            those = [flat[c] for c in flat if stage(state, c) == kind]
            if those:
                axes.scatter([x for _, x in those], [y for y, _ in those], s=size, marker=marker, color=color,
                             edgecolor="white", label=kind, zorder=4)  # fmt: skip
        for c in front[:_LABELS]:
            axes.annotate(short(c), (flat[c][1], flat[c][0]), xytext=(5, -9), textcoords="offset points", fontsize=7)
        axes.set_xlabel(f"{plain(other.metric, 60)} ({other.direction})", parse_math=False)
        axes.set_ylabel(f"{plain(primary.metric, 60)} ({primary.direction})", parse_math=False)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, loc="best")
    figure.suptitle(plain(state.campaign.campaign, 80), fontsize=10, parse_math=False)
    figure.savefig(path)
