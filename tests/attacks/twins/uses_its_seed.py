"""Draws more from its own generator, which its seed has set."""

from recipe import honest


def train(params, rng, noise):
    weights = honest(params, rng, noise)
    order = list(range(4))
    rng.shuffle(order)
    return [weights[i] for i in sorted(order)]
