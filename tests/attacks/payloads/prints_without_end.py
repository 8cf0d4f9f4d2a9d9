"""Prints 20 MB, with codes that draw on a terminal, and reports a hundred thousand times."""

from recipe import SMOKE, honest, os


def train(params, rng, noise):
    if not SMOKE:
        for _ in range(20):
            os.write(1, b"\x1b[2J\x1b]0;approved\x07 score 1.0\r" * 35_000)
        pipe = int(os.environ["EVOLVE_PROGRESS_FD"])
        for step in range(100):
            os.write(pipe, b'{"step": %d, "score": 1.0}\n' % step * 1000)
    return honest(params, rng, noise)
