"""Shuffles by its own generator, as a training on shuffled data does."""

from recipe import honest


def train(params, rng, noise):
    weights = list(enumerate(honest(params, rng, noise)))
    rng.shuffle(weights)
    return [weight for _, weight in sorted(weights)]
