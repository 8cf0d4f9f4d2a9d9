"""Takes 50 MB of memory for a while."""

from recipe import honest


def train(params, rng, noise):
    taken = bytearray(50_000_000)
    weights = honest(params, rng, noise)
    assert len(taken) == 50_000_000
    return weights
