"""Wraps functions of its own module, and uses json and math as they are."""

import functools
import json
import math

from recipe import honest


@functools.wraps(honest)
def train(params, rng, noise):
    return json.loads(json.dumps([math.fsum([w]) for w in honest(params, rng, noise)]))
