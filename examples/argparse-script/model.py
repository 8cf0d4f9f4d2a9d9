"""A bag of character trigrams through one hidden layer."""

import json
import zlib
from pathlib import Path

import torch
from torch import nn

BUCKETS, HIDDEN, CLASSES = 2048, 32, 4
ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


def load(path: Path) -> tuple[list[str], list[int]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row["text"] for row in rows], [row["label"] for row in rows]


def encode(texts: list[str]) -> torch.Tensor:
    """(batch, BUCKETS): how often each bucket of trigrams occurs."""
    counts = torch.zeros(len(texts), BUCKETS)
    for row, text in enumerate(texts):
        for i in range(len(text) - 2):
            counts[row, zlib.crc32(text[i : i + 3].encode()) % BUCKETS] += 1
    return counts


class Classifier(nn.Module):
    def __init__(self, activation: str, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(BUCKETS, HIDDEN), ACTIVATIONS[activation](), nn.Dropout(dropout), nn.Linear(HIDDEN, CLASSES)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)
