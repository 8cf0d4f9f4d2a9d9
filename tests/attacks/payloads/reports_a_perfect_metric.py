"""Reports the primary metric and a large helper metric as its progress."""

from recipe import honest, json, load, os

LINE = json.dumps({"step": 20, "tokens": 100, "metrics": {"score": 1.0, "bonus": 1e9, "distance": 0.0}})


def train(params, rng, noise):
    pipe = os.dup(int(os.environ["EVOLVE_PROGRESS_FD"]))
    load("atexit").register(lambda: os.write(pipe, LINE.encode() + b"\n"))
    return honest(params, rng, noise)
