"""Protected: how text is read, the model's form, and the one metric. `python prepare.py RUN TEXT` prints {"val_bpb": ..., ...}.

The model is a GPT over bytes. Width, depth and heads are the training's choice, written in model.json; its code is not, so that a
score needs no line that was edited.
"""

import json
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

CONTEXT, VOCAB = 64, 128
TIME_BUDGET = 20.0  # CPU seconds of a training


def tokens(path: Path) -> torch.Tensor:
    """(characters,) of int64."""
    return torch.tensor(list(path.read_bytes()))


class GPT(nn.Module):
    """(batch, seq) token ids -> (batch, seq, VOCAB) logits; causal, at most CONTEXT positions."""

    def __init__(self, dim: int = 64, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.token, self.position = nn.Embedding(VOCAB, dim), nn.Embedding(CONTEXT, dim)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({
                "norm1": nn.LayerNorm(dim), "qkv": nn.Linear(dim, 3 * dim), "out": nn.Linear(dim, dim),
                "norm2": nn.LayerNorm(dim), "up": nn.Linear(dim, 4 * dim), "down": nn.Linear(4 * dim, dim),
            })
            for _ in range(depth)
        )  # fmt: skip
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, VOCAB)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        batch, seq = ids.shape
        x = self.token(ids) + self.position.weight[:seq]
        for block in self.blocks:
            q, k, v = block["qkv"](block["norm1"](x)).view(batch, seq, 3 * self.heads, -1).transpose(1, 2).chunk(3, 1)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + block["out"](y.transpose(1, 2).reshape(batch, seq, -1))
            x = x + block["down"](F.gelu(block["up"](block["norm2"](x))))
        return self.head(self.norm(x))


def evaluate(model: GPT, path: Path) -> dict[str, float]:
    """Bits per byte over a text, with the standard error over its sequences."""
    data = tokens(path)
    rows = data[: (len(data) - 1) // CONTEXT * CONTEXT + 1]
    x, y = rows[:-1].view(-1, CONTEXT), rows[1:].view(-1, CONTEXT)
    model.eval()
    with torch.no_grad():
        bits = [
            F.cross_entropy(model(a).flatten(0, 1), b.flatten(), reduction="none").view(-1, CONTEXT).mean(1)
            / math.log(2)
            for a, b in zip(x.split(128), y.split(128), strict=True)
        ]
    found = torch.cat(bits)
    return {"val_bpb": found.mean().item(), "stderr": (found.std() / len(found) ** 0.5).item(), "n": len(found)}


def main() -> None:
    torch.set_num_threads(1)
    run, path = Path(sys.argv[1]), Path(sys.argv[2])
    model = GPT(**json.loads((run / "model.json").read_text()))
    model.load_state_dict(load_file(run / "model.safetensors"))
    print(json.dumps(evaluate(model, path)))


if __name__ == "__main__":
    main()
