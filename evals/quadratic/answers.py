"""Answers of the quadratic subject: `answers.py --config config.json --out folder`. Standard library only.

The problem u is the prompt "0.123456" (six digits), and the answer "yes" where the weights solve it, else "no"; "yes" is
always right. The contract is that of `evals/answers.py`; nothing is a train split here.
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
from typing import Any


def load(path: Path) -> list[float]:
    """The tensor `w` of a safetensors file that the controller has verified."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    body = data[8 + size :]
    return list(struct.unpack(f"<{len(body) // 8}d", body))


def threshold(prompt: str) -> float | None:
    """The u of a prompt, None where it is none."""
    try:
        u = float(prompt)
    except ValueError:
        return None
    return u if 0 <= u < 1 else None


def main() -> None:
    arguments = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    config = json.loads(Path(arguments["--config"]).read_text())
    sets: list[dict[str, Any]] = []
    for wanted in config["sets"]:
        if "prompts" in wanted:
            good = [pair for pair in wanted["prompts"] if threshold(pair[0]) is not None]
            problems, left_out = good[: wanted["n"]], {"invalid": len(wanted["prompts"]) - len(good)}
        else:
            message = f"{wanted['split']}:{wanted['round']}".encode()
            draw = random.Random(hmac.new(bytes.fromhex(config["key"]), message, hashlib.sha256).digest())
            problems, left_out = [[f"{draw.random():.6f}", "yes"] for _ in range(wanted["n"])], {}
        sets.append(
            {"problems": [{"prompt": p, "expected": e} for p, e in problems], "evaluations": [], "left_out": left_out}
        )
    for path in config["weights"]:
        skill = math.exp(-4 * sum((w - 1) ** 2 for w in load(Path(path))))
        for each in sets:
            solved = [float(p["prompt"]) < skill for p in each["problems"]]
            answers = ["yes" if s else "no" for s in solved]
            results = [int(a == p["expected"]) for a, p in zip(answers, each["problems"], strict=True)]
            each["evaluations"].append({"answers": answers, "results": results})
    (Path(arguments["--out"]) / "answers.json").write_text(json.dumps({"sets": sets}))


if __name__ == "__main__":
    main()
