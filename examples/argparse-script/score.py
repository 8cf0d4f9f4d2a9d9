"""Scores a trained classifier: `python score.py --model runs/1 --data data/test.jsonl` prints {"accuracy": ..., "n": ...}."""

import argparse
import json
from pathlib import Path

import torch
from model import Classifier, encode, load
from safetensors.torch import load_file


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    texts, labels = load(arguments.data)
    model = Classifier(json.loads((arguments.model / "model.json").read_text())["activation"])
    model.load_state_dict(load_file(arguments.model / "model.safetensors"))
    model.eval()
    with torch.no_grad():
        right = model(encode(texts)).argmax(-1) == torch.tensor(labels)
    print(json.dumps({"accuracy": right.float().mean().item(), "n": len(labels)}))


if __name__ == "__main__":
    main()
