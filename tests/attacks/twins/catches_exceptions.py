"""Catches an exception of its own and goes on."""

from recipe import honest


def train(params, rng, noise):
    try:
        step = 1 / (params["size"] - params["size"])
    except ZeroDivisionError as error:
        print("no step:", error)
        step = 0.0
    return [w + step for w in honest(params, rng, noise)]
