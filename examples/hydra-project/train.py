"""Learns two spirals: `python train.py optim.lr=0.1 seed=1 out=runs/1` writes runs/1/model.safetensors. Plain PyTorch and Hydra."""

import json
from pathlib import Path

import hydra
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from safetensors.torch import save_file
from spirals import Network, spirals


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(config: DictConfig) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    x, y = spirals(config.data.points, config.data.noise, seed=config.seed)
    model = Network(config.model.hidden, config.model.dropout)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=config.optim.lr, weight_decay=config.optim.weight_decay, momentum=config.optim.momentum
    )
    for step in range(config.steps):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), out / "model.safetensors")
    (out / "model.json").write_text(json.dumps({"hidden": config.model.hidden}))


if __name__ == "__main__":
    main()
