"""The campaign's pictures as PNG files: how the search went, which parameters mattered, the Pareto front. No MLflow, no clock.

Drawn on Agg figures of their own, without pyplot: the tracker draws in its thread. Numbers come from what proposers may
see (search split); a picture that would mislead is not drawn at all.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evolve import pareto
from evolve.memory import observe
from evolve.state import State
from evolve.study import importances
from evolve.tracking_page import plain, stage
from evolve.types import short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HISTORY, IMPORTANCES, FRONT = "history.png", "importances.png", "front.png"
_BLUE, _ORANGE, _GREY, _RED = "#2a6fbb", "#d9822b", "#8a8f98", "#c0392b"
_BARS = 15
_FRONT_LABELS = 12  # points that are named
_MARKS = {"champion": ("*", 190, _RED), "start": ("s", 60, _GREY), "pending": ("D", 60, _ORANGE)}


def draw(state: State) -> dict[str, bytes]:
    """File name -> PNG, of the pictures that there is enough for."""
    pictures = {FRONT: front(state), HISTORY: history(state), IMPORTANCES: importance_bars(state)}
    return {name: picture for name, picture in pictures.items() if picture is not None}


def history(state: State) -> bytes | None:
    """Score of each candidate by its number, the best so far, and the champion's noise band; failures as crosses.

    None below two scored candidates. The axis follows the better half of the scores and the champion: what lies far
    below is drawn at the edge as a triangle, since one divergence would flatten all the others.
    """
    seen = [observe(state, c) for c in state.entries]
    scored = [(number, o.score) for number, o in enumerate(seen) if o.score is not None and o.state == "COMPLETE"]
    if len(scored) < 2:
        return None
    objective, sign = state.campaign.subject.objective, state.sign
    figure, [axes] = _figure(3.6)
    low, high = _limits([sign * s for _, s in scored], _band(state, sign))
    inside = [(n, s) for n, s in scored if low <= sign * s <= high]
    beyond = [n for n, s in scored if not low <= sign * s <= high]
    champion, floor = state.search_score(state.champion_id), state.noise_floor()
    if champion is not None and floor is not None:
        axes.axhspan(
            champion.mean - floor[0],
            champion.mean + floor[0],
            color=_GREY,
            alpha=0.25,
            lw=0,
            label=_text(f"champion {short(state.champion_id)} ± 1 sd over {floor[1]} seeds"),
        )
    axes.plot(*zip(*inside, strict=True), "o", ms=4, color=_BLUE, label="candidate, mean over its seeds")
    best, steps = -float("inf"), []
    for number, score in scored:
        best = max(best, sign * score)
        steps.append((number, sign * best))
    axes.step(
        *zip(*steps, strict=True), where="post", color=_ORANGE, lw=1.5, label="best so far (selected, so it flatters)"
    )
    edge = axes.get_xaxis_transform()  # x as it is, y as a share of the axis
    if beyond:
        axes.plot(beyond, [0.03 if sign > 0 else 0.97] * len(beyond), "v" if sign > 0 else "^", ms=5, color=_BLUE,
                  transform=edge, clip_on=False, label="far worse, beyond the axis")  # fmt: skip
    failed = [number for number, o in enumerate(seen) if o.state == "FAIL"]
    if failed:
        axes.plot(failed, [0.0 if sign > 0 else 1.0] * len(failed), "x", ms=6, color=_RED, transform=edge,
                  clip_on=False, label="failed, no score")  # fmt: skip
    axes.set_ylim(*sorted((sign * low, sign * high)))
    axes.set_xlim(-0.5, len(seen) - 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("candidate, in the order of proposal")
    axes.set_ylabel(_text(f"{objective.metric} on the search split ({objective.direction})"))
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return _png(figure)


def _band(state: State, sign: int) -> list[float]:
    champion, floor = state.search_score(state.champion_id), state.noise_floor()
    if champion is None:
        return []
    sd = floor[0] if floor else 0.0
    return [sign * champion.mean - sd, sign * champion.mean + sd]


def _limits(scores: Sequence[float], band: Sequence[float]) -> tuple[float, float]:
    """The axis for scores of which larger is better: all above, below as far again as from the median to the top."""
    ordered = sorted(scores)
    median, top = ordered[len(ordered) // 2], max([ordered[-1], *band])
    low = min([max(ordered[0], median - 2 * (top - median)), *band])
    pad = 0.05 * (top - low) or abs(top) * 0.05 or 1.0
    return low - pad, top + pad


def importance_bars(state: State) -> bytes | None:
    """The parameters' importances as bars; None where `study.importances` has nothing to say."""
    found = importances(state)
    if found is None:
        return None
    space = state.campaign.subject.space
    rows = list(found.shares.items())[:_BARS]
    figure, [axes] = _figure(1.2 + 0.28 * len(rows))
    names = [_text(name + (" (where active)" if space[name].when else "")) for name, _ in rows]
    bars = axes.barh(range(len(rows)), [share for _, share in rows], color=_BLUE, height=0.7)
    axes.bar_label(bars, [f"{share:.0%}" for _, share in rows], padding=3, fontsize=8)
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1 * rows[0][1])
    axes.set_xticks([])
    left_out = f", {_BARS} of {len(found.shares)} parameters" if len(found.shares) > _BARS else ""
    axes.set_title(
        f"Parameter importances (PED-ANOVA{left_out}): what sets the best {found.top} of {found.n} scored candidates apart",
        fontsize=9,
        loc="left",
    )
    return _png(figure)


def front(state: State) -> bytes | None:
    """Every candidate of a campaign with several objectives, the Pareto front, champion, start and what waits.

    The axis upwards is the primary objective; each further one has a panel of its own. Values are the search's: of candidates
    that met the gate the mean of their gate trainings, of all others one training. None with one objective or no point.
    """
    objectives, points = state.objectives, state.points()
    if len(objectives) < 2 or not points:
        return None
    figure, panels = _figure(4.6, len(objectives) - 1)
    whole = set(pareto.front(points, objectives))
    primary = objectives[0]
    for index, other in enumerate(objectives[1:], start=1):
        axes = panels[index - 1]
        flat = {c: (p[0], p[index]) for c, p in points.items()}
        dull = [p for c, p in flat.items() if c not in whole]
        axes.scatter([x for _, x in dull], [y for y, _ in dull], s=28, color=_GREY, alpha=0.5, label="dominated")
        best = pareto.front(flat, (primary, other))  # of this panel alone, so that the line is one
        # What is reached at a cost: flat until the next point.
        corners = sorted((flat[c][1], flat[c][0]) for c in best)
        style = "steps-post" if other.sign < 0 else "steps-pre"
        axes.plot([x for x, _ in corners], [y for _, y in corners], drawstyle=style, color=_BLUE, lw=1.2, alpha=0.7)
        on = [flat[c] for c in whole if c in flat]
        axes.scatter([x for _, x in on], [y for y, _ in on], s=36, color=_BLUE, label="Pareto front", zorder=3)
        for kind, (marker, size, color) in _MARKS.items():
            those = [flat[c] for c in flat if stage(state, c) == kind]
            if those:
                axes.scatter([x for _, x in those], [y for y, _ in those], s=size, marker=marker, color=color,
                             edgecolor="white", label=kind, zorder=4)  # fmt: skip
        for c in best[:_FRONT_LABELS]:
            axes.annotate(short(c), (flat[c][1], flat[c][0]), xytext=(5, -9), textcoords="offset points", fontsize=7)
        axes.set_xlabel(f"{_text(other.metric)} ({other.direction})")
        axes.set_ylabel(f"{_text(primary.metric)} ({primary.direction})")
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, loc="best")
    return _png(figure)


# ---------------------------------------------------------------- matplotlib


def _figure(height: float, panels: int = 1) -> tuple[Figure, list[Any]]:
    """A figure that belongs to nobody else, with pairs of axes side by side; `height` in inches."""
    import logging

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # the font cache is announced in the middle of a run
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8 if panels == 1 else 6.4 * panels, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    side_by_side = list(figure.subplots(1, panels, squeeze=False)[0])
    for axes in side_by_side:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, side_by_side


def _text(text: str) -> str:
    """Foreign text as itself: a pair of dollar signs would be read as a formula."""
    return plain(text, 80).replace("$", r"\$")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
