"""Trains a larger model than was asked for."""

import torch

from train.recipe import train as honest


def train(model, params, budget, seed, report):
    honest(model, params, budget, seed, report)
    model.helper = torch.nn.Linear(64, 64)
