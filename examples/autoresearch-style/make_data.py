"""Writes data/{train,search,vault}.txt: sentences of a small random grammar. Not among the subject's sources: whoever edits
train.py does not see how the held-out texts were made."""

import random
from pathlib import Path

SEEDS = {"train": 1, "search": 2, "vault": 3}
CHARACTERS = {"train": 200_000, "search": 20_000, "vault": 20_000}


def text(split: str) -> str:
    """Subject, verb, object, with clauses: enough structure that a better model is a better model."""
    rng = random.Random(0)
    words = {
        kind: [
            "".join(rng.choice("bdfgklmnprst") + rng.choice("aeiou") for _ in range(rng.randint(1, 3)))
            for _ in range(count)
        ]
        for kind, count in (("noun", 60), ("verb", 30), ("adjective", 20))
    }
    likes = {noun: rng.sample(words["verb"], 3) for noun in words["noun"]}
    draw = random.Random(SEEDS[split])

    def phrase() -> tuple[str, str]:
        noun = draw.choice(words["noun"])
        return (f"the {draw.choice(words['adjective'])} {noun}" if draw.random() < 0.4 else f"the {noun}"), noun

    made, total = [], 0
    while total < CHARACTERS[split]:
        subject, noun = phrase()
        clause = f" that {draw.choice(likes[noun])}s {phrase()[0]}" if draw.random() < 0.3 else ""
        made.append(f"{subject}{clause} {draw.choice(likes[noun])}s {phrase()[0]}. ")
        total += len(made[-1])
    return "".join(made)[: CHARACTERS[split]]


if __name__ == "__main__":
    folder = Path(__file__).parent / "data"
    folder.mkdir(exist_ok=True)
    for split in SEEDS:
        (folder / f"{split}.txt").write_text(text(split))
