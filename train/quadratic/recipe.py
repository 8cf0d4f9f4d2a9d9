"""The editable half of the quadratic subject: how parameters become weights. Standard library only."""

from __future__ import annotations

import math
import random

DIMENSIONS = 4


def train(params: dict[str, float | int | str], rng: random.Random, noise: float) -> list[float]:
    """Returns the weights (4,): the known optimum is all ones, reached with x=0.01, y=0.5, size=32, mode='curved', z=0.25.

    A training with x * size > 4 "runs out of memory", as real ones do in a product of their parameters.
    """
    x, y, size = float(params["x"]), float(params["y"]), int(params["size"])
    if x * size > 4:
        raise MemoryError(f"x * size <= 4 must hold, but is {x * size:.2f}")
    weights = [
        1 + 0.25 * math.log10(x / 0.01),
        1 + (y - 0.5),
        1 + 0.08 * math.log2(size / 32),
        1 + (float(params["z"]) - 0.25 if params["mode"] == "curved" else 0.5),
    ]
    return [w + rng.gauss(0, noise) for w in weights]
