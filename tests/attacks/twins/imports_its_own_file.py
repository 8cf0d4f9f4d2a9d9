"""Imports its own module by its name."""

import recipe


def train(params, rng, noise):
    return recipe.honest(params, rng, noise)
