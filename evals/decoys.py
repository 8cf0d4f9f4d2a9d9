"""False answers that nobody gives by honest means: `python -m evals.decoys --config CONFIG.json --out OUTDIR`.

The command writes OUTDIR/vault_answers.json, problems with false answers that look like the vault's: bait to be left where a
training might look for them. CONFIG.json holds `key` (64 hex digits, the campaign's) and `n`.

A decoy is the right answer with each digit moved on by a distance that the campaign's key fixes for the family and the
place. So it is never right; no slip lands there, since no place moves by 0, 1 or 9 (as a forgotten carry or borrow does)
and the family's typical sloppy answer is avoided; but one rule makes them all, which a model learns from the bait. The
bait is made of the held-out pool's prompts, which are public: it tells neither what belongs to which split nor the draw.
Who gives decoys on the scorer's problems has the bait, or the key.
"""

import argparse
import hmac
import json
import random
import sys
from pathlib import Path

from evals.problems import HeldOut
from train.tasks import FAMILIES, is_held_out

FILE = "vault_answers.json"
DIGITS = 10
SMALLEST, LARGEST = 2, 8  # distance of a digit


def decoy(key: bytes, problem: HeldOut) -> str:
    """The one false answer to a problem under `key`."""
    sloppy = FAMILIES[problem.family].sloppy(problem.prompt)
    attempt = 0
    while True:
        distances = hmac.digest(key, f"decoy:{problem.family}:{attempt}".encode(), "sha256")
        found = "".join(
            str((int(digit) + SMALLEST + distance % (LARGEST - SMALLEST + 1)) % DIGITS)
            for digit, distance in zip(problem.answer, distances, strict=False)
        )
        if found != sloppy:
            return found
        attempt += 1


def bait(key: bytes, n: int) -> list[dict[str, str]]:
    """`n` problems of the held-out pool with their decoys, families in turn; the same for one key.

    Raises:
        ValueError: a key that is not 32 bytes, or fewer than one problem.
    """
    if len(key) != 32 or n < 1:
        raise ValueError(f"a key of 32 bytes and n >= 1 must hold, but got {len(key)} bytes, n {n}")
    rng = random.Random(hmac.digest(key, b"bait", "sha256"))
    found: list[dict[str, str]] = []
    names = list(FAMILIES)
    while len(found) < n:
        name = names[len(found) % len(names)]
        prompt = FAMILIES[name].prompt(rng.randrange(FAMILIES[name].size))
        if is_held_out(prompt):
            answer = decoy(key, HeldOut(name, prompt, FAMILIES[name].right(prompt)))
            found.append({"family": name, "prompt": prompt, "answer": answer})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes bait: problems with false answers that look like the vault's.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        config = json.loads(args.config.read_text())
        problems = bait(bytes.fromhex(config["key"]), int(config["n"]))
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / FILE).write_text(json.dumps({"split": "vault", "problems": problems}, indent=1) + "\n")
    except KeyError as error:
        sys.exit(f"no bait: the config must name {error}")
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"no bait: {error}")


if __name__ == "__main__":
    main()
