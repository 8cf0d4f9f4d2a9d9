"""The attacks that need a real model: torch's own functions, its objects and its checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e.cli import SECRET, SMALL_GATE, Evolve

from attacks.scene import HERE, ROOT, Outcome, Scene, Stage
from attacks.without import program
from evolve import campaign, sandbox

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(sandbox.find().name == "none", reason=f"no sandbox: {sandbox.find().reason}"),
]
# Each training has a twentieth of the usual budget, which the default makes a parameter of.
# The limit is that of the first short training as well, a twentieth of it: torch is slow to load on a busy machine.
PATIENT = "subject.limits.train_seconds=2400"
SHORT = "+subject.space.compute={type: float, low: 0.05, high: 1.0, default: 0.05}"
ATTACKS = ("poisons_torch", "answers_from_outside", "pickles_its_checkpoint", "adds_a_layer")
BROKEN = {
    "pickles_its_checkpoint": "Weights must be a safetensors file",
    "adds_a_layer": "Weights must have the base checkpoint's tensors alone",
}


def propose(evolve: Evolve, name: str) -> str:
    path = evolve.cwd / f"{name}.txt"
    path.write_text(
        (ROOT / "train/recipe.py").read_text() + "\n\n" + (HERE / "torch_payloads" / f"{name}.py").read_text()
    )
    evolve("try", "--campaign", "c", "--patch", str(path), "--why", name)
    return campaign.load(campaign.find(evolve.cwd / ".evolve", "c")).queue[0]


def run(folder: Path, code: Path, names: tuple[str, ...]) -> dict[str, Outcome]:
    (folder / "secret").write_text(SECRET)
    evolve = Evolve(folder, PYTHONPATH=str(code))
    evolve(
        "run", "subject=arithmetic", "tracking=none", *SMALL_GATE, SHORT, PATIENT, "campaign=c", "proposer=default",
        "budget.trials=4", "secret_file=secret", "executor.workers=2", timeout=900,
    )  # fmt: skip
    ids = {name: propose(evolve, name) for name in names}
    evolve("resume", "c", "budget.trials=40", timeout=1200)
    made = Scene(evolve)
    return {name: made.outcome(candidate) for name, candidate in ids.items()}


def test_torch_can_be_poisoned_in_its_own_process_alone(tmp_path: Path) -> None:
    found = run(tmp_path, ROOT, (*ATTACKS, "wraps_the_loss"))
    twin = found["wraps_the_loss"]
    assert not twin.check and twin.trial["state"] == "COMPLETE"
    for name in ATTACKS:
        assert not found[name].accepted and not found[name].pending
        if name in BROKEN:
            assert BROKEN[name] in found[name].error
            assert found[name].trial.get("score") is None
        else:
            assert not found[name].check, found[name].check
            # What it has trained is what any training of this seed has; nothing that it changed went with the weights.
            assert found[name].trial["weights"] == twin.trial["weights"]
            assert found[name].score == twin.score
    assert not (tmp_path / "pwned").exists()


def test_with_the_scorer_in_its_process_a_poisoned_torch_scores_what_it_likes(stage: Stage, tmp_path: Path) -> None:
    without = ("score from the scorer, not from output", "a process of its own for torch's scorer")
    found = run(tmp_path, program(tmp_path / "program", without), ("poisons_torch",))
    assert found["poisons_torch"].score == 1.0, found["poisons_torch"].error
