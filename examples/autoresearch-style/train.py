"""The one file that may be edited: a GPT trained for a fixed time. `python train.py TEXT SEED OUT SHARE` writes OUT/model.safetensors.

Everything here is fair game: optimizer, schedule, batch, order of the data, width and depth. What prepare.py says is not: the form of the
model, the time, the metric.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from prepare import CONTEXT, GPT, TIME_BUDGET, tokens
from safetensors.torch import save_file

params = json.loads(Path(os.environ["EVOLVE_CONFIG"]).read_text())["params"] if "EVOLVE_CONFIG" in os.environ else {}
LEARNING_RATE = params.get("learning_rate", 1e-3)
BATCH_SIZE = params.get("batch_size", 32)
WEIGHT_DECAY = params.get("weight_decay", 0.0)
WARMUP = params.get("warmup", 0.0)
SHAPE = {"dim": 64, "depth": 2, "heads": 4}


def main() -> None:
    text, seed, out = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    data = tokens(text)
    model = GPT(**SHAPE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    began, step = time.process_time(), 0
    budget = TIME_BUDGET * float(sys.argv[4])
    while (done := (time.process_time() - began) / budget) < 1:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, done / WARMUP if WARMUP else 1.0)
        starts = torch.randint(len(data) - CONTEXT - 1, (BATCH_SIZE,))
        rows = torch.stack([data[i : i + CONTEXT + 1] for i in starts.tolist()])
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step} loss {loss.item():.4f}", flush=True)
        step += 1
    out.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), out / "model.safetensors")
    (out / "model.json").write_text(json.dumps(SHAPE))


if __name__ == "__main__":
    main()
