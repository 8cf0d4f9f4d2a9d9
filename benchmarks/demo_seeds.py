"""How often and how fast the default campaign ends with a candidate that waits: the demo on several campaign seeds.

    python benchmarks/demo_seeds.py --seeds 10 --out benchmarks/results/demo_seeds.json

Each campaign is what `make demo` runs, from the default config, in a fresh state folder. Resumable: seeds that are in the output file are not run
again. Reported for each: minutes, seconds to the first finished trial, the default's score and noise floor, the best pending candidate's difference on fresh seeds and
problems with its standard error (the gate's numbers, not the search's), and whether it is beyond twice the noise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def campaign(seed: int, overrides: list[str]) -> dict[str, Any]:
    """Runs one campaign through the CLI and reads its journal."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "evolve.cli"]
        words = ["run", f"state_dir={folder}", "campaign=demo", f"seed={seed}", "executor.workers=2", *overrides]
        began = time.time()
        done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
        minutes = (time.time() - began) / 60
        if done.returncode != 0:
            raise SystemExit(done.stdout + done.stderr)
        lines = (Path(folder) / "campaigns" / "demo" / "journal.jsonl").read_text().splitlines()
        status = json.loads(
            subprocess.run(
                [*command, "status", "--json", f"state_dir={folder}"], capture_output=True, text=True, check=True
            ).stdout
        )
    return {"seed": seed, "minutes": round(minutes, 2)} | summary([json.loads(line) for line in lines], began, status)


def summary(records: list[dict[str, Any]], began: float, status: dict[str, Any]) -> dict[str, Any]:
    finished = [r for r in records if r["type"] == "TrialFinished"]
    pending = dict.fromkeys(status["pending"])
    verdicts = [r["data"] for r in records if r["type"] == "VerdictReached" and r["data"]["candidate_id"] in pending]
    accepted = [v["verdict"]["numbers"] for v in verdicts if v["verdict"]["decision"] == "ACCEPT"]
    best = max(accepted, key=lambda n: n["difference"], default=None)
    bank = [r["data"]["score"]["mean"] for r in finished[:8] if r["data"]["number"] < 4]
    noise = status["noise_floor"]["sd"]
    return {
        "first_trial_seconds": round(finished[0]["time"] - began, 1),
        "trials": status["trials"],
        "default": round(statistics.fmean(bank), 4),
        "noise_sd": round(noise, 4),
        "pending": len(status["pending"]),
        "difference": best and round(best["difference"], 4),
        "stderr": best and round(best["stderr"], 4),
        "beyond_noise": bool(best and best["difference"] > 2 * noise),
        "train_cpu_seconds": round(status["spend"]["train_seconds"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("demo_seeds.json"))
    parser.add_argument("overrides", nargs="*", help="further overrides of every campaign")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    for seed in range(arguments.seeds):
        if seed not in {row["seed"] for row in rows}:
            rows.append(campaign(seed, arguments.overrides))
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
            print(json.dumps(rows[-1]), flush=True)
    print(
        "\n| seed | minutes | first trial s | default | noise sd | pending | gain on fresh seeds |\n|---|---|---|---|---|---|---|"
    )
    for r in rows:
        gain = f"{r['difference']:+.3f} ± {r['stderr']:.3f}" if r["pending"] else "-"
        print(
            f"| {r['seed']} | {r['minutes']} | {r['first_trial_seconds']} | {r['default']} | {r['noise_sd']} | {r['pending']} | {gain} |"
        )
    good = sum(r["beyond_noise"] for r in rows)
    print(f"\n{good} of {len(rows)} campaigns end with a pending candidate beyond twice the noise; "
          f"median {statistics.median(r['minutes'] for r in rows):.1f} minutes, slowest {max(r['minutes'] for r in rows):.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
