"""Writes a file of its own into its scratch folder and reads it again."""

from recipe import honest


def train(params, rng, noise):
    with open("/tmp/cache.txt", "w") as file:
        file.write(repr(honest(params, rng, noise)))
    with open("/tmp/cache.txt") as file:
        return [float(word) for word in file.read().strip("[]").split(",")]
