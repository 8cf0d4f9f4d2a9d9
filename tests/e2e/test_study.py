"""A study out of one campaign and into the next, with the real command."""

from __future__ import annotations

import json
import time
from pathlib import Path

import optuna

from evolve.journal import Journal
from tests.e2e.cli import QUADRATIC, Evolve


def test_a_study_is_exported_and_the_next_campaign_starts_from_it(tmp_path: Path) -> None:
    evolve = Evolve(tmp_path)
    evolve("run", *QUADRATIC, "campaign=one", "proposer=tpe", "budget.trials=14")
    with Journal.open(tmp_path / ".evolve/campaigns/one", time.time):  # as if its controller were running
        said = evolve("export-study", "one")
    storage = "sqlite:///.evolve/campaigns/one/study.db"
    assert f"optuna-dashboard {storage}" in said
    study = optuna.load_study(study_name="one", storage=f"sqlite:///{tmp_path}/.evolve/campaigns/one/study.db")
    candidates = json.loads(evolve("status", "--json"))["candidates"]
    assert (
        len(study.trials) == candidates
        and f"{len(study.get_trials(states=[optuna.trial.TrialState.COMPLETE]))} COMPLETE" in said
    )

    plan = evolve("run", *QUADRATIC, f"start.import={storage}#one", "start=default", "--dry-run")
    assert "start      the subject's default config" in plan and f"trials of {storage}#one" in plan
    evolve("run", *QUADRATIC, "campaign=two", "proposer=tpe", "budget.trials=6", f"start.import={storage}#one")
    (tmp_path / ".evolve/campaigns/one/study.db").unlink()
    evolve("resume", "two", "budget.trials=8")
    events = [json.loads(line) for line in evolve("log", "--json", "--campaign", "two").splitlines()]
    assert [e["type"] for e in events[:3]] == ["CampaignStarted", "HistoryImported", "SessionStarted"]
    assert len(events[1]["data"]["observations"]) == candidates
    assert json.loads(evolve("status", "--json", "--campaign", "two"))["trials"]["complete"] >= 6

    line = evolve.refuses("run", *QUADRATIC, "campaign=three", "start.import=none.db")
    assert "there is no file" in line and not (tmp_path / ".evolve/campaigns/three").exists()
    assert "is not an option" in evolve.refuses("export-study", "--storge", "x.db")

    journal = tmp_path / ".evolve/campaigns/two/journal.jsonl"  # as if it had been killed between the first two lines
    journal.write_text(journal.read_text().splitlines(keepends=True)[0])
    assert "must begin with its imported history" in evolve.refuses("resume", "two", code=1)
