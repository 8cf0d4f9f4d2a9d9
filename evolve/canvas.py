"""Figures that belong to nobody else, for the pictures: Agg without pyplot, one palette, foreign text as itself."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from evolve.tracking_page import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY, RED, GREEN, INK = "#2a6fbb", "#d9822b", "#8a8f98", "#c0392b", "#1f9254", "#22272e"


def figure(width: float, height: float, panels: int = 1, *, dpi: int = 110) -> tuple[Figure, list[Any]]:
    """A figure with pairs of axes side by side; sizes in inches."""
    import logging

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # the font cache is announced in the middle of a run
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(made)
    side_by_side = list(made.subplots(1, panels, squeeze=False)[0])
    for axes in side_by_side:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return made, side_by_side


def text(foreign: str, limit: int = 80) -> str:
    """Foreign text as itself: a pair of dollar signs would be read as a formula."""
    return plain(foreign, limit).replace("$", r"\$")


def png(made: Figure) -> bytes:
    buffer = io.BytesIO()
    made.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
