"""Measures how long it takes."""

import time

from recipe import honest


def train(params, rng, noise):
    begun = time.perf_counter()
    weights = honest(params, rng, noise)
    print(f"{time.perf_counter() - begun:.3f} s")
    return weights
