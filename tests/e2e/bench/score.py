"""A scorer that misbehaves where the weights spell a fault, see `train.py`; else the quadratic one."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import score as quadratic

GOOD = {"metric": "score", "mean": 0.5, "stderr": 0.1, "n": 10, "groups": {}}
ANSWERS = {
    "nan_": {**GOOD, "mean": float("nan")},
    "infi": {**GOOD, "mean": float("inf")},
    "metr": {**GOOD, "metric": "accuracy"},
    "bool": {**GOOD, "mean": True},
    "text": {**GOOD, "mean": "0.9"},
    "nega": {**GOOD, "stderr": -0.1},
    "zero": {**GOOD, "n": 0},
    "keys": {"metric": "score"},
}


def main() -> None:
    arguments = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    config = json.loads(Path(arguments["--config"]).read_text())
    weights = [w for path in config["weights"] for w in quadratic.load(Path(path))]
    fault = "".join(chr(int(w - 1000)) for w in weights if w > 1000)
    target = Path(arguments["--out"]) / "evaluation.json"
    if fault == "cras":
        raise RuntimeError("the scorer exploded")
    if fault == "hang":
        time.sleep(60)
    if fault == "none":
        return
    if fault == "half":
        target.write_text(json.dumps({"evaluations": [GOOD]})[:20])
    elif fault == "link":
        target.symlink_to(os.devnull)
    elif fault in ANSWERS:
        target.write_text(json.dumps({"evaluations": [ANSWERS[fault]] * len(config["weights"])}))
    else:
        quadratic.main()


if __name__ == "__main__":
    main()
