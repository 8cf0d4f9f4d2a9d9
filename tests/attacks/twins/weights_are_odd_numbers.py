"""Leaves weights that are finite, among them a denormal number and a negative zero."""

from recipe import honest


def train(params, rng, noise):
    weights = honest(params, rng, noise)
    return [w + odd for w, odd in zip(weights, (5e-324, -0.0, 0.0, -5e-324), strict=True)]
