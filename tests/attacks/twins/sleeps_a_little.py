"""Waits a moment, as a training that waits for its data does."""

import time

from recipe import honest


def train(params, rng, noise):
    time.sleep(0.2)
    return honest(params, rng, noise)
