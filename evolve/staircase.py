"""The picture of a campaign's progress, the one that people share: what was tried, what was kept, and the best kept so far.

A candidate is kept where gate and vault accepted it and no person took it back. The line climbs over the kept ones alone:
the best of everything tried would climb by luck as well, and is drawn faintly, as what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from evolve import scales
from evolve.acceptance import accepted, kept
from evolve.canvas import BLUE, GREEN, GREY, INK, RED, figure, png, text
from evolve.memory import observe
from evolve.space import changes, value_text
from evolve.state import State
from evolve.types import Parameter, Params, Promoted, Value

PROGRESS = "progress.png"
MOST_LABELS = 12
_LABEL_CHARS = 44
_MOST_BARS = 300  # error bars of discarded candidates: more would be a fog


@dataclass(frozen=True)
class Point:
    """One scored candidate: its number in the order of proposal, its mean on the search split and the error of that."""

    number: int
    candidate_id: str
    score: float
    stderr: float
    kind: str  # kept, promoted, taken back, discarded


def points(state: State) -> list[Point]:
    """The scored candidates in the order of proposal; the start config is where the kept ones begin."""
    still, ever = set(kept(state)), set(accepted(state))
    promoted = {e.candidate_id for e in state.promotions if isinstance(e, Promoted)} & still

    def kind(c: str) -> str:
        if c in promoted:
            return "promoted"
        if c in still or c == state.campaign.start.id:
            return "kept"
        return "taken back" if c in ever else "discarded"

    seen = ((number, c, observe(state, c)) for number, c in enumerate(state.entries))
    return [
        Point(number, c, o.score, o.stderr or 0.0, kind(c))
        for number, c, o in seen
        if o.state == "COMPLETE" and o.score is not None
    ]


def steps(found: Iterable[Point], sign: int, kinds: Sequence[str]) -> tuple[list[int], list[float]]:
    """The best so far of the points of these kinds: numbers, and values that only ever get better."""
    best, at, values = float("-inf"), [], []
    for point in found:
        if point.kind in kinds and sign * point.score > best:
            best = sign * point.score
            at.append(point.number)
            values.append(point.score)
    return at, values


def brief(params: Params, base: Params, space: dict[str, Parameter]) -> str:
    """What changed in a few words, the largest change first: `phases sft_grpo, learning_rate 0.0009, 2 more`."""

    parents = {parent for p in space.values() for parent in p.when}

    def size(name: str, old: Value | None, new: Value | None) -> float:
        p = space.get(name)
        if p is None or old is None or new is None:  # it came or went with the choice that it depends on
            return 0.0
        if scales.numeric(p):
            return abs(scales.unit(p, new) - scales.unit(p, old))
        return 2.0 if name in parents else 1.0

    found = changes(params, base)
    order = sorted(found, key=lambda name: -size(name, *found[name]))
    words: list[str] = []
    for name in order:
        word = f"{name} {value_text(found[name][1])}"
        if words and len(", ".join([*words, word])) > _LABEL_CHARS - 8:
            break
        words.append(word)
    more = len(found) - len(words)
    return ", ".join(words) + (f", {more} more" if more else "") if words else "no change"


# ---------------------------------------------------------------- the picture


def progress(state: State) -> bytes | None:
    """The picture; None below two scored candidates.

    The axis follows the better half of the scores, the champion and what was kept: what lies far below is drawn at the edge as a triangle,
    since one divergence would flatten all the others.
    """
    found = points(state)
    if len(found) < 2:
        return None
    sign = state.sign
    made, [axes] = figure(7.2, 4.5, dpi=120)
    climbed = [sign * p.score for p in found if p.kind in ("kept", "promoted")]
    low, high = limits([sign * p.score for p in found], [*_band(state, sign), *climbed])
    axes.set_ylim(*sorted((sign * low, sign * high)))
    last = len(state.entries) - 1
    axes.set_xlim(-0.02 * last - 0.5, 1.02 * last + 0.5)
    _draw_champion(axes, state)
    _draw_points(axes, [p for p in found if low <= sign * p.score <= high])
    _draw_lines(axes, found, sign, last)
    _draw_misfits(axes, state, [p.number for p in found if not low <= sign * p.score <= high])
    _describe(axes, state, found)
    made.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9, handletextpad=0.5, columnspacing=1.6)
    made.draw_without_rendering()  # the layout: where a point is on the picture is known from here on
    _label(axes, state, [p for p in found if low <= sign * p.score <= high])
    return png(made)


def _draw_champion(axes: Any, state: State) -> None:
    champion, floor = state.search_score(state.champion_id), state.noise_floor()
    if champion is not None and floor is not None:
        name = f"champion ± 1 sd ({floor[1]} seeds)"
        axes.axhspan(champion.mean - floor[0], champion.mean + floor[0], color=BLUE, alpha=0.13, lw=0, label=name)


def _draw_points(axes: Any, found: Sequence[Point]) -> None:
    dull = [p for p in found if p.kind == "discarded"]
    size = 5.0 if len(dull) < 150 else 3.5
    if dull:
        some = dull[:: -(-len(dull) // _MOST_BARS)]
        axes.errorbar([p.number for p in some], [p.score for p in some], [p.stderr for p in some], fmt="none",
                      ecolor=GREY, elinewidth=0.8, alpha=0.35, zorder=1)  # fmt: skip
        axes.plot([p.number for p in dull], [p.score for p in dull], "o", ms=size, color=GREY, alpha=0.6, mew=0,
                  zorder=2, label="discarded")  # fmt: skip
    looks = {
        "taken back": ("o", 7.0, "white", "accepted, taken back"),
        "kept": ("o", 8.0, GREEN, "kept by gate and vault"),
        "promoted": ("*", 15.0, GREEN, "promoted"),
    }
    for kind, (marker, ms, fill, name) in looks.items():
        those = [p for p in found if p.kind == kind]
        if not those:
            continue
        axes.errorbar([p.number for p in those], [p.score for p in those], [p.stderr for p in those], fmt=marker, ms=ms,
                      color=GREEN, mfc=fill, mec=GREEN if fill == "white" else "white", mew=1.0, ecolor=GREEN,
                      elinewidth=1.4, capsize=2.5, zorder=5)  # fmt: skip
        axes.plot([], [], marker, ms=min(ms, 11), color=GREEN, mfc=fill, label=name)  # in the legend without its bar


def _draw_lines(axes: Any, found: Sequence[Point], sign: int, last: int) -> None:
    at, values = steps(found, sign, ("kept", "promoted", "taken back", "discarded"))
    axes.step([*at, last], [*values, values[-1]], where="post", color=GREY, lw=1.0, ls=(0, (1, 2)), zorder=3,
              label="best tried (by luck too)")  # fmt: skip
    at, values = steps(found, sign, ("kept", "promoted"))
    if at:
        axes.step([*at, last], [*values, values[-1]], where="post", color=GREEN, lw=2.2, alpha=0.85, zorder=4,
                  label="best kept so far")  # fmt: skip


def _draw_misfits(axes: Any, state: State, beyond: Sequence[int]) -> None:
    sign, edge = state.sign, axes.get_xaxis_transform()  # x as it is, y as a share of the axis
    if beyond:
        axes.plot(beyond, [0.025 if sign > 0 else 0.975] * len(beyond), "v" if sign > 0 else "^", ms=5, color=GREY,
                  transform=edge, clip_on=False, label="far worse")  # fmt: skip
    failed = [number for number, c in enumerate(state.entries) if observe(state, c).state == "FAIL"]
    if failed:
        axes.plot(failed, [0.0 if sign > 0 else 1.0] * len(failed), "x", ms=5, color=RED, transform=edge, alpha=0.8,
                  clip_on=False, label="failed, no score", zorder=6)  # fmt: skip


def _describe(axes: Any, state: State, found: Sequence[Point]) -> None:
    objective = state.campaign.subject.objective
    counts = {kind: sum(p.kind == kind for p in found) for kind in ("kept", "promoted")}
    total = counts["kept"] + counts["promoted"] - 1  # the start config is no achievement
    axes.set_title(text(state.campaign.campaign, 60), loc="left", fontsize=14, fontweight="bold", color=INK, pad=24)
    said = f"{len(state.trials)} trials of {len(state.entries)} candidates, {total} kept, {counts['promoted']} promoted"
    axes.text(0, 1.025, said, transform=axes.transAxes, fontsize=10.5, color="#57606a")
    axes.set_xlabel("candidate, in the order of proposal", fontsize=10.5)
    better = "higher is better" if objective.sign > 0 else "lower is better"
    axes.set_ylabel(f"{text(objective.metric, 30)} on the search split ({better})", fontsize=9.5)
    axes.tick_params(labelsize=9.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", alpha=0.25, lw=0.6)
    axes.set_axisbelow(True)


def _band(state: State, sign: int) -> list[float]:
    champion, floor = state.search_score(state.champion_id), state.noise_floor()
    if champion is None:
        return []
    sd = floor[0] if floor else 0.0
    return [sign * champion.mean - sd, sign * champion.mean + sd]


def limits(scores: Sequence[float], shown: Sequence[float]) -> tuple[float, float]:
    """The axis for scores of which larger is better: all above, below as far again as from the median to the top; `shown`
    is in it in any case."""
    ordered = sorted(scores)
    median, top = ordered[len(ordered) // 2], max([ordered[-1], *shown])
    low = min([max(ordered[0], median - 2 * (top - median)), *shown])
    pad = 0.06 * (top - low) or abs(top) * 0.05 or 1.0
    return low - pad, top + 1.5 * pad


# ---------------------------------------------------------------- labels


def _label(axes: Any, state: State, found: Sequence[Point]) -> None:
    """The steps of the line in words, each where it covers no other; one for which there is no place has none."""
    chain = [p for p in found if p.kind in ("kept", "promoted")]
    raised, _ = steps(chain, state.sign, ("kept", "promoted"))
    candidates = [state.candidate(p.candidate_id) for p in chain]
    params = [c.params for c in candidates]
    space = {name: p for c in candidates for name, p in state.space(c).parameters.items()}
    words = {p.number: brief(new, old, space) for p, new, old in zip(chain[1:], params[1:], params, strict=False)}
    for point, new, old in zip(chain[1:], candidates[1:], candidates, strict=False):
        if new.patch != old.patch:
            more = [words[point.number]] if new.params != old.params else []
            words[point.number] = ", ".join(["edit of the harness", *more])
    if chain and chain[0].candidate_id == state.campaign.start.id:
        words[chain[0].number] = "start"
    renderer = axes.figure.canvas.get_renderer()
    room = axes.get_window_extent(renderer)
    spots = {p.number: _box(axes.transData.transform((p.number, p.score)), 7.0 if p in chain else 3.0) for p in found}
    taken = [spots[p.number] for p in chain]
    dull = [spots[p.number] for p in found if p not in chain]
    for point in sorted(chain, key=lambda p: -state.sign * p.score)[:MOST_LABELS]:
        if point.number not in words or (point.number not in raised and point.kind != "promoted"):
            continue
        # A discarded point may be covered where there is no other place, a kept one or another label never.
        for place, in_the_way in [*((p, [*taken, *dull]) for p in _places(state.sign)),
                                  *((p, taken) for p in _places(state.sign))]:  # fmt: skip
            note = place(axes, text(words[point.number], _LABEL_CHARS + 12), point)
            box = note.get_window_extent(renderer)
            fits = box.x0 >= room.x0 and box.x1 <= room.x1 and box.y0 >= room.y0 and box.y1 <= room.y1 + 4
            if fits and not any(box.overlaps(other) for other in in_the_way):
                taken.append(box)
                break
            note.remove()


def _box(place: Sequence[float], half: float) -> Any:
    from matplotlib.transforms import Bbox

    x, y = place
    return Bbox([[x - half, y - half], [x + half, y + half]])


def _places(sign: int) -> list[Callable[[Any, str, Point], Any]]:
    """Where a label may be, the best first: before the point on the empty side of the staircase, else after it."""

    def place(x: float, y: float, align: str) -> Callable[[Any, str, Point], Any]:
        def annotate(axes: Any, words: str, point: Point) -> Any:
            from matplotlib.patheffects import withStroke

            note = axes.annotate(
                words, (point.number, point.score), xytext=(x, sign * y), textcoords="offset points", ha=align,
                va="center", fontsize=9, color=INK, zorder=7,
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )  # fmt: skip
            note.set_in_layout(False)  # the layout is done
            return note

        return annotate

    before = [place(-8, y, "right") for y in (5, 16, 27)]
    after = [place(9, y, "left") for y in (-9, 9, -19)]
    return [*before[:2], after[0], *before[2:], *after[1:]]
