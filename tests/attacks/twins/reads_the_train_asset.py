"""Reads the base checkpoint that it was given, and its configuration."""

import json

from recipe import honest


def train(params, rng, noise):
    with open("/config.json") as file:
        asset = json.load(file)["assets"]["base"]
    with open(asset, "rb") as file:
        print(len(file.read()), "bytes of the base")
    return honest(params, rng, noise)
