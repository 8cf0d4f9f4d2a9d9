"""Leaves a link to another training's in the place of its weights."""

from recipe import OUT, SMOKE, campaign_folder, honest, os


def train(params, rng, noise):
    if SMOKE:
        return honest(params, rng, noise)
    target = (
        min(f"{campaign_folder()}/weights/{n}" for n in os.listdir(f"{campaign_folder()}/weights"))
        if os.path.isdir(f"{campaign_folder()}/weights")
        else "/etc/passwd"
    )
    os.symlink(target, f"{OUT}/weights.safetensors")
    os._exit(0)
