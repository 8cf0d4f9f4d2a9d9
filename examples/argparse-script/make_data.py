"""Writes data/{train,dev,test}.jsonl: sentences of four invented languages, of syllables with other frequencies, with noise."""

import json
import random
from pathlib import Path

SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]


def main() -> None:
    rng = random.Random(7)
    weights = [[rng.gammavariate(0.6, 1) for _ in SYLLABLES] for _ in range(4)]

    def sentence(label: int) -> str:
        other = rng.randrange(4)
        words = []
        for _ in range(rng.randint(3, 6)):
            language = label if rng.random() < 0.7 else other
            words.append("".join(rng.choices(SYLLABLES, weights[language], k=rng.randint(1, 3))))
        return " ".join(words)

    folder = Path(__file__).parent / "data"
    folder.mkdir(exist_ok=True)
    for name, count in (("train", 600), ("dev", 1000), ("test", 1000)):
        rows = [{"text": sentence(label), "label": label} for label in (rng.randrange(4) for _ in range(count))]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
