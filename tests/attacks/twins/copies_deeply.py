"""Copies its own objects, which uses the same protocol as a pickle."""

import copy

from recipe import honest


class Averaged:
    def __init__(self, weights):
        self.weights = weights


def train(params, rng, noise):
    return copy.deepcopy(Averaged(honest(params, rng, noise))).weights
