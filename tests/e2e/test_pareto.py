"""A campaign with two objectives through the real command, with processes whose seconds the kernel counts."""

from __future__ import annotations

from .cli import QUADRATIC, Evolve

OBJECTIVES = (
    "subject.objective=[{metric: score, direction: maximize, tolerance: 0.05},"
    " {metric: train_seconds, direction: minimize, relative_tolerance: 0.3}]"
)
GENETIC = (
    "proposer=optuna",
    "proposer.sampler._target_=optuna.samplers.NSGAIISampler",
    "+proposer.sampler.population_size=8",
)


def test_score_against_seconds_runs_from_the_command_line_and_shows_its_front(evolve: Evolve) -> None:
    plan = evolve("run", "--dry-run", *QUADRATIC, OBJECTIVES)
    assert "maximize score (tolerance 0.05); minimize train_seconds (tolerance 30% of the champion's)" in plan
    evolve("run", *QUADRATIC, *GENETIC, OBJECTIVES, "campaign=two", "budget.trials=6")
    front = evolve.status()["front"]
    assert front and all(set(row["values"]) == {"score", "train_seconds"} for row in front)
    assert all(row["values"]["train_seconds"] > 0 for row in front)
    assert f"front      {front[0]['id'][:8]}" in evolve("status")
    assert len(evolve.seen("two", "TrialFinished")) == 6
