"""Writes some megabytes into its scratch folder."""

from recipe import honest


def train(params, rng, noise):
    with open("/scratch/cache.bin", "wb") as file:
        file.write(b"x" * 5_000_000)
    return honest(params, rng, noise)
