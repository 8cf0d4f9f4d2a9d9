"""`python score.py RUN SPLIT` prints {"accuracy": ..., "n": ...} on points that no training has drawn."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from spirals import Network, spirals

SEEDS = {"search": 2**40, "gate": 2**40 + 1, "vault": 2**40 + 2}


def main() -> None:
    torch.set_num_threads(1)
    run, split = Path(sys.argv[1]), sys.argv[2]
    model = Network(json.loads((run / "model.json").read_text())["hidden"])
    model.load_state_dict(load_file(run / "model.safetensors"))
    model.eval()
    x, y = spirals(2000, 0.3, SEEDS[split])
    with torch.no_grad():
        right = model(x).argmax(1) == y
    print(json.dumps({"accuracy": right.float().mean().item(), "n": len(y)}))


if __name__ == "__main__":
    main()
