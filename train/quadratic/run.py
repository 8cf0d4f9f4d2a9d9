"""Training process of the quadratic subject: `run.py --config config.json --out folder`. Standard library only.

A whole campaign on it takes seconds, through the same two processes as a real one. Weights are a safetensors file
with one tensor `w`, float64, shape (4,).
"""

from __future__ import annotations

import json
import os
import random
import struct
import sys
from pathlib import Path

import recipe


def save(path: Path, weights: list[float]) -> None:
    """Writes a safetensors file: header length (u64), JSON header, little-endian data."""
    data = struct.pack(f"<{len(weights)}d", *weights)
    header = json.dumps({"w": {"dtype": "F64", "shape": [len(weights)], "data_offsets": [0, len(data)]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def main() -> None:
    arguments = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    config = json.loads(Path(arguments["--config"]).read_text())
    weights = recipe.train(config["params"], random.Random(config["seed"]), float(config["model"]["noise"]))
    distance = max(abs(w - 1) for w in weights)
    with os.fdopen(int(os.environ["EVOLVE_PROGRESS_FD"]), "w") as progress:
        for step in range(1, 21):  # as if the way there led straight from a distance of 1 more
            metrics = {"distance": distance + 1 - step / 20}
            progress.write(json.dumps({"step": step, "tokens": 5 * step, "metrics": metrics}) + "\n")
    save(Path(arguments["--out"]) / "weights.safetensors", weights)


if __name__ == "__main__":
    main()
