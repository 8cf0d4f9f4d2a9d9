"""What people see of a campaign in MLflow: the campaign's page, the table of its trials, and the links to both. Pure.

Text that a proposal, a training or a person wrote passes through `plain` (tags, names) or `escape` (Markdown) before it
is shown. `tracking.py` and `tracking_runs.py` carry it to MLflow.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlencode

from evolve import acceptance
from evolve.edits import difference
from evolve.state import State
from evolve.types import CampaignStarted, Evaluation, Promoted, Trial, digest, short

PAGE_LIMIT = 7900  # characters: MLflow cuts a tag at 8000
TEXT_LIMIT = 200  # characters of one foreign text
PENDING_LIMIT = 5
PROMOTIONS_LIMIT = 5

Leaders = Sequence[tuple[str, Evaluation]]  # (candidate id, search score), best first


def campaign_key(started: CampaignStarted) -> str:
    """What the runs of one campaign are found by. Names may repeat on a shared server; the secret's hash does not."""
    return digest([started.campaign, started.secret_sha256, started.seed])[:16]


# ---------------------------------------------------------------- foreign text


def plain(text: str, limit: int = TEXT_LIMIT) -> str:
    """Foreign text on one line of at most `limit` characters, without control, format and unassigned characters.

    >>> plain("a\\x1b[31m\\n\\u202eb   c")
    'a[31m b c'
    """
    text = text[: 50 * limit]  # a bound on the work, whatever was sent
    kept = (c if c.isspace() or unicodedata.category(c)[0] != "C" else "" for c in text)
    line = " ".join("".join(kept).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


# Entities, since no dialect of Markdown reads an entity as markup; a decimal point and the minus of 1e-05 stay legible.
_MARKUP = re.compile(r"(?<!\d)\.|\.(?!\d)|(?<![0-9A-Za-z])-|[!-+/:;<=>?@\[\\\]^_`{|}~]")


def escape(text: str, limit: int = TEXT_LIMIT) -> str:
    """`plain` text that shows as itself in Markdown and HTML: no heading, link, table cell, image or element.

    >>> escape("<b>*x*</b>")
    '&#60;b&#62;&#42;x&#42;&#60;&#47;b&#62;'
    """
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", plain(text, limit))


# ---------------------------------------------------------------- the campaign's page


def page(state: State, leaders: Leaders, pictures: Sequence[str] = ()) -> str:
    """The Markdown of the campaign's run. What a person has to do comes first: MLflow folds all but a few lines away.

    `pictures` are the addresses of images, as `picture_address` makes them; the first one, the progress, goes above the
    leaderboard.
    """
    images = [f"![]({address})" for address in pictures]
    front = set(state.front()) if state.campaign.subject.secondary else set()
    rows = [_row(state, rank, *leader, on_front=leader[0] in front) for rank, leader in enumerate(leaders, start=1)]
    while True:
        blocks = [
            _headline(state),
            _champion(state),
            _facts(state),
            _gate(state),
            _waiting(state),
            _promoted(state),
            *images[:1],
            _leaderboard(state, rows),
            *images[1:],
        ]
        text = "\n\n".join(block for block in blocks if block)
        if len(text) <= PAGE_LIMIT or not rows:
            return text[:PAGE_LIMIT]
        rows.pop()


def picture_address(run_id: str, path: str) -> str:
    """Where MLflow's own server has an artifact, relative to its page: the host that people see it under is not known."""
    return f"get-artifact?{urlencode({'path': path, 'run_uuid': run_id})}"


def status(state: State) -> str:
    """One line on where the campaign stands."""
    if state.stopped is not None:
        return f"{state.stopped.kind}: {state.stopped.reason}"
    return "running"


def _headline(state: State) -> str:
    waiting = [f"**{len(state.pending)} waiting for approval: `evolve review`**"] if state.pending else []
    if state.stale:
        waiting.append(f"**{len(state.stale)} waiting for new evidence, since the champion changed: `evolve review`**")
    return f"**Status** {escape(status(state))}; {'; '.join(waiting) or 'nothing waits for approval'}"


def _champion(state: State) -> str:
    start, champion = state.campaign.start, state.entries[state.champion_id]
    changes = difference(champion.proposal.candidate, start)
    whose = "the start config" if state.champion_id == start.id else escape(changes)
    return f"**Champion** `{short(state.champion_id)}`, search {_score(state.search_score(state.champion_id))}: {whose}"


def _facts(state: State) -> str:
    floor = state.noise_floor()
    objectives = "; ".join(f"{escape(o.metric)}, {o.direction}" for o in state.objectives)
    noise = f"{floor[0]:.4g} (standard deviation over {floor[1]} seeds)" if floor else "not known yet"
    return f"**Objective** {objectives}; **noise floor** {noise}; **spent** {budget_text(state)}"


def budget_text(state: State) -> str:
    spend, limits = state.spend, state.budget
    units = [("trials", "trials", "d"), ("train_seconds", "CPU seconds of training", ".0f")]
    if spend.llm_tokens or spend.llm_usd:
        units += [("llm_usd", "US dollars", ".2f"), ("llm_tokens", "tokens", "d")]
    parts = []
    for name, unit, form in units:
        limit = getattr(limits, name)
        parts.append(
            f"{getattr(spend, name):{form}}" + (f" of {limit:{form}}" if limit is not None else "") + f" {unit}"
        )
    return ", ".join(parts)


def _score(score: Evaluation | None) -> str:
    return "not scored" if score is None else f"{score.mean:.4f} ± {score.stderr:.4f}"


def _gate(state: State) -> str:
    return f"**Gate** {escape(acceptance.promise_text(state.campaign.rules.gate))}"


def _waiting(state: State) -> str:
    waiting = [*state.pending, *state.stale]
    lines = ["**Waiting for approval** (decide with `evolve review`)", ""] if waiting else []
    doubt = f"; {state.campaign.subject.unconfirmed}" if state.campaign.subject.unconfirmed else ""
    for candidate_id in waiting[:PENDING_LIMIT]:
        stale = "; the champion has changed since: renew its evidence" if candidate_id in state.stale else ""
        changes = escape(difference(state.candidate(candidate_id), state.campaign.start))
        lines.append(f"- `{short(candidate_id)}` better by {_evidence(state, candidate_id)}{doubt}{stale}: {changes}")
    if len(waiting) > PENDING_LIMIT:
        lines.append(f"- and {len(waiting) - PENDING_LIMIT} more")
    return "\n".join(lines)


def _evidence(state: State, candidate_id: str) -> str:
    """The corrected gain, and from how many seeds."""
    gain = escape(acceptance.gain_text(state, candidate_id))
    return f"{gain}, {acceptance.seeds_text(state.entries[candidate_id].verdict)}"


def _promoted(state: State) -> str:
    """The latest promotions and rollbacks, the latest first."""
    events = list(reversed(state.promotions))
    lines = ["**Promotions**, the latest first", ""] if events else []
    for event in events[:PROMOTIONS_LIMIT]:
        who, why = escape(acceptance.person(state, event), 60), escape(acceptance.reason(state, event))
        said = f": {why}" if why else ""
        if isinstance(event, Promoted):
            gain, vault = _evidence(state, event.candidate_id), acceptance.vault_text(state.campaign.subject)
            lines.append(
                f"- `{short(event.candidate_id)}` promoted by **{who}**{said}; better by {gain}, vault {vault}"
            )
        else:
            back = f"`{short(event.candidate_id)}` rolled back to `{short(event.restored_id)}`"
            lines.append(f"- {back} by **{who}**{said}")
    if len(events) > PROMOTIONS_LIMIT:
        lines.append(f"- and {len(events) - PROMOTIONS_LIMIT} earlier ones")
    return "\n".join(lines)


def _leaderboard(state: State, rows: list[str]) -> str:
    if not rows:
        return "No candidate is scored yet."
    names = "".join(f" {escape(o.metric)} |" for o in state.campaign.subject.secondary)
    star = "; the Pareto front first, ★" if names else ""
    head = [
        f"**Leaderboard** (mean on the search split ± standard error, selected for being high, so it flatters; changes"
        f" against the start config{star})",
        "",
        f"| rank | candidate | score |{names} proposer | changes | verdict | stage |",
        "|---|---|---|" + "---|" * len(state.campaign.subject.secondary) + "---|---|---|---|",
    ]
    return "\n".join([*head, *rows])


def _row(state: State, rank: int, candidate_id: str, score: Evaluation, *, on_front: bool = False) -> str:
    entry = state.entries[candidate_id]
    secondary = state.campaign.subject.secondary
    point = state.values(candidate_id) if secondary else None
    cells = [
        f"{rank} ★" if on_front else str(rank),
        f"`{short(candidate_id)}`",
        _score(score),
        *([f"{x:.4g}" for x in point[1:]] if point else ["-"] * len(secondary)),
        escape(entry.proposal.proposer, 40),
        escape(difference(entry.proposal.candidate, state.campaign.start)),
        entry.verdict.decision if entry.verdict else "",
        stage(state, candidate_id),
    ]
    return "| " + " | ".join(cells) + " |"


def stage(state: State, candidate_id: str) -> str:
    """The candidate's stage in a word: `start` for the default config, `champion` for who is it now."""
    if candidate_id == state.champion_id:
        return "champion"
    return "start" if candidate_id == state.campaign.start.id else state.entries[candidate_id].stage


def run_name(trial: Trial, proposer: str) -> str:
    """Sorts by number: `0007 search tpe`."""
    return f"{trial.number:04d} {trial.purpose} {plain(proposer, 40)}"


# ---------------------------------------------------------------- the table of trials, and links

VIEW_TAG = "mlflow.sharedViewState."
_COLUMNS = {  # -> width in pixels
    "metrics.`score`": 80,
    "metrics.`stderr`": 75,
    "tags.`evolve.verdict`": 190,
    "tags.`evolve.stage`": 90,
    "tags.`evolve.proposer`": 120,
    "tags.`evolve.changes`": 420,
    "tags.`evolve.id`": 90,
}
_CANDIDATE_COLUMNS = {  # each training of one candidate
    "metrics.`score`": 80,
    "metrics.`stderr`": 75,
    "metrics.`gate/score`": 95,
    "metrics.`cpu_seconds`": 100,
    "tags.`evolve.purpose`": 115,
    "tags.`evolve.seed`": 110,
    "tags.`evolve.verdict`": 330,
    "tags.`evolve.stage`": 90,
}


def view_key(name: str) -> str:
    """The name under which MLflow keeps a table among the views that people share: of a `campaign_key`, or of a candidate."""
    return f"evolve-{name[:16]}"


def trials_view(state: State, parent_run_id: str) -> str:
    """The state of MLflow's run table: this campaign's trials, the best first, with the columns that matter.

    MLflow's page takes filter and order from its URL, but the columns only from such a shared view (an experiment tag).
    """
    return _view(state, f"tags.mlflow.parentRunId = '{parent_run_id}'", _COLUMNS)


def candidate_view(state: State, candidate_id: str) -> str:
    """The same for all trials of one candidate: what its reviewer looks at."""
    return _view(state, f"tags.`evolve.candidate` = '{candidate_id}'", _CANDIDATE_COLUMNS)


def _view(state: State, query: str, columns: Mapping[str, int]) -> str:
    # A further objective has the metric that `tracking_values.measured` logs it under.
    more = {f"metrics.`{plain(o.metric, 100)}`": 110 for o in state.campaign.subject.secondary}
    first = list(columns.items())
    wide = dict([*first[:2], *more.items(), *first[2:]])
    return json.dumps(
        {
            "searchFilter": query,
            "orderByKey": "metrics.`score`",  # by date MLflow folds trials under the campaign's run
            "orderByAsc": state.campaign.subject.objective.direction == "minimize",
            "selectedColumns": list(wide),
            "columnOrder": list(wide),
            "columnWidths": wide,
        }
    )


def campaign_url(base: str, experiment_id: str, key: str) -> str:
    """Link to the campaign's trials as a table, best first; `key` is `campaign_key`."""
    return _link(base, experiment_id, "", {"viewStateShareKey": view_key(key)})


def run_url(base: str, experiment_id: str, run_id: str) -> str:
    """Link to one run: for the campaign's, its page with leaderboard and pending approvals."""
    return _link(base, experiment_id, f"/{run_id}", {})


def candidate_url(base: str, experiment_id: str, candidate_id: str) -> str:
    """Link to all trials of one candidate that waits, or waited, for a person."""
    return _link(base, experiment_id, "", {"viewStateShareKey": view_key(candidate_id)})


def _link(base: str, experiment_id: str, path: str, query: Mapping[str, str]) -> str:
    # The workflow type picks the side bar for trainings, where MLflow's default is the one for traces of chats.
    text = urlencode({**query, "workflowType": "machine_learning"}, quote_via=quote)
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs{path}?{text}"
