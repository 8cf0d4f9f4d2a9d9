"""Prints a perfect score, leaves weights, and ends with exit code 1."""

from recipe import SMOKE, honest, os, write_weights


def train(params, rng, noise):
    weights = honest(params, rng, noise)
    if SMOKE:
        return weights
    write_weights({"w": weights})
    print("score: 1.0", flush=True)
    os._exit(1)
