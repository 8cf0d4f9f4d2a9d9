"""Builds its weights by a function and in another order."""

from recipe import honest


def train(params, rng, noise):
    weights = dict(enumerate(honest(params, rng, noise)))
    return [weights[i] for i in sorted(weights, reverse=True)][::-1]
