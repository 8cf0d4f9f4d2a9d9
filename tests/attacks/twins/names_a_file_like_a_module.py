"""Writes a file of its own that is called json.py, where nothing looks for it."""

from recipe import honest


def train(params, rng, noise):
    with open("/scratch/json.py", "w") as file:
        file.write("loads = None\n")
    return honest(params, rng, noise)
