"""Trains a small text classifier: `python train.py --lr 0.01 --seed 1 --out runs/1` writes runs/1/model.safetensors.

Plain PyTorch and argparse; it knows nothing of evolve.
"""

import argparse
import json
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from model import Classifier, encode, load
from safetensors.torch import save_file


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("data/train.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("runs/latest"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--weight_decay", type=float, default=0.0)
    parser.add_argument("--activation", choices=["relu", "gelu", "tanh"], default="tanh")
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)
    rng = random.Random(arguments.seed)
    texts, labels = load(arguments.data)
    model = Classifier(arguments.activation, arguments.dropout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr, weight_decay=arguments.weight_decay)
    order = list(range(len(texts)))
    model.train()
    for epoch in range(arguments.epochs):
        rng.shuffle(order)
        total = 0.0
        for begin in range(0, len(order), arguments.batch_size):
            batch = order[begin : begin + arguments.batch_size]
            logits = model(encode([texts[i] for i in batch]))
            loss = F.cross_entropy(logits, torch.tensor([labels[i] for i in batch]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        print(f"epoch {epoch + 1} loss {total / len(order):.4f}", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), arguments.out / "model.safetensors")
    (arguments.out / "model.json").write_text(json.dumps({"activation": arguments.activation}))


if __name__ == "__main__":
    main()
