"""The honest twin of all: a loss of its own, a hook, a look at the collector and at the modules that are loaded."""

import gc

import torch
import torch.nn.functional as F

from train.recipe import train as honest


def scaled(*given, **more):
    return 1.0 * cross_entropy(*given, **more)


cross_entropy = F.cross_entropy


def train(model, params, budget, seed, report):
    gc.collect()
    hook = model.register_forward_hook(lambda module, given, found: None)
    F.cross_entropy = scaled
    try:
        honest(model, params, budget, seed, report)
    finally:
        F.cross_entropy = cross_entropy
        hook.remove()
    print("parameters", sum(p.numel() for p in model.parameters()), torch.get_num_threads())
