"""How one event of the journal shows in MLflow's runs: one run a campaign, one nested run a trial.

`Runs` holds no thread, no queue and no position; `tracking.py` owns those, and calls it in the journal's order. Every
call here may be made twice with the same effect: runs are searched by tag where they may exist already, and metrics carry
the event's own time, under which MLflow takes a repeated point as the same one.
"""

from __future__ import annotations

import bisect
import itertools
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from evolve import tracking_page
from evolve.acceptance import vault_text
from evolve.errors import TrackingFailed
from evolve.state import State
from evolve.tracking_page import plain
from evolve.tracking_values import (
    Metric,
    Shown,
    check_note,
    check_tags,
    curve_points,
    environment_tags,
    integrity_tags,
    log_name,
    measured,
    objective_metrics,
    printable,
    read_regular,
    shown_of,
    stage_tags,
    suite_metrics,
    trial_note,
    trial_tags,
)
from evolve.types import (
    ApprovalRequested,
    CampaignStarted,
    CampaignStopped,
    ChallengeOpened,
    Decided,
    EditChecked,
    Evaluation,
    Event,
    HistoryImported,
    Message,
    Promoted,
    Proposal,
    ProposalFailed,
    RolledBack,
    Scored,
    SessionStarted,
    Spend,
    TrialFinished,
    TrialStarted,
    VaultAnswered,
    VerdictReached,
    short,
)

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

LEADERS = 10
PICTURES = "pictures"  # folder among the artifacts of the campaign's run
PICTURE_TRIALS, PICTURE_SECONDS = 5, 60.0  # while a campaign runs: new ones at most after so much of both
PAGE_SECONDS = 10.0  # while there is a backlog, between two versions of the campaign's page
LOG_BYTES = 64_000
_BATCH = {"metrics": 900, "params": 90, "tags": 90}  # MLflow's limits are 1000, 100, 100 and 1000 together
_RUN_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
_CAMPAIGN_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_Result = TypeVar("_Result")


class Runs:
    """One campaign's runs in one MLflow store, and the fold of the journal that they are shown from.

    `connect` is called when the store is first needed: reading on where nothing is new costs no import of mlflow.
    `careful` is set by the owner while a run may exist that this object does not know of: then it is searched first.
    What a person deletes in MLflow stays deleted: a trial's run is left alone from then on, and `warn` gets one line; without
    the campaign's run or the experiment `carry` raises `TrackingFailed`, which says how to restore it.
    """

    def __init__(
        self,
        connect: Callable[[], MlflowClient],
        folder: Path,
        artifacts: Path | str | None,
        warn: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self.artifacts = artifacts
        self.experiment_id = ""
        self.run_id = ""
        self.careful = False
        self.rebuilding = False  # the campaign's run was there, but not its position: see `sweep`
        self.page_due = False  # the store's page lags behind the events that are shown
        self._connect = connect
        self._warn = warn
        self._client: MlflowClient | None = None
        self._errors: tuple[type[Exception], ...] = ()  # what the client raises; mlflow is imported with it, not before
        self._touched = ""  # the run of the latest call
        self._gone: set[str] = set()  # runs of trials that a person deleted in MLflow: they are left alone
        self._trials: dict[int, str] = {}  # number -> run id; "" is one made by an earlier process, not looked up yet
        self._scores: dict[str, tuple[tuple[float, int], Evaluation]] = {}  # candidate -> its key in the ranking, score
        self._ranking: list[tuple[tuple[float, int], str]] = []  # best first; a candidate's place never costs a sort
        self._places: dict[str, str] = {}  # run -> where its files go, until they are there
        self._shown: dict[str, Shown] = {}  # candidate -> what its runs' tags say
        self._answers: dict[str, str] = {}  # candidate -> what the vault said
        self._pictures: list[str] | None = None  # names of those that the campaign's run has; None: not asked yet
        self._behind, self._paged_at = False, -math.inf
        self.undrawn = False  # pictures were due, but events waited
        self._pictured_at = -math.inf  # by the monotonic clock
        self._pictured = 0  # trials finished by then

    @property
    def client(self) -> MlflowClient:
        if self._client is None:  # no cached_property: its lock is one for all trackers of a process
            self._client = self._connect()
            from mlflow.exceptions import MlflowException

            self._errors = (MlflowException,)
        return self._client

    # ------------------------------------------------ what an earlier process did

    def skip(self, state: State, event: Event) -> None:
        """Takes note of an event that the store already shows."""
        if isinstance(event, TrialStarted):
            self._trials[event.number] = ""
        elif isinstance(event, TrialFinished):
            self._rank(state, state.trials[event.number].candidate_id)
        elif _changes_stages(event):
            self._note_answer(state, event)
            self._shown.update(self._news(state, event))

    # ------------------------------------------------ one event

    def carry(self, state: State, event: Event, time_ms: int, *, behind: bool = False) -> bool:
        """Shows `event` in the store; `state` is the fold up to it. Returns whether the store had to be asked.

        `behind`: later events wait already, so that the campaign's page is left for then; `page_due` says so.
        """
        self._behind = behind
        return self._until_done(lambda: self._show(state, event, time_ms))

    def show_page(self, state: State) -> None:
        """The campaign's page as it is now, with what was not drawn while events waited."""
        self._behind = False
        if self.undrawn:
            self._until_done(lambda: self._draw(state))
        self._until_done(lambda: self._show_page(state))

    def sweep(self, state: State) -> None:
        """Ends a rebuild, once all of the journal is shown: what the store shows beyond it goes.

        There is such where the journal has lost its end, by `evolve repair` or since an older copy was put back. A run that
        no trial of the journal stands behind is deleted, as a person would (`mlflow runs restore` brings it back), under
        another key, so that it is never taken for a later trial's. Stages that only the lost lines knew are overwritten.
        """
        key = tracking_page.campaign_key(state.campaign)
        ours = f"tags.`evolve.campaign_key` = '{key}'"
        page = self.client.search_runs([self.experiment_id], ours, max_results=1000)
        runs = list(page)
        while page.token:
            page = self.client.search_runs([self.experiment_id], ours, max_results=1000, page_token=page.token)
            runs += page
        for run in runs:
            tags, run_id = run.data.tags, str(run.info.run_id)
            if tags.get("evolve.kind") == "campaign":
                continue
            candidate = tags.get("evolve.candidate", "")
            if self._is_beyond(state, candidate, tags):
                self.client.set_tag(run_id, "evolve.campaign_key", f"{key} cut off")
                self.client.delete_run(run_id)
                number = int(tags.get("evolve.trial", -1))
                if self._trials.pop(number, None) == run_id:  # it has begun, but has not ended any more
                    self._trial_run(state, number, run.info.start_time)
                continue
            wanted = stage_tags(shown_of(state, candidate)) | {"evolve.vault": self._answers.get(candidate, "")}
            if any(tags.get(name, "") != text for name, text in wanted.items()):
                self._log(run_id, tags=wanted)
        self.rebuilding = False

    def _is_beyond(self, state: State, candidate: str, tags: Mapping[str, str]) -> bool:
        """Whether a run shows what is not in the journal."""
        if "evolve.trial" not in tags:
            return candidate not in state.entries
        trial = state.trials.get(int(tags["evolve.trial"]))
        if trial is None or trial.candidate_id != candidate:
            return True
        return tags.get("evolve.state") in _RUN_STATUS and trial.state not in _RUN_STATUS

    def _until_done(self, show: Callable[[], _Result]) -> _Result:
        while True:
            try:
                return show()
            except self._errors:
                if not self._was_deleted():
                    raise

    def _was_deleted(self) -> bool:
        """Whether the latest call failed since a person has deleted a trial's run, which is left alone from now on."""
        if not self.experiment_id:
            return False
        if self.client.get_experiment(self.experiment_id).lifecycle_stage == "deleted":
            raise TrackingFailed(
                f"experiment {self.experiment_id} was deleted in MLflow; restore it: mlflow experiments restore"
                f" --experiment-id {self.experiment_id}"
            )
        if not self._touched or self._touched in self._gone:
            return False
        try:
            run = self.client.get_run(self._touched)
            deleted, name = bool(run.info.lifecycle_stage == "deleted"), str(run.info.run_name)
        except self._errors as error:
            deleted, name = getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST", self._touched
        if deleted and self._touched == self.run_id:
            raise TrackingFailed(
                f"the campaign's run was deleted in MLflow; restore it: mlflow runs restore --run-id {self.run_id}"
            )
        if deleted:
            self._leave_alone(self._touched, name)
        return deleted

    def _leave_alone(self, run_id: str, name: str) -> None:
        if not self._gone:
            self._warn(
                f"The run {plain(name, 80)!r} was deleted in MLflow: it stays so, and what else happens to it is not shown"
                " there; the journal has everything."
            )
        self._gone.add(run_id)

    def _touch(self, run_id: str) -> bool:
        """Before each call on a run: whether it may be made."""
        self._touched = run_id
        return run_id not in self._gone

    def _show(self, state: State, event: Event, time_ms: int) -> bool:
        match event:
            case CampaignStarted():
                self._begin(state, time_ms)
            case SessionStarted():
                self._set_running(self.run_id)
                self._log(self.run_id, tags={**environment_tags(event.environment), "evolve.sandbox": event.sandbox})
                self._show_page(state)
            case TrialStarted(number, attempt):
                self._start(state, number, attempt, time_ms)
            case TrialFinished():
                self._finish(state, event, time_ms)
            case EditChecked(candidate_id) if event.error:
                self._refused_edit(state, candidate_id, event, time_ms)
            case Scored(number, "gate", round, evaluation) if evaluation is not None:
                metrics = [("gate/score", evaluation.mean, round), ("gate/stderr", evaluation.stderr, round)]
                metrics += suite_metrics(evaluation, round, "gate/")
                self._log(self._trial_run(state, number, time_ms), metrics, time_ms)
            case ProposalFailed() if event.transcript:
                self._trace(self.run_id, event.proposer, event.transcript, event.spend, event.reason, time_ms)
            case HistoryImported(source, observations):
                self._log(self.run_id, tags={"evolve.import": plain(f"{len(observations)} trials of {source}")})
            case CampaignStopped(kind):
                self._interrupt(state, time_ms)
                self._draw(state)
                self._show_page(state)
                self._end(self.run_id, _CAMPAIGN_STATUS[kind], time_ms)
            case _ if _changes_stages(event):
                if isinstance(event, ApprovalRequested):
                    candidate = event.request.candidate_id
                    self._share(candidate, tracking_page.candidate_view(state, candidate))
                if _changes_what_is_kept(event):
                    self._draw(state)  # a reviewer looks at it
                self._show_stages(state, event, time_ms)
            case _:
                return False
        return True

    # ------------------------------------------------ the campaign's run

    def _begin(self, state: State, time_ms: int) -> None:
        started = state.campaign
        subject, key = started.subject, tracking_page.campaign_key(started)
        self.experiment_id = self._experiment(f"evolve/{subject.name}")
        tags = {
            "evolve.kind": "campaign",
            "evolve.campaign": plain(started.campaign),
            "evolve.campaign_key": key,
            "evolve.subject": subject.name,
            "evolve.subject_version": started.subject_version,
            "evolve.evaluation_version": started.measured_by,
            "evolve.seed": str(started.seed),
            "evolve.objective": ", ".join(f"{plain(o.metric)} ({o.direction})" for o in subject.objectives),
            "evolve.start": started.start.id,
            "mlflow.source.name": "evolve",
        }
        found = self._search(f"tags.`evolve.campaign_key` = '{key}' and tags.`evolve.kind` = 'campaign'")
        self.rebuilding = found is not None
        self._pictures = None if found else []
        self.run_id = found or self._create(plain(started.campaign), tags, time_ms)
        self._share(key, tracking_page.trials_view(state, self.run_id))

    def _share(self, name: str, view: str) -> None:
        """A table that a link of ours opens."""
        self.client.set_experiment_tag(self.experiment_id, tracking_page.VIEW_TAG + tracking_page.view_key(name), view)

    def _experiment(self, name: str) -> str:
        experiment = self.client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        location = None if self.artifacts is None else str(self.artifacts)
        if location is not None and "://" not in location:
            location = Path(location).resolve().as_uri()
        try:
            # The kind keeps MLflow's page from guessing at language-model tracing and hiding the runs behind a question.
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return str(self.client.create_experiment(name, location, tags=tags))
        except self._errors as error:
            experiment = self.client.get_experiment_by_name(name) if _exists_already(error) else None
            if experiment is None:
                raise
            return str(experiment.experiment_id)  # another campaign's tracker, on a shared server, was quicker

    def _show_page(self, state: State, metrics: Iterable[Metric] = (), time_ms: int = 0) -> None:
        """The page; where later events wait, at most every `PAGE_SECONDS`. `metrics` are logged at once."""
        if self._behind and time.monotonic() < self._paged_at + PAGE_SECONDS:
            self.page_due = True
            self._log(self.run_id, metrics, time_ms)
            return
        leaders = self._leaders(state)
        if self._pictures is None:  # an earlier process may have drawn some
            self._pictures = [file.path for file in self.client.list_artifacts(self.run_id, PICTURES)]
        pictures = [tracking_page.picture_address(self.run_id, path) for path in self._pictures]
        tags = {
            "mlflow.note.content": tracking_page.page(state, leaders, pictures),
            "evolve.status": plain(tracking_page.status(state)),
            "evolve.champion": short(state.champion_id),
            "evolve.pending": " ".join(short(c) for c in list(state.pending)[: tracking_page.PENDING_LIMIT])
            or "(none)",
            "evolve.best": f"{short(leaders[0][0])} {leaders[0][1].mean:.6g}" if leaders else "",
        }
        self._log(self.run_id, metrics, time_ms, tags=tags)
        self.page_due, self._paged_at = False, time.monotonic()

    def _pictures_due(self, state: State) -> bool:
        """Seldom: drawing takes half a second. By the clock too, since a backlog brings many trials at once."""
        trials = len(state.trials) - len(state.running) - len(state.waiting)
        return trials >= self._pictured + PICTURE_TRIALS and time.monotonic() >= self._pictured_at + PICTURE_SECONDS

    def _draw(self, state: State) -> None:
        """The pictures as they are now, in the place of the earlier ones; later where events wait."""
        if self._behind:
            self.page_due = self.undrawn = True
            return
        from evolve import pictures

        self.undrawn = False

        self._pictured_at = time.monotonic()
        self._pictured = len(state.trials) - len(state.running) - len(state.waiting)
        try:
            drawn = pictures.draw(state)
        except Exception as error:  # noqa: BLE001 - a picture must not hold back the events behind it
            at = f"not drawn at {self._pictured} trials"
            self._log(self.run_id, tags={"evolve.pictures": plain(f"{at}: {error!r}", 500)})
            return
        if not drawn:
            return
        with tempfile.TemporaryDirectory(prefix="evolve-") as name:
            for file, picture in drawn.items():
                (Path(name) / file).write_bytes(picture)
            self.client.log_artifacts(self.run_id, name, PICTURES)
        self._pictures = [f"{PICTURES}/{file}" for file in drawn]

    def _leaders(self, state: State) -> list[tuple[str, Evaluation]]:
        """Best first; ties go to the earlier, as in `State.best`. With several objectives the Pareto front before the rest."""
        ranked: Iterable[str] = (candidate_id for _, candidate_id in self._ranking)
        if state.campaign.subject.secondary:
            front = set(state.front())
            first = [c for _, c in self._ranking if c in front]
            ranked = itertools.chain(first, (c for _, c in self._ranking if c not in front))
        return [(c, self._scores[c][1]) for c in itertools.islice(ranked, LEADERS)]

    def _rank(self, state: State, candidate_id: str) -> None:
        score = state.search_score(candidate_id)
        if score is None:
            return
        number = len(self._scores)
        if known := self._scores.get(candidate_id):
            number = known[0][1]
            del self._ranking[bisect.bisect_left(self._ranking, (known[0], candidate_id))]
        key = (-state.sign * score.mean, number)
        self._scores[candidate_id] = key, score
        bisect.insort(self._ranking, (key, candidate_id))

    # ------------------------------------------------ the trials' runs

    def _start(self, state: State, number: int, attempt: int, time_ms: int) -> None:
        run_id = self._trial_run(state, number, time_ms)
        if attempt > 1:
            self._set_running(run_id)
            self._log(run_id, tags={"evolve.attempt": str(attempt), "evolve.state": "RUNNING"})

    def _trial_run(self, state: State, number: int, time_ms: int) -> str:
        """The trial's run; made here where there is none."""
        run_id = self._trials.get(number, "")
        if not run_id and (self.careful or self.rebuilding or number in self._trials):
            key = tracking_page.campaign_key(state.campaign)
            candidate = state.trials[number].candidate_id  # not another's, of a journal that went on otherwise
            run_id = (
                self._search(
                    f"tags.`evolve.campaign_key` = '{key}' and tags.`evolve.trial` = '{number}'"
                    f" and tags.`evolve.candidate` = '{candidate}'"
                )
                or ""
            )
        if not run_id:
            trial = state.trials[number]
            entry = state.entries[trial.candidate_id]
            name = tracking_page.run_name(trial, entry.proposal.proposer)
            run_id = self._create(name, trial_tags(state, number, self.run_id), time_ms)
        if not self._trials.get(number):
            # Also for a run that was found: the process that made it may have died before this.
            self._log(run_id, params=state.entries[state.trials[number].candidate_id].proposal.candidate.params)
            self._trials[number] = run_id
        return run_id

    def _finish(self, state: State, event: TrialFinished, time_ms: int) -> None:
        trial = state.trials[event.number]
        proposal = state.entries[trial.candidate_id].proposal
        run_id = self._trial_run(state, event.number, time_ms)
        tags = {"evolve.state": event.state, "evolve.attempt": str(trial.attempt)}
        why = "evolve.pruned" if event.state == "PRUNED" else "evolve.error"
        tags |= {why: plain(event.error, 500)} if event.error else {}
        tags |= {"evolve.weights": event.weights} if event.weights else {}
        environment = event.environment or state.environment
        tags |= environment_tags(environment) if environment else {}
        tags |= integrity_tags(event.integrity, state.campaign.subject.honeypot) if event.integrity else {}
        tags["mlflow.note.content"] = trial_note(event, proposal)
        metrics = [*measured(event), *objective_metrics(state, event.number), *curve_points(event.curve)]
        if proposal.model:
            metrics += [("llm_usd", proposal.spend.llm_usd, 0), ("llm_tokens", proposal.spend.llm_tokens, 0)]
        self._log(run_id, metrics, time_ms, tags=tags)
        self._attach(run_id, event, proposal)
        if proposal.transcript and trial.purpose == "search":
            self._trace(run_id, proposal.model or proposal.proposer, proposal.transcript, proposal.spend, None, time_ms)
        self._end(run_id, _RUN_STATUS[event.state], time_ms)
        self._rank(state, trial.candidate_id)
        points: list[Metric] = []
        if event.score is not None:
            best = self._scores[self._ranking[0][1]][1].mean
            points = [("score", event.score.mean, event.number), ("best", best, event.number)]
        if self._pictures_due(state):
            self._draw(state)
        self._show_page(state, points, time_ms)

    def _refused_edit(self, state: State, candidate_id: str, event: EditChecked, time_ms: int) -> None:
        """A run for an edit that was never trained, so that it can be read there like any other."""
        proposal, key = state.entries[candidate_id].proposal, tracking_page.campaign_key(state.campaign)
        known = f"tags.`evolve.campaign_key` = '{key}' and tags.`evolve.kind` = 'check' and tags.`evolve.candidate` = '{candidate_id}'"
        run_id = (self._search(known) if self.careful or self.rebuilding else None) or self._create(
            f"check {short(candidate_id)} {plain(proposal.proposer, 40)}",
            check_tags(state, candidate_id, self.run_id),
            time_ms,
        )
        tags = {
            "evolve.error": plain(f"{event.stage}: {event.error}", 500),
            "mlflow.note.content": check_note(event, proposal),
        }
        self._log(run_id, tags=tags)
        if self._touch(run_id):
            with tempfile.TemporaryDirectory(prefix="evolve-") as name:
                (Path(name) / "patch.diff").write_text(printable(proposal.candidate.patch or ""))
                self.client.log_artifacts(run_id, name)
        self._end(run_id, "FAILED", time_ms)

    def _attach(self, run_id: str, event: TrialFinished, proposal: Proposal) -> None:
        """Proposal, patch, end of the log and evaluation, in one upload."""
        if not self._touch(run_id):
            return
        source = self.folder / "trials" / f"{event.number:05d}"
        log = read_regular(source / "train.log", LOG_BYTES) or event.log_tail.encode()[-LOG_BYTES:]
        evaluation = read_regular(source / "evaluation-search-0.json")
        with tempfile.TemporaryDirectory(prefix="evolve-") as name:
            target = Path(name)
            (target / "proposal.json").write_text(json.dumps(asdict(proposal), indent=2, default=str))
            if proposal.candidate.patch is not None:  # to be read; exactly as it is, it is in the proposal
                (target / "patch.diff").write_text(printable(proposal.candidate.patch))
            if event.integrity is not None:
                (target / "integrity.json").write_text(json.dumps(asdict(event.integrity), indent=2))
            if log:
                (target / "log_tail.txt").write_text(printable(log.decode(errors="replace")))
            if evaluation:
                (target / "evaluation.json").write_bytes(evaluation)
            self._upload(run_id, name)

    def _upload(self, run_id: str, name: str) -> None:
        """The files of the folder `name`; the client's own way asks the store for the whole run first."""
        place = self._places.pop(run_id, None)
        if place is None:
            self.client.log_artifacts(run_id, name)
            return
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        get_artifact_repository(place, tracking_uri=self.client.tracking_uri).log_artifacts(name)

    def _trace(
        self, run_id: str, name: str, said: tuple[Message, ...], spend: Spend, error: str | None, time_ms: int
    ) -> None:
        """The exchange with a language model as a trace of `run_id`; an answer that could not be used is an error."""
        import mlflow

        if not self._touch(run_id):
            return
        if self.careful and self.client.search_traces(locations=[self.experiment_id], run_id=run_id):
            return
        mlflow.set_tracking_uri(self.client.tracking_uri)  # what writes the spans knows the process' own store alone
        messages = [{"role": m.role, "content": m.text} for m in said]
        span = self.client.start_trace(
            plain(name, 80),
            span_type="CHAT_MODEL",
            inputs={"messages": messages[:-1]},
            attributes={"llm_tokens": spend.llm_tokens, "llm_usd": spend.llm_usd},
            experiment_id=self.experiment_id,
            start_time_ns=time_ms * 1_000_000,
        )
        outputs = {"error": error} if error else {"choices": [{"message": messages[-1]}]}
        self.client.end_trace(
            span.trace_id,
            outputs=outputs,
            status="ERROR" if error else "OK",
            end_time_ns=time_ms * 1_000_000
            + round(spend.llm_seconds * 1e9),  # else: until now, when it is carried over
        )
        self.client.link_traces_to_run([span.trace_id], run_id)

    def _interrupt(self, state: State, time_ms: int) -> None:
        """A trial that a resume will run again must not look as if it still ran."""
        for number in [*state.running, *state.waiting]:
            if number in self._trials:
                run_id = self._trial_run(state, number, time_ms)
                self._log(run_id, tags={"evolve.state": "WAITING"})
                self._end(run_id, "KILLED", time_ms)

    # ------------------------------------------------ verdicts, approvals, promotions

    def _show_stages(self, state: State, event: Event, time_ms: int) -> None:
        news = self._news(state, event)
        changes = {candidate_id: stage_tags(shown) for candidate_id, shown in news.items()}
        if candidate_id := self._note_answer(state, event):
            changes.setdefault(candidate_id, {})["evolve.vault"] = self._answers[candidate_id]
        for candidate_id, tags in changes.items():
            for number in state.entries[candidate_id].trials:
                if number in self._trials:
                    self._log(self._trial_run(state, number, time_ms), tags=tags)
        self._show_page(state)
        self._shown.update(news)

    def _note_answer(self, state: State, event: Event) -> str:
        """The candidate that the vault has answered about; "" for another event."""
        if not isinstance(event, VaultAnswered):
            return ""
        self._answers[event.candidate_id] = vault_text(state.campaign.subject, passed=event.passed)
        return event.candidate_id

    def _news(self, state: State, event: Event) -> dict[str, Shown]:
        """Candidates whose stage or verdict differs from what their tags say. One event can change several: a promotion
        voids what was pending."""
        watched = dict.fromkeys([*self._shown, *_candidates(event), state.campaign.start.id])
        now = {c: shown_of(state, c) for c in watched}
        return {c: shown for c, shown in now.items() if self._shown.get(c) != shown}

    # ------------------------------------------------ MLflow

    def _search(self, query: str) -> str | None:
        """The oldest run of ours; a deleted one too, which is not made anew.

        A server that did not answer in time may have made a run after all, and another one at the client's own second
        attempt. Such a run got nothing but what it was made with: it is deleted, so that a trial has one run.
        """
        from mlflow.entities import ViewType

        runs = self.client.search_runs(
            [self.experiment_id], query, ViewType.ALL, max_results=10, order_by=["attributes.start_time ASC"]
        )
        runs = sorted(runs, key=lambda run: not _was_used(run))
        for run in runs[1:]:
            if run.info.lifecycle_stage == "active" and not _was_used(run):
                # The key first: were it found again, it would count as one that a person has deleted.
                self.client.set_tag(run.info.run_id, "evolve.campaign_key", "doubled")
                self.client.delete_run(run.info.run_id)
        return str(runs[0].info.run_id) if runs else None

    def _set_running(self, run_id: str) -> None:
        if self._touch(run_id):
            self.client.update_run(run_id, status="RUNNING")

    def _end(self, run_id: str, status: str, time_ms: int) -> None:
        if self._touch(run_id):
            self.client.set_terminated(run_id, status, end_time=time_ms)

    def _create(self, name: str, tags: Mapping[str, str], time_ms: int) -> str:
        run = self.client.create_run(self.experiment_id, start_time=time_ms, tags=dict(tags), run_name=name)
        run_id = str(run.info.run_id)
        self._places[run_id] = str(run.info.artifact_uri)
        return run_id

    def _log(
        self,
        run_id: str,
        metrics: Iterable[Metric] = (),
        time_ms: int = 0,
        *,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """One `log_batch`; several only where MLflow's limits ask for it."""
        if not self._touch(run_id):
            return
        from mlflow.entities import Metric as Point
        from mlflow.entities import Param, RunTag

        rest: dict[str, list[Any]] = {
            "metrics": [Point(log_name(n), float(v), time_ms, step) for n, v, step in metrics if math.isfinite(v)],
            "params": [Param(log_name(n), plain(str(v), 500)) for n, v in (params or {}).items()],
            "tags": [RunTag(n, v) for n, v in (tags or {}).items()],
        }
        while any(rest.values()):
            self.client.log_batch(run_id, **{kind: rest[kind][:size] for kind, size in _BATCH.items()})
            rest = {kind: rest[kind][size:] for kind, size in _BATCH.items()}


def _exists_already(error: Exception) -> bool:
    return getattr(error, "error_code", "") == "RESOURCE_ALREADY_EXISTS"


def _was_used(run: Run) -> bool:
    """Whether anything came after its making, by us or by a person: parameters, scores, a page, an end."""
    kept = run.data.params or run.data.metrics or run.info.end_time or "mlflow.note.content" in run.data.tags
    return bool(kept) or run.info.lifecycle_stage != "active"


def _changes_stages(event: Event) -> bool:
    kinds = ChallengeOpened | VerdictReached | VaultAnswered | ApprovalRequested | Decided | Promoted | RolledBack
    # A proposed evaluation is in the journal alone: it is no candidate, and a run is a training.
    asked = (
        event.request
        if isinstance(event, ApprovalRequested)
        else event.approval
        if isinstance(event, Decided)
        else None
    )
    return isinstance(event, kinds) and (asked is None or asked.kind == "candidate")


def _changes_what_is_kept(event: Event) -> bool:
    rejected = isinstance(event, Decided) and event.approval.decision == "reject"
    return rejected or isinstance(event, ApprovalRequested | Promoted | RolledBack)


def _candidates(event: Event) -> Iterator[str]:
    match event:
        case ApprovalRequested(request):
            yield request.candidate_id
        case Decided(approval):
            yield approval.candidate_id
        case Promoted(candidate_id, previous_id):
            yield from (candidate_id, previous_id)
        case RolledBack(candidate_id, restored_id):
            yield from (candidate_id, restored_id)
        case ChallengeOpened(candidate_id) | VerdictReached(candidate_id) | VaultAnswered(candidate_id):
            yield candidate_id
