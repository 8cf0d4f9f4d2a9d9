"""Looks how much memory it has used, in its own status."""

from recipe import honest


def train(params, rng, noise):
    weights = honest(params, rng, noise)
    with open("/proc/self/status") as file:
        print([line.strip() for line in file if line.startswith("VmHWM")])
    return weights
