"""Reads its own source file, for a hash of what was trained."""

import hashlib

from recipe import honest


def train(params, rng, noise):
    with open(__file__, "rb") as file:
        print("source", hashlib.sha256(file.read()).hexdigest())
    return honest(params, rng, noise)
