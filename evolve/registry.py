"""The champion in MLflow's model registry: a projection of the campaign's promotions. Runs are `tracking.py`'s.

One registered model a subject, `evolve-<subject>`, shared by its campaigns. Each promotion has a version with the
weights, a `candidate.json` and, where code was edited, a `patch.diff` beside them; the start config gets one too, so that
a rollback has something to go back to. Alias `champion` is the champion's version, `previous` the one that a rollback would restore.

What somebody changed by hand is put right where the journal says what it was: aliases, missing versions, a missing model, our
own tags. Where weights are not those that were approved, nothing is changed and that is said: whoever did it has to be asked.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolve import acceptance
from evolve.edits import difference
from evolve.errors import TrackingFailed
from evolve.state import State
from evolve.tracking import connect, read_position, shown_uri
from evolve.tracking_page import campaign_key, escape, plain
from evolve.types import Approval, Promoted, short

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient


@dataclass(frozen=True)
class Champion:
    """One entry of the line of champions: what its version must say. `promotion` is what a version is known by."""

    candidate_id: str
    promotion: str
    trial_number: int
    weights: str  # sha256
    approval: Approval | None = None
    at: float = 0.0  # time of the promotion; 0 of the start config, and where it is not known


def champions(state: State) -> tuple[list[Champion], list[Champion]]:
    """(every champion of the campaign in order, the line that rollbacks left of it: champion last, the one before it).

    The start config comes first, with the weights of its first training on a gate seed; both lists are empty before the
    first promotion.
    """
    if not state.promotions:
        return [], []
    campaign = state.campaign
    bank = [state.trials[n] for n in state.entries[campaign.start.id].trials]
    first = min((t for t in bank if t.weights and t.evidence), key=lambda t: t.seed_index, default=None)
    if first is None or first.weights is None:
        raise TrackingFailed("The start config must have trained before a promotion, but no trial of it has weights.")
    start = Champion(campaign.start.id, f"{campaign_key(campaign)}:start", first.number, first.weights)
    every, line = [start], [start]
    approvals = {a.content_hash: a for a in state.approvals if a.decision == "approve"}
    for event, at in zip(state.promotions, state.promoted_at, strict=True):
        if isinstance(event, Promoted):
            name = f"{campaign.campaign}:{event.content_hash}"
            approval = approvals.get(event.content_hash)
            champion = Champion(event.candidate_id, name, event.trial_number, event.weights, approval, at)
            line.append(champion)
            if champion not in every:
                every.append(champion)
        else:
            line.pop()
    return every, line


class MlflowRegistry:
    """`ports.Registry` on any MLflow store. `folder` is the campaign's, `weights_path` finds stored weights by sha256.

    The aliases belong to the campaign that promoted last, whenever it was registered: `evolve sync` on an old one does not
    unseat a newer champion.
    """

    def __init__(self, uri: str, folder: Path, weights_path: Callable[[str], Path]) -> None:
        self._uri = uri
        self._folder = folder
        self._weights_path = weights_path

    @cached_property
    def _client(self) -> MlflowClient:
        return connect(self._uri)

    def sync(self, state: State, *, check: bool = False) -> list[str]:
        """Makes versions and aliases say what the promotions say; the second call changes nothing and returns []."""
        every, line = champions(state)
        if not every:
            return []
        try:
            return self._sync(state, every, line, check)
        except _store_errors() as error:
            reason = plain(f"{type(error).__name__}: {shown_uri(str(error))}", 300)
            raise TrackingFailed(
                f"The registry at {shown_uri(self._uri)} must take the promotion, but failed ({reason}); run `evolve sync`."
            ) from error

    def _sync(self, state: State, every: list[Champion], line: list[Champion], check: bool) -> list[str]:
        name = f"evolve-{state.campaign.subject.name}"
        lines = self._make_model(name, state)
        found = self._versions(name)
        versions = self._known(state, every, found)
        for champion in line[-2:] if check else ():
            if champion.promotion in versions:
                self._check_weights(name, versions[champion.promotion], state, champion)
        for champion in every:
            version = versions.get(champion.promotion)
            if version is not None:
                lines += self._mend_tags(name, version, state, champion)
            elif champion in line or self._weights_path(champion.weights).is_file():  # else rolled back and collected
                version = versions[champion.promotion] = self._register(name, state, champion)
                found.append(version)
                lines.append(f"{name} version {version.version}: candidate {short(champion.candidate_id)}")
        # Asked again: an upload of weights takes long enough for another campaign to register a later promotion.
        if not _is_ours(self._versions(name) if lines else found, {c.promotion for c in every}):
            return lines
        wanted = {"champion": line[-1], "previous": line[-2] if len(line) > 1 else None}
        aliases = {k: int(v) for k, v in dict(self._client.get_registered_model(name).aliases).items()}
        for alias, wanted_champion in wanted.items():
            version = None if wanted_champion is None else int(versions[wanted_champion.promotion].version)
            if version == aliases.get(alias):
                continue
            if version is None:
                self._client.delete_registered_model_alias(name, alias)
                lines.append(f"{name}: no {alias}")
            else:
                self._client.set_registered_model_alias(name, alias, str(version))
                before = f"was version {aliases[alias]}, is version" if alias in aliases else "is version"
                lines.append(f"{name}: {alias} {before} {version}")
        return lines

    def _make_model(self, name: str, state: State) -> list[str]:
        if self._client.search_registered_models(f"name = '{name}'"):
            return []
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name, description=plain(state.campaign.subject.description))
        except MlflowException as error:
            there = error.error_code == "RESOURCE_ALREADY_EXISTS" and self._client.search_registered_models(
                f"name = '{name}'"
            )
            if not there:
                raise
            return []  # another campaign on the same server was quicker
        return [f"{name}: registered"]

    def _versions(self, name: str) -> list[ModelVersion]:
        """All of the model's, the oldest first."""
        found = self._client.search_model_versions(f"name = '{name}'", max_results=10_000)
        return sorted(found, key=lambda v: int(v.version))

    def _known(self, state: State, every: list[Champion], found: list[ModelVersion]) -> dict[str, ModelVersion]:
        """Our versions by promotion, the oldest of each; one that has lost its tag is known by its files."""
        known: dict[str, ModelVersion] = {}
        for version in found:
            known.setdefault(version.tags.get("evolve.promotion", ""), version)
        names = {c.promotion for c in every}
        for champion in every:
            if champion.promotion not in known:
                source = f"runs:/{self._run(state, champion.trial_number)}/{_path(champion)}"
                lost = [v for v in found if v.source == source and v.tags.get("evolve.promotion") not in names]
                known |= {champion.promotion: lost[0]} if lost else {}
        return {promotion: version for promotion, version in known.items() if promotion in names}

    def _mend_tags(self, name: str, version: ModelVersion, state: State, champion: Champion) -> list[str]:
        """What identifies a version never changes; whatever else is tagged is not looked at."""
        lines = []
        wanted = _all_tags(state, champion)
        for key in _LASTING:
            if key in wanted and (value := version.tags.get(key)) != wanted[key]:
                self._client.set_model_version_tag(name, version.version, key, wanted[key])
                version.tags[key] = wanted[key]
                was = "was missing" if value is None else f"was {plain(value, 60)!r}"
                lines.append(f"{name} version {version.version}: {key} {was}, is {wanted[key]!r}")
        return lines

    def _check_weights(self, name: str, version: ModelVersion, state: State, champion: Champion) -> None:
        """Raises `TrackingFailed` where the registered weights are not those of the journal."""
        path, there = f"{_path(champion)}/weights.safetensors", ""
        if path in [file.path for file in self._client.list_artifacts(version.run_id, _path(champion))]:
            with tempfile.TemporaryDirectory(prefix="evolve-") as folder:
                there = _sha256(Path(self._client.download_artifacts(version.run_id, path, folder)))
        if there != champion.weights:
            what = f"holds {short(there)}" if there else "holds none"
            raise TrackingFailed(
                f"Registered weights must be those that were approved ({short(champion.weights)}), but {name} version"
                f" {version.version} {what}; nothing was changed: find out who did it, delete that version, and"
                " `evolve sync` registers the stored weights again."
            )

    def _register(self, name: str, state: State, champion: Champion) -> ModelVersion:
        run_id = self._run(state, champion.trial_number)
        path = _path(champion)
        weights = self._weights_path(champion.weights)
        if not weights.is_file() or _sha256(weights) != champion.weights:
            raise TrackingFailed(
                f"Registered weights must be the stored ones with sha256 {short(champion.weights)}, but the file is missing"
                f" or differs; `evolve reproduce {short(champion.candidate_id)}` makes them again."
            )
        with tempfile.TemporaryDirectory(prefix="evolve-") as folder:
            os.symlink(weights.resolve(), Path(folder, "weights.safetensors"))
            Path(folder, "candidate.json").write_text(json.dumps(provenance(state, champion), indent=2))
            if patch := state.entries[champion.candidate_id].proposal.candidate.patch:
                Path(folder, "patch.diff").write_bytes(patch.encode())
            self._client.log_artifacts(run_id, folder, path)
        return self._client.create_model_version(
            name,
            f"runs:/{run_id}/{path}",
            run_id,
            tags=_all_tags(state, champion),
            description=description(state, champion),
        )

    def _run(self, state: State, number: int) -> str:
        """The run that holds the files: the trial's, else the campaign's."""
        position = read_position(self._folder)
        if position is None or position.uri != self._uri:
            raise TrackingFailed(
                "A promotion is registered beside its run, but MLflow has no run yet; run `evolve sync`."
            )
        key = campaign_key(state.campaign)
        query = f"tags.`evolve.campaign_key` = '{key}' and tags.`evolve.trial` = '{number}'"
        runs = self._client.search_runs([position.experiment_id], query, max_results=1)
        return str(runs[0].info.run_id) if runs else position.run_id


def _store_errors() -> tuple[type[Exception], ...]:
    """What a store that is away or broken raises. A function, since the import costs seconds."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, sqlite3.Error, OSError


# Tags that a version is known by: they follow from the journal, and never change.
_LASTING = (
    "evolve.promotion", "evolve.promoted_at", "evolve.campaign", "evolve.campaign_key", "evolve.candidate",
    "evolve.trial", "evolve.weights", "evolve.approver", "evolve.content_hash",
)  # fmt: skip


def _path(champion: Champion) -> str:
    """Of the files of a version, among its run's artifacts."""
    return f"champion/{short(champion.candidate_id)}"


def _all_tags(state: State, champion: Champion) -> dict[str, str]:
    return _tags(state, champion) | ({"evolve.promoted_at": f"{champion.at:.3f}"} if champion.at else {})


def _is_ours(found: list[ModelVersion], promotions: set[str]) -> bool:
    """Whether the version that was promoted last is one of ours; by the number where times are not known."""

    def when(version: ModelVersion) -> tuple[float, int]:
        try:
            return float(version.tags.get("evolve.promoted_at", 0)), int(version.version)
        except ValueError:
            return 0.0, int(version.version)

    promoted = [v for v in found if not v.tags.get("evolve.promotion", ":start").endswith(":start")]
    return bool(promoted) and max(promoted, key=when).tags["evolve.promotion"] in promotions


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tags(state: State, champion: Champion) -> dict[str, str]:
    score = state.search_score(champion.candidate_id)
    tags = {
        "evolve.promotion": champion.promotion,
        "evolve.campaign": plain(state.campaign.campaign),
        "evolve.campaign_key": campaign_key(state.campaign),
        "evolve.candidate": champion.candidate_id,
        "evolve.trial": str(champion.trial_number),
        "evolve.weights": champion.weights,
    }
    if score is not None:
        tags |= {"evolve.score": f"{score.mean:.6g}", "evolve.stderr": f"{score.stderr:.3g}"}
    if champion.approval is not None:
        tags |= {
            "evolve.approver": plain(_approvers(state, champion.approval)),
            "evolve.content_hash": champion.approval.content_hash,
            "evolve.gain": plain(acceptance.gain_text(state, champion.candidate_id)),
            "evolve.seeds": acceptance.seeds_text(state.entries[champion.candidate_id].verdict),
            "evolve.vault": acceptance.vault_text(state.campaign.subject),  # nothing waits for a person before it
            "evolve.promise": plain(acceptance.promise_text(state.campaign.rules.gate)),
        }
    return tags


def _approvers(state: State, approval: Approval) -> str:
    return ", ".join(a.by for a in acceptance.approvals(state, approval.content_hash))


def description(state: State, champion: Champion) -> str:
    """The version's Markdown: who said yes (the one paragraph that the list of versions shows, as plain text), on which
    evidence, to what."""
    entry = state.entries[champion.candidate_id]
    changes = escape(difference(entry.proposal.candidate, state.campaign.start), 1000)
    if champion.approval is None:
        return f"The config that campaign {escape(state.campaign.campaign)} started from: what a rollback restores."
    why = f": {escape(champion.approval.reason)}" if champion.approval.reason else ""
    return "\n".join(
        [
            f"Approved by {escape(_approvers(state, champion.approval))}{why}",
            f"\n**Better** than the champion before by {escape(acceptance.gain_text(state, champion.candidate_id))};"
            f" {acceptance.seeds_text(entry.verdict)}; vault: {acceptance.vault_text(state.campaign.subject)}",
            f"\n**Promise of the gate** {escape(acceptance.promise_text(state.campaign.rules.gate))}",
            f"\n**Changes** against the start config: {changes}",
            f"\n**Content** `{champion.approval.content_hash}` (what the approval is bound to)",
        ]
    )


def provenance(state: State, champion: Champion) -> dict[str, Any]:
    """`candidate.json`: all that is needed to train it again, and who said that it may be the champion."""
    entry, trial, campaign = state.entries[champion.candidate_id], state.trials[champion.trial_number], state.campaign
    return {
        "candidate": champion.candidate_id,
        "params": dict(entry.proposal.candidate.params),
        "proposal": asdict(entry.proposal),
        "campaign": campaign.campaign,
        "subject": campaign.subject.name,
        "subject_version": campaign.subject_version,
        "evaluation_version": campaign.measured_by,
        "trial": {"number": trial.number, "seed": trial.seed, "seed_index": trial.seed_index},
        "weights_sha256": champion.weights,
        "verdict": None if entry.verdict is None else asdict(entry.verdict),
        "approval": None if champion.approval is None else asdict(champion.approval),
        "hardware": trial.hardware,
    }
