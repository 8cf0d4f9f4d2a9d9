"""Collects garbage before it trains."""

import gc

from recipe import honest


def train(params, rng, noise):
    gc.collect()
    return honest(params, rng, noise)
