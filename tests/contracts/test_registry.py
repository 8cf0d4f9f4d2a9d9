"""What every registry keeps to: the aliases follow the promotions, and a second sync changes nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evolve.errors import TrackingFailed
from evolve.ports import Registry
from evolve.registry import MlflowRegistry
from evolve.testing import MemoryRegistry
from evolve.tracking import MlflowTracker, connect
from evolve.types import Budget, GateRules, Promoted, Proposal, Record, Rules
from tests.tracking_campaign import Campaign, new_store, store

RULES = Rules(budget=Budget(trials=9), gate=GateRules(baseline_seeds=2, max_seeds=3))

Aliases = dict[str, str]  # alias -> candidate id


@pytest.fixture
def campaign() -> Campaign:
    return Campaign(rules=RULES).play()


@pytest.fixture(params=["memory", "mlflow"])
def subject(
    request: pytest.FixtureRequest, tmp_path: Path, campaign: Campaign
) -> tuple[Registry, Callable[[], Aliases]]:
    if request.param == "memory":
        memory = MemoryRegistry()
        return memory, lambda: {
            alias: candidate_id
            for alias, version in memory.aliases.items()
            for candidate_id, number in memory.versions.items()
            if number == version
        }
    uri = tracked(tmp_path, campaign.records)
    return registry(uri, tmp_path, campaign), lambda: aliases(uri)


def tracked(root: Path, records: list[Record]) -> str:
    """A store that has the campaign's runs, as it has them when a promotion is registered."""
    uri = new_store(root / "store")
    track(uri, root, records)
    return uri


def track(uri: str, root: Path, records: list[Record]) -> None:
    tracker = MlflowTracker(uri, root, warn=pytest.fail, artifacts=root / "artifacts")
    for record in records:
        tracker.record(record)
    assert tracker.flush(60) == 0
    tracker.close()


def registry(uri: str, root: Path, campaign: Campaign) -> MlflowRegistry:
    weights = store(root / "weights", campaign.state)
    return MlflowRegistry(uri, root, lambda sha256: weights / sha256)


def aliases(uri: str) -> Aliases:
    client = connect(uri)
    found = client.search_registered_models("name = 'evolve-toy'")
    return {
        alias: client.get_model_version("evolve-toy", version).tags["evolve.candidate"]
        for model in found
        for alias, version in dict(model.aliases).items()
    }


# ---------------------------------------------------------------- every registry


def test_nothing_is_registered_before_a_promotion(
    subject: tuple[Registry, Callable[[], Aliases]], campaign: Campaign
) -> None:
    registry, aliases = subject
    assert registry.sync(campaign.state) == []
    assert aliases() == {}


def test_a_promotion_is_champion_and_the_start_config_previous(
    subject: tuple[Registry, Callable[[], Aliases]], campaign: Campaign
) -> None:
    registry, aliases = subject
    campaign.command("approve")
    assert registry.sync(campaign.state) != []
    assert aliases() == {"champion": campaign.state.champion_id, "previous": campaign.state.campaign.start.id}


def test_a_second_sync_changes_nothing(subject: tuple[Registry, Callable[[], Aliases]], campaign: Campaign) -> None:
    registry, aliases = subject
    campaign.command("approve")
    registry.sync(campaign.state)
    before = aliases()
    assert registry.sync(campaign.state) == []
    assert aliases() == before


def test_a_rollback_makes_the_one_before_champion_again(
    subject: tuple[Registry, Callable[[], Aliases]], campaign: Campaign
) -> None:
    registry, aliases = subject
    campaign.command("approve")
    registry.sync(campaign.state)
    campaign.command("rollback", "too slow")
    assert registry.sync(campaign.state) != []
    assert aliases() == {"champion": campaign.state.campaign.start.id}
    assert registry.sync(campaign.state) == []


# ---------------------------------------------------------------- MLflow's


@pytest.fixture
def uri(tmp_path: Path, campaign: Campaign) -> str:
    return tracked(tmp_path, campaign.records)


def test_a_version_holds_the_weights_and_where_they_come_from(uri: str, tmp_path: Path, campaign: Campaign) -> None:
    campaign.command("approve")
    registry(uri, tmp_path, campaign).sync(campaign.state)
    client = connect(uri)
    version = client.get_model_version_by_alias("evolve-toy", "champion")
    promoted = campaign.state.promotions[-1]
    assert isinstance(promoted, Promoted)
    assert version.tags["evolve.promotion"] == f"toy-1:{promoted.content_hash}"
    assert version.tags["evolve.approver"] == "ada"
    assert client.get_run(version.run_id).data.tags["evolve.trial"] == str(promoted.trial_number)
    folder = Path(client.download_artifacts(version.run_id, version.source.partition(version.run_id + "/")[2]))
    weights = folder / "weights.safetensors"
    assert not weights.is_symlink()
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == promoted.weights
    about = json.loads((folder / "candidate.json").read_text())
    assert about["params"] == dict(campaign.state.entries[promoted.candidate_id].proposal.candidate.params)
    assert about["approval"]["by"] == "ada"


def test_a_version_of_edited_code_holds_its_patch(tmp_path: Path) -> None:
    patch = "--- a/train/recipe.py\n+++ b/train/recipe.py\n@@ -1 +1 @@\n-a = 1\n+a = 2  # é\n"

    class Edited(Campaign):
        def _proposal(self) -> Proposal:
            proposal = super()._proposal()
            return replace(proposal, candidate=replace(proposal.candidate, patch=patch))

    campaign = next(c for seed in range(20) if (c := Edited(rules=RULES, seed=seed).play()).state.pending)
    uri = tracked(tmp_path, campaign.records)
    campaign.command("approve")
    registry(uri, tmp_path, campaign).sync(campaign.state)
    client = connect(uri)
    held = {}
    for alias in ("champion", "previous"):
        version = client.get_model_version_by_alias("evolve-toy", alias)
        folder = Path(client.download_artifacts(version.run_id, version.source.partition(version.run_id + "/")[2]))
        held[alias] = {file.name for file in folder.iterdir()}
        if alias == "champion":
            assert (folder / "patch.diff").read_bytes() == patch.encode()
            assert json.loads((folder / "candidate.json").read_text())["proposal"]["candidate"]["patch"] == patch
    assert held["champion"] - held["previous"] == {"patch.diff"}


def test_a_version_says_who_approved_it_on_which_evidence_under_which_promise(
    uri: str, tmp_path: Path, campaign: Campaign
) -> None:
    campaign.command("approve", "it is <b>faster</b>")
    registry(uri, tmp_path, campaign).sync(campaign.state)
    version = connect(uri).get_model_version_by_alias("evolve-toy", "champion")
    promoted = campaign.state.promotions[-1]
    assert isinstance(promoted, Promoted)
    numbers = campaign.state.entries[promoted.candidate_id].verdict.numbers  # type: ignore[union-attr]
    gain = f"{numbers['estimate']:+.4g} (95 % interval {numbers['low']:+.4g} to {numbers['high']:+.4g})"
    promise = (
        "custom: at most 5% that a campaign of 50 useless candidates promotes any; not simulated for these numbers"
    )
    assert {name: version.tags[f"evolve.{name}"] for name in ("approver", "gain", "seeds", "vault", "promise")} == {
        "approver": "ada",
        "gain": gain,
        "seeds": "2 fresh seeds against 2 of the champion",
        "vault": "yes",
        "promise": promise,
    }
    assert version.tags["evolve.content_hash"] == promoted.content_hash
    first, *rest = version.description.splitlines()
    assert first == "Approved by ada: it is &#60;b&#62;faster&#60;&#47;b&#62;"
    assert f"`{promoted.content_hash}`" in rest[-1]
    start = connect(uri).get_model_version_by_alias("evolve-toy", "previous")
    assert start.description == "The config that campaign toy-1 started from: what a rollback restores."
    assert "evolve.approver" not in start.tags and "evolve.gain" not in start.tags


def test_a_sync_after_a_crash_between_version_and_alias_finishes(uri: str, tmp_path: Path, campaign: Campaign) -> None:
    campaign.command("approve")
    it = registry(uri, tmp_path, campaign)
    it.sync(campaign.state)
    client = connect(uri)
    client.delete_registered_model_alias("evolve-toy", "champion")
    assert it.sync(campaign.state) == ["evolve-toy: champion is version 2"]
    assert len(client.search_model_versions("name = 'evolve-toy'")) == 2


def test_syncing_an_old_campaign_does_not_unseat_a_newer_champion(uri: str, tmp_path: Path, campaign: Campaign) -> None:
    campaign.command("approve")
    old = registry(uri, tmp_path, campaign)
    old.sync(campaign.state)
    newer = Campaign("toy-2", RULES, seed=5).play().command("approve")
    other = tmp_path / "other"
    other.mkdir()
    track(uri, other, newer.records)
    registry(uri, other, newer).sync(newer.state)
    assert aliases(uri)["champion"] == newer.state.champion_id
    assert old.sync(campaign.state) == []
    campaign.command("rollback")
    assert old.sync(campaign.state) == []
    assert aliases(uri)["champion"] == newer.state.champion_id


def test_a_later_promotion_that_is_registered_meanwhile_is_not_unseated(
    uri: str, tmp_path: Path, campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign.command("approve")
    newer = Campaign("toy-2", RULES, seed=5).play().command("approve")
    campaign.state.promoted_at[:], newer.state.promoted_at[:] = [1.0], [2.0]
    other = tmp_path / "other"
    other.mkdir()
    track(uri, other, newer.records)
    register, rival = MlflowRegistry._register, registry(uri, other, newer)
    began: list[str] = []

    def slow(self: MlflowRegistry, name: str, state: Any, champion: Any) -> Any:
        if not began:
            began.append(name)
            rival.sync(newer.state)
        return register(self, name, state, champion)

    monkeypatch.setattr(MlflowRegistry, "_register", slow)
    registry(uri, tmp_path, campaign).sync(campaign.state)
    assert aliases(uri)["champion"] == newer.state.champion_id


def test_a_model_that_another_campaign_makes_at_the_same_moment_is_taken(
    uri: str, tmp_path: Path, campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign.command("approve")
    client = connect(uri)
    make = type(client).create_registered_model
    monkeypatch.setattr(type(client), "create_registered_model", lambda *a, **k: (make(*a, **k), make(*a, **k)))
    lines = registry(uri, tmp_path, campaign).sync(campaign.state)
    assert "evolve-toy: registered" not in lines, "by the other one"
    assert aliases(uri)["champion"] == campaign.state.champion_id


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"other")])
def test_weights_that_are_not_the_stored_ones_are_not_registered(
    uri: str, tmp_path: Path, campaign: Campaign, damage: Callable[[Path], object]
) -> None:
    campaign.command("approve")
    it = registry(uri, tmp_path, campaign)
    promoted = campaign.state.promotions[-1]
    assert isinstance(promoted, Promoted)
    damage(tmp_path / "weights" / promoted.weights)
    with pytest.raises(TrackingFailed, match="missing or differs"):
        it.sync(campaign.state)
    assert "champion" not in aliases(uri)


def test_a_server_that_is_down_is_said_in_one_line(tmp_path: Path, campaign: Campaign) -> None:
    campaign.command("approve")
    with pytest.raises(TrackingFailed, match="evolve sync") as caught:
        registry("http://127.0.0.1:9", tmp_path, campaign).sync(campaign.state)
    assert "\n" not in str(caught.value)


def test_a_promotion_without_runs_asks_for_a_sync(tmp_path: Path, campaign: Campaign) -> None:
    uri = new_store(tmp_path / "empty")
    campaign.command("approve")
    with pytest.raises(TrackingFailed, match="evolve sync"):
        registry(uri, tmp_path, campaign).sync(campaign.state)


def test_the_uri_of_another_store_is_not_mixed_up(uri: str, tmp_path: Path, campaign: Campaign) -> None:
    position = tmp_path / "tracking.json"
    position.write_text(json.dumps(json.loads(position.read_text()) | {"uri": "sqlite:////elsewhere.db"}))
    campaign.command("approve")
    with pytest.raises(TrackingFailed, match="no run yet"):
        registry(uri, tmp_path, campaign).sync(campaign.state)


def test_two_promotions_leave_the_first_as_previous(uri: str, tmp_path: Path, campaign: Campaign) -> None:
    campaign.command("approve")
    first = campaign.state.champion_id
    campaign.rules = replace(RULES, budget=Budget(trials=40))
    campaign.session()
    campaign.play().command("approve")
    track(uri, tmp_path, campaign.records)
    registry(uri, tmp_path, campaign).sync(campaign.state)
    assert aliases(uri) == {"champion": campaign.state.champion_id, "previous": first}
    assert campaign.state.champion_id != first
