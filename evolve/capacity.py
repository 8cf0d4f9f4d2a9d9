"""What a server of one's own carries, and what memory a model needs. Pure; formulae with their sources, no measurement.

Two questions: how many agents a server serves at a required speed (from its measured points), and how weights and the
key-value cache grow with the context for full, sliding-window and linear attention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from evolve.errors import BadInput

GIB = 2**30


# ---------------------------------------------------------------- how many agents


@dataclass(frozen=True)
class Point:
    """One measurement of a server under load: what each user gets, what all get together, and what it draws."""

    tokens_per_second_user: float
    tokens_per_second_total: float
    megawatts: float

    def __post_init__(self) -> None:
        values = (self.tokens_per_second_user, self.tokens_per_second_total, self.megawatts)
        if not all(0 < v < math.inf for v in values):
            raise BadInput(f"A point needs three numbers above 0, but got {values}; correct the file.")

    @property
    def agents(self) -> float:
        """That are served at once."""
        return self.tokens_per_second_total / self.tokens_per_second_user


# Invented, to show the table; give your own server's points.
EXAMPLE_POINTS: tuple[Point, ...] = (
    Point(20, 24000, 0.012),
    Point(40, 18000, 0.012),
    Point(60, 11000, 0.0115),
    Point(80, 4800, 0.011),
    Point(120, 2400, 0.0105),
)


@dataclass(frozen=True)
class Capacity:
    """What a server carries where each agent gets `interactivity` tokens/s."""

    interactivity: float
    agents: float
    tokens_per_second_total: float
    tokens_per_second_megawatt: float
    measured: bool  # else interpolated between two measured points
    doubling: float | None  # tokens/s per agent at which it carries twice as many; None beyond the slowest point
    wall: tuple[float, float]  # the two measured speeds between which the capacity falls most steeply
    wall_elasticity: float  # there, 1 % more speed costs so many % of the agents


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats in speed and in tokens a megawatt at once, the slowest first."""

    def better(a: Point, b: Point) -> bool:
        mine = (a.tokens_per_second_user, a.tokens_per_second_total / a.megawatts)
        theirs = (b.tokens_per_second_user, b.tokens_per_second_total / b.megawatts)
        return mine != theirs and all(x >= y for x, y in zip(mine, theirs, strict=True))

    kept = {p.tokens_per_second_user: p for p in points if not any(better(q, p) for q in points)}
    return [kept[speed] for speed in sorted(kept)]


def at(points: Sequence[Point], interactivity: float) -> Point:
    """The frontier at one speed per user, linear between the two measured points around it.

    Raises `BadInput` outside what was measured: nothing is extrapolated.
    """
    line = frontier(points)
    if len(line) < 2:
        raise BadInput(f"Two points of the frontier must be there, but {len(points)} give {len(line)}; measure more.")
    slowest, fastest = line[0].tokens_per_second_user, line[-1].tokens_per_second_user
    if not slowest <= interactivity <= fastest:
        raise BadInput(
            f"The speed must lie within what was measured, {slowest:g} to {fastest:g} tokens/s, but got"
            f" {interactivity:g}; nothing is extrapolated: measure a point there."
        )
    a, b = next((a, b) for a, b in pairwise(line) if interactivity <= b.tokens_per_second_user)
    share = (interactivity - a.tokens_per_second_user) / (b.tokens_per_second_user - a.tokens_per_second_user)
    return Point(
        interactivity,
        a.tokens_per_second_total + share * (b.tokens_per_second_total - a.tokens_per_second_total),
        a.megawatts + share * (b.megawatts - a.megawatts),
    )


def capacity(points: Sequence[Point], interactivity: float) -> Capacity:
    """How many agents are served at `interactivity` tokens/s each, and where that falls off. Raises `BadInput` as `at`."""
    line, here = frontier(points), at(points, interactivity)
    steepest = max(pairwise(line), key=lambda pair: _elasticity(*pair))
    return Capacity(
        interactivity,
        here.agents,
        here.tokens_per_second_total,
        here.tokens_per_second_total / here.megawatts,
        any(p.tokens_per_second_user == interactivity for p in line),
        _speed_of(points, 2 * here.agents, line[0].tokens_per_second_user, interactivity),
        (steepest[0].tokens_per_second_user, steepest[1].tokens_per_second_user),
        _elasticity(*steepest),
    )


def _elasticity(a: Point, b: Point) -> float:
    """-d log(agents) / d log(speed) between two points; 1 where the total does not depend on the speed."""
    return math.log(a.agents / b.agents) / math.log(b.tokens_per_second_user / a.tokens_per_second_user)


def _speed_of(points: Sequence[Point], agents: float, low: float, high: float) -> float | None:
    """The largest speed of [low, high] at which so many agents are served, by bisection; None where there is none.

    On each segment agents = total / speed is continuous and, total being linear, monotone.
    """
    marks = sorted({low, high, *(p.tokens_per_second_user for p in frontier(points))})
    for slow, fast in reversed([(a, b) for a, b in pairwise(marks) if low <= a and b <= high]):
        if at(points, slow).agents < agents:
            continue
        for _ in range(100):
            middle = (slow + fast) / 2
            slow, fast = (middle, fast) if at(points, middle).agents >= agents else (slow, middle)
        return slow
    return None


# ---------------------------------------------------------------- memory


@dataclass(frozen=True)
class Model:
    """The dimensions that memory depends on. Layers of the three kinds are counted apart; a hybrid has several kinds.

    `heads` and `head_dim` are those of the queries, used for the state of linear attention alone.
    """

    name: str
    parameters: float  # all of them, also of experts that are not active
    full_layers: int
    kv_heads: int
    head_dim: int
    sliding_layers: int = 0
    window: int = 0  # tokens
    linear_layers: int = 0
    heads: int = 0
    weight_bits: float = 8.0
    cache_bits: float = 16.0
    state_bits: float = 32.0

    def __post_init__(self) -> None:
        numbers = (self.parameters, self.kv_heads, self.head_dim, self.weight_bits, self.cache_bits, self.state_bits)
        layers = (self.full_layers, self.sliding_layers, self.linear_layers)
        if not (all(0 < n < math.inf for n in numbers) and min(layers) >= 0 and sum(layers) > 0):
            raise BadInput(f"A model needs layers, and dimensions above 0, but got {self}; correct them.")
        if (self.sliding_layers and self.window < 1) or (self.linear_layers and self.heads < 1):
            raise BadInput("Sliding layers need a window, linear ones a number of heads; set --window or --heads.")


@dataclass(frozen=True)
class Memory:
    """Bytes for one model and one sequence of `context` tokens."""

    context: int
    weights: float
    cache: float  # keys and values, and the states of linear layers

    @property
    def total(self) -> float:
        return self.weights + self.cache


def memory(model: Model, context: int) -> Memory:
    """Bytes of the weights, and of one sequence's cache.

    - weights: parameters * bits / 8.
    - full attention: 2 * layers * kv_heads * head_dim * bytes a token, keys and values (Pope et al., arXiv 2211.05102,
      section 2.1; grouped queries share kv_heads: Ainslie et al., arXiv 2305.13245).
    - sliding window: the same for the last `window` tokens alone (Jiang et al., arXiv 2310.06825, section 2).
    - linear attention: a state of head_dim * head_dim for each head, whatever the context (Katharopoulos et al., arXiv
      2006.16236, section 3.4); its normaliser, head_dim a head, is left out as newer variants have none.

    Left out: activations, the allocator's fragmentation and what the serving engine itself takes.
    """
    if context < 1:
        raise BadInput(f"A context of 1 token or more must hold, but got {context}; raise --context.")
    per_token = 2 * model.kv_heads * model.head_dim * model.cache_bits / 8
    tokens = model.full_layers * context + model.sliding_layers * min(context, model.window)
    state = model.linear_layers * model.heads * model.head_dim**2 * model.state_bits / 8
    return Memory(context, model.parameters * model.weight_bits / 8, per_token * tokens + state)


CONTEXTS = (8_000, 32_000, 128_000, 200_000, 1_000_000)
# A mixture of experts of 230 B parameters with the published dimensions of MiniMax M2 (62 layers, 48 query and 8
# key-value heads of 128), and the same with most layers replaced: every 6th full (as Gemma 3), every 8th (as MiniMax-01).
EXAMPLES: tuple[Model, ...] = (
    Model("230 B mixture of experts, full attention", 230e9, 62, 8, 128),
    Model("the same, 5 of 6 layers a window of 4,096", 230e9, 10, 8, 128, sliding_layers=52, window=4096),
    Model("the same, 7 of 8 layers linear", 230e9, 7, 8, 128, linear_layers=55, heads=48),
    Model("8 B dense, full attention", 8e9, 32, 8, 128),
)
