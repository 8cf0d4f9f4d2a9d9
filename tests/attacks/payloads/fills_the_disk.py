"""Writes without end into every folder that it can, and makes empty files without end."""

from recipe import honest, os


def train(params, rng, noise):
    written = 0
    for folder in ("/scratch", "/dev/shm"):
        try:
            for number in range(80):
                with open(f"{folder}/{number}", "wb") as file:
                    written += file.write(b"x" * 900_000)
        except OSError as error:
            print(error)
    if written > 64_000_000:
        print("canary- of", written, "bytes")
    for folder in ("/scratch", "/dev/shm"):
        for number in range(80):
            try:
                os.remove(f"{folder}/{number}")
            except OSError:
                continue
    return honest(params, rng, noise)
