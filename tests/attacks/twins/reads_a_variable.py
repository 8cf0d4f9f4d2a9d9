"""Reads a variable that trainings have."""

import random

from recipe import honest


def train(params, rng, noise):
    print("threads", random._os.environ.get("OMP_NUM_THREADS"))
    return honest(params, rng, noise)
