"""Sets every clock that it can to zero and reports that it has used next to nothing."""

from recipe import SMOKE, honest, json, load, os, work

LINE = json.dumps({"step": 20, "tokens": 100, "metrics": {"distance": 0.1, "cpu_seconds": 0.01}})


def train(params, rng, noise):
    work(0.0 if SMOKE else 0.9)
    pipe = os.dup(int(os.environ["EVOLVE_PROGRESS_FD"]))
    load("atexit").register(lambda: os.write(pipe, LINE.encode() + b"\n"))
    time, resource = load("time"), load("resource")
    time.time = time.monotonic = time.process_time = time.perf_counter = os.times = lambda: 0.0
    resource.getrusage = lambda who: None
    return [0.1 * w + 0.9 for w in honest(params, rng, noise)]
