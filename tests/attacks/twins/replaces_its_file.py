"""Writes its file under another name first and renames it, as careful programs do."""

import random

from recipe import honest


def train(params, rng, noise):
    with open("/scratch/out/part", "w") as file:
        file.write("x")
    random._os.replace("/scratch/out/part", "/scratch/out/whole")
    return honest(params, rng, noise)
