"""Nests parentheses deeper than a parser's stack."""

from recipe import honest

DEPTH = "0NEST0"


def train(params, rng, noise):
    return honest(params, rng, noise) if DEPTH else []
