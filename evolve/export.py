"""The champion as a plain folder: its files, what makes it again, and a model card. A projection of a promotion; reads only.

OUT/            the files that the training left (a project's), or weights.safetensors
OUT/candidate.json, OUT/patch.diff, OUT/README.md
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from evolve import registry
from evolve.errors import BadInput, EvolveError
from evolve.space import value_text
from evolve.state import State
from evolve.tracking_page import escape
from evolve.types import short
from evolve.weights import Bundle, WeightStore


def champion(state: State, store: WeightStore, out: Path) -> list[str]:
    """Writes the folder `out`, which must not be there; returns lines for the person.

    Raises `EvolveError` where nothing has been promoted or the stored weights are not those that were approved.
    """
    _, line = registry.champions(state)
    if not line:
        raise EvolveError("An export needs a champion, but nothing has been promoted; see `evolve review`.")
    best = line[-1]
    if out.exists():
        raise BadInput(f"--out must be a new folder, but {out} is there; choose another.")
    weights = store.verified(best.weights)
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        if state.campaign.subject.is_project:
            Bundle.unpack(weights.read_bytes(), unfinished)
        else:
            shutil.copyfile(weights, unfinished / "weights.safetensors")
        (unfinished / "candidate.json").write_text(json.dumps(registry.provenance(state, best), indent=2))
        if patch := state.candidate(best.candidate_id).patch:
            (unfinished / "patch.diff").write_text(patch)
        card = unfinished / ("MODEL_CARD.md" if (unfinished / "README.md").exists() else "README.md")
        card.write_text(card_text(state, best))
        unfinished.rename(out)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise EvolveError(f"The export must be written to {out}, but {error}; choose a place with --out.") from error
    return [f"champion   {short(best.candidate_id)} of {state.campaign.campaign}", f"written    {out}"]


def card_text(state: State, best: registry.Champion) -> str:
    """The model card: what it is, what it was measured by, who said yes, and how to make it again."""
    campaign, entry = state.campaign, state.entries[best.candidate_id]
    params = "\n".join(f"| {escape(n)} | {escape(value_text(v))} |" for n, v in entry.proposal.candidate.params.items())
    objectives = ", ".join(f"{escape(o.metric)} ({o.direction})" for o in campaign.subject.objectives)
    confirmed = escape(campaign.subject.unconfirmed) or "confirmed on data that the search never saw (the vault)"
    return f"""# {escape(campaign.subject.name)}: champion {short(best.candidate_id)}

{escape(campaign.subject.description)}

{registry.description(state, best)}

**Measured by** {objectives}, version {short(campaign.measured_by)} of the evaluation; {confirmed}

| parameter | value |
| --- | --- |
{params}

Trained by trial {best.trial_number} of campaign {escape(campaign.campaign)}, seed {state.trials[best.trial_number].seed}, from version
{short(campaign.subject_version)} of the sources; sha256 of the stored weights `{best.weights}`. `candidate.json` has all of it.
`evolve reproduce {short(best.candidate_id)} --campaign {escape(campaign.campaign)}` trains it again.
"""
