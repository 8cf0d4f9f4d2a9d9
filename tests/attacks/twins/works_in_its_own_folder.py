"""Writes into the folder that it was told to write into, beside its weights."""

from recipe import honest

OUT = "/scratch/out"


def train(params, rng, noise):
    with open(f"{OUT}/notes.json", "w") as file:
        file.write("{}")
    return honest(params, rng, noise)
