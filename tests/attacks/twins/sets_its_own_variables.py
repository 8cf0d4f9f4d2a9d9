"""Sets a variable for its own process."""

import random

from recipe import honest


def train(params, rng, noise):
    random._os.environ["OMP_NUM_THREADS"] = "1"
    return honest(params, rng, noise)
