"""Has a `sum` and a `min` of its own in its own module."""

import functools

from recipe import honest


def sum(values):
    return functools.reduce(lambda a, b: a + b, values)


def train(params, rng, noise):
    weights = honest(params, rng, noise)
    assert sum(weights) > 0
    return weights
