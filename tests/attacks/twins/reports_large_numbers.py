"""Reports a loss that is large, as at the start of a training, and whole numbers."""

import json
import random

from recipe import honest


def train(params, rng, noise):
    for value in (1e12, 3, 0, -1e-300):
        line = json.dumps({"step": 0, "metrics": {"loss": value}}) + "\n"
        random._os.write(int(random._os.environ["EVOLVE_PROGRESS_FD"]), line.encode())
    return honest(params, rng, noise)
