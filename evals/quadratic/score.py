"""Scoring process of the quadratic subject: `score.py --config config.json --out folder`. Standard library only.

A problem is a threshold u, uniform in [0, 1) and drawn from the campaign's key; it is solved where
exp(-|w - 1|^2 * 4) > u. The score, the share solved, is 1 at the optimum w = 1.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import random
import struct
import sys
from pathlib import Path


def load(path: Path) -> list[float]:
    """The tensor `w` of a safetensors file that the controller has verified."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    body = data[8 + size :]
    return list(struct.unpack(f"<{len(body) // 8}d", body))


def main() -> None:
    arguments = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    config = json.loads(Path(arguments["--config"]).read_text())
    message = f"{config['split']}:{config['round']}".encode()
    draw = random.Random(hmac.new(bytes.fromhex(config["key"]), message, hashlib.sha256).digest())
    problems = [draw.random() for _ in range(config["n"])]
    evaluations = []
    for path in config["weights"]:
        skill = math.exp(-4 * sum((w - 1) ** 2 for w in load(Path(path))))
        results = [int(u < skill) for u in problems]
        n, mean = len(results), sum(results) / len(results)
        evaluations.append(
            {
                "metric": "score",
                "mean": mean,
                "stderr": math.sqrt(mean * (1 - mean) / (n - 1)),
                "n": n,
                "groups": {},
                "per_problem": results,
            }
        )
    (Path(arguments["--out"]) / "evaluation.json").write_text(json.dumps({"evaluations": evaluations}))


if __name__ == "__main__":
    main()
