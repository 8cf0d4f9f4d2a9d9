"""Reports steps and values that break a reader: 4,000 digits, NaN, infinity, true, text, null, names that draw."""

from recipe import honest, os

VALUES = (b"NaN", b"Infinity", b"-Infinity", b"1e309", b"true", b'"1.0"', b"null", b"[1.0]", b"9" * 3000)
STEPS = (b"1" + b"0" * 3900, b"-" + b"9" * 3900, b"18446744073709551616", b"1e3", b"true", b'"1"', b"{}", b"\xff")


def train(params, rng, noise):
    pipe = int(os.environ["EVOLVE_PROGRESS_FD"])
    lines = [b'{"step": 1, "tokens": 5, "metrics": {"score": %s}}' % value for value in VALUES]
    lines += [b'{"step": %s, "tokens": %s, "metrics": {"score": 1}}' % (step, step) for step in STEPS]
    lines += [b'{"step": 1, "metrics": {"\\u001b]0;canary\\u0007\\u202e": 1}}', b"[" * 4000, b"\0" * 4000, b"x" * 70000]
    for line in lines:
        os.write(pipe, line + b"\n")
    return honest(params, rng, noise)
