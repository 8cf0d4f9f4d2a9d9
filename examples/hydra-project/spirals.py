"""Two noisy spirals, and a network of two hidden layers."""

import math

import torch
from torch import nn


def spirals(points: int, noise: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(points, 2) and labels (points,), 0 or 1."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(points) % 2
    t = 0.5 + 2.5 * torch.rand(points, generator=draw)
    angle = math.pi * (t + y)
    x = torch.stack([t * angle.cos(), t * angle.sin()], 1) + noise * torch.randn(points, 2, generator=draw)
    return x, y


class Network(nn.Module):
    def __init__(self, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, hidden),
            nn.Tanh(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.Tanh(),
            nn.Linear(hidden, 2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)
