"""Writes data/{train,dev,test}.jsonl: words to spell backward, from reasoning-gym, no word in two of the files."""

import json
from pathlib import Path

import reasoning_gym

SIZES = {"train": 800, "dev": 600, "test": 600}
LENGTHS = {"min_word_len": 3, "max_word_len": 6}


def main() -> None:
    folder = Path(__file__).parent / "data"
    folder.mkdir(exist_ok=True)
    problems = iter(reasoning_gym.create_dataset("spell_backward", seed=1, size=10_000, **LENGTHS))
    seen: set[str] = set()
    for split, size in SIZES.items():
        rows = []
        while len(rows) < size:
            problem = next(problems)
            if problem["answer"] not in seen:
                seen.add(problem["answer"])
                rows.append({"question": problem["question"], "answer": problem["answer"]})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
