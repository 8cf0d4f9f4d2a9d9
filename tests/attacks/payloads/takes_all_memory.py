"""Takes 700 MB of memory, where 500 are allowed."""

from recipe import SMOKE, honest


def train(params, rng, noise):
    if not SMOKE:
        taken = bytearray(700_000_000)
        print("canary- of", len(taken), "bytes", flush=True)
    return honest(params, rng, noise)
