"""The composition root: the only place that names concrete classes. Part of the CLI; imported inside its commands."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from evolve import campaign as files
from evolve import champion, devices, memory, processes, sandbox, signatures, waiting
from evolve.campaign import Folder
from evolve.config import Config, FallbackConfig, check_prices
from evolve.edits import Harness
from evolve.environment import this_environment
from evolve.errors import BadInput, EvolveError, NotCommitted, NotFound, did_you_mean
from evolve.executors import LocalExecutor, LocalProcesses, LocalScorer
from evolve.fallbacks import CircuitBreaker, Fallbacks
from evolve.journal import Journal
from evolve.ledger import Ledger, MeteredModel
from evolve.loop import Check, Loop, Ports, Watcher
from evolve.memory import View
from evolve.policy import request_of
from evolve.ports import (
    Advisor,
    Assessor,
    Executor,
    LanguageModel,
    NeverPruner,
    NoAssessor,
    Proposer,
    Pruner,
    Registry,
    Scorer,
    Tracker,
)
from evolve.proposers import AdvisedProposer, DefaultProposer, EditsProposer
from evolve.search import EvolveProposer, OptunaProposer, SamplerFactory, tpe
from evolve.space import SearchSpace
from evolve.state import State, apply
from evolve.types import (
    SUITE,
    ApprovalRequest,
    Budget,
    Candidate,
    Command,
    Event,
    HistoryImported,
    LessonWritten,
    Record,
    SuiteMetric,
    short,
)
from evolve.weights import WeightStore, layout_of
from evolve.workspace import Snapshot, git_commit

if TYPE_CHECKING:
    from evolve.agent import AgentProposer, AgentSettings
    from evolve.agent_tools import Insight
    from evolve.notify import Notifier
    from evolve.ray_executor import Cluster

_EARLIER = 5  # campaigns whose lessons a new one begins with


def sandbox_of(config: Config) -> tuple[str, str]:
    """(what edited code runs in: `bubblewrap`, `none` or `unavailable`; why, where it is not the first).

    Raises `BadInput` where bubblewrap was asked for and does not work.
    """
    if config.sandbox == "none":
        return "none", "sandbox=none: after edited code has run, nothing of the campaign can be accepted"
    level = sandbox.find()
    if level.name != "bubblewrap" and config.sandbox == "bubblewrap":
        raise BadInput(f"sandbox=bubblewrap must work here, but {level.reason}")
    return (level.name if level.name == "bubblewrap" else "unavailable"), level.reason


def edits_text(config: Config) -> str:
    """Whether edits of the harness are proposed, and what they run in; for the plan."""
    if not config.subject.editable:
        return "none: the subject has no editable files"
    level, reason = sandbox_of(config)
    if level == "unavailable":
        return f"refused: {reason}"
    if level == "none":
        return reason
    who = f"of {', '.join(config.subject.editable)}" if config.edits else "by people alone (edits=false)"
    return f"{who}, in the sandbox ({reason}); {len(config.subject.edits)} ready-made"


def devices_of(config: Config) -> devices.Devices | None:
    """What hands this machine's accelerators out to trainings and scores; None where the subject needs none.

    Raises `BadInput` where there are fewer than the workers need.
    """
    each = config.executor.gpus_per_trial
    free = devices.slots(devices.visible(), each)  # refuses a share that is none, on any device
    if config.subject.device == "cpu":
        return None
    if len(free) < config.executor.workers:
        raise BadInput(
            f"executor.workers must be at most what the accelerators here carry, {len(free)} with gpus_per_trial={each:g}, but"
            f" got {config.executor.workers}; set fewer workers or a smaller share."
        )
    return devices.Devices(free)


def harness(config: Config, files: Mapping[str, str] | None) -> Harness | None:
    """What proposers may edit; None where they are not asked for edits."""
    if not config.edits or not files or sandbox_of(config)[0] == "unavailable":
        return None
    return Harness(files, config.subject.edits)


def evaluations(config: Config, files: Mapping[str, str] | None) -> bool:
    """Whether an agent is told that it may propose evaluations: code of its own, as edits are."""
    return bool(config.subject.answer_cmd) and harness(config, files) is not None


# ---------------------------------------------------------------- proposers


def language_model(config: Config) -> Fallbacks | None:
    """The configured models, not metered, each left alone while it is down; None where nobody would ask one.

    Raises `BadInput` where a dollar budget is set and nobody knows the price.
    """
    agent = config.agent
    if agent.model is None or config.proposer.kind not in ("auto", "agent"):
        return None
    from evolve.llm import LitellmModel

    first = FallbackConfig(agent.model, agent.api_base, agent.price_in, agent.price_out)
    models = []
    for asked in (first, *agent.fallbacks):
        model = LitellmModel(
            model=asked.model,
            api_base=asked.api_base,
            max_tokens=agent.max_tokens,
            temperature=agent.temperature,
            timeout_seconds=agent.timeout_seconds,
            price_in=asked.price_in,
            price_out=asked.price_out,
            tools=agent.tools if asked is first else None,
            tier=agent.tier if asked is first else "standard",
        )
        dollars = [name for name in ("llm_usd", "usd") if getattr(config.budget, name) is not None]
        if dollars and not model.price_known:
            raise BadInput(
                f"budget.{dollars[0]} needs a price, but litellm knows none for {asked.model!r};"
                " set agent.price_in and agent.price_out (US dollars per million tokens)."
            )
        models.append(CircuitBreaker(model))
    return Fallbacks(models)


def sampler_factory(target: dict[str, Any]) -> SamplerFactory:
    """seed -> the Optuna sampler named by `_target_`, with its other keys as arguments. Raises `BadInput`."""
    import optuna

    options = {k: v for k, v in target.items() if k != "_target_"}
    name = str(target.get("_target_", ""))
    known = [n for n in dir(optuna.samplers) if n.endswith("Sampler") and n != "BaseSampler"]
    kind = getattr(optuna.samplers, name.removeprefix("optuna.samplers."), None)
    if not name.startswith("optuna.samplers.") or not isinstance(kind, type):
        leaf = name.rsplit(".", 1)[-1]
        raise BadInput(
            f"proposer.sampler._target_ must be one of Optuna's samplers, but got {name!r}{did_you_mean(leaf, known)}"
        )

    def make(seed: int) -> optuna.samplers.BaseSampler:
        return kind(**options, seed=seed)  # type: ignore[no-any-return]

    try:
        make(0)
    except (TypeError, ValueError, ImportError) as error:
        raise BadInput(f"{name} must accept proposer.sampler's settings, but: {error}; correct them.") from error
    return make


def agent_settings(config: Config) -> AgentSettings:
    from evolve.agent import AgentSettings
    from evolve.agent_text import Sharing

    a = config.agent
    sharing = Sharing(a.share_code, a.share_logs, a.share_lessons)
    return AgentSettings(a.style, a.max_calls, a.context_tokens, sharing, a.brief_text)


def insight(config: Config) -> Callable[[View], Insight]:
    """What the campaign's sampler thinks; made at the first question, in whose thread it stays."""
    made: list[Callable[[View], Insight]] = []

    def ask(view: View) -> Insight:
        if not made:
            from evolve.insight import SamplerInsight

            made.append(SamplerInsight(lambda: _sampler(config)))
        return made[0](view)

    return ask


def agent_prompt(config: Config, files: dict[str, str], style: str | None = None) -> AgentProposer:
    """The agent as it would be asked, for `evolve prompt`. Without a model the prompt of one that calls tools."""
    from evolve.agent import AgentProposer
    from evolve.llm import ScriptedModel

    settings = agent_settings(config)
    if style is not None:
        settings = replace(settings, style=style)  # type: ignore[arg-type]
    model = language_model(config) or ScriptedModel([], calls_tools=True)
    return AgentProposer(model, settings=settings, insight=insight(config), files=files,
                         harness=harness(config, files), evaluations=evaluations(config, files))  # fmt: skip


def _sampler(config: Config) -> Proposer:
    """Who proposes beside an advisor."""
    chosen = config.proposer
    if not chosen.sampler and not config.subject.secondary:
        return EvolveProposer()
    factory = sampler_factory(dict(chosen.sampler)) if chosen.sampler else tpe
    return OptunaProposer(factory, "tpe")


def proposers(
    config: Config, model: LanguageModel | None, editable: dict[str, str] | None = None
) -> tuple[Proposer, Advisor | None]:
    """Who chooses the candidates, and who advises. `auto`: the agent where a model is configured, else the playbook,
    advises our own sampler (TPE where there are several objectives); `agent` is an advisor whose every suggestion is taken.
    """
    chosen = config.proposer
    if chosen.kind == "default":
        return DefaultProposer(), None
    if chosen.kind == "evolve":
        if config.subject.secondary:
            raise BadInput("proposer=evolve takes one objective, but the subject has several; use proposer=tpe.")
        return EvolveProposer(), None
    if chosen.kind == "optuna":
        target = dict(chosen.sampler or {})
        name = str(target.get("_target_", "")).rsplit(".", 1)[-1].removesuffix("Sampler").lower()
        return OptunaProposer(sampler_factory(target), name), None
    advisor: Advisor
    if model is not None:
        from evolve.agent import AgentProposer

        advisor = AgentProposer(model, settings=agent_settings(config), insight=insight(config), files=editable or {},
                                harness=harness(config, editable), evaluations=evaluations(config, editable))  # fmt: skip
    else:
        from evolve.playbook import PlaybookProposer

        advisor = PlaybookProposer(harness(config, editable))
    if chosen.kind == "playbook":
        return advisor, None
    if chosen.kind == "agent" or chosen.share >= 1:
        return AdvisedProposer(None), advisor
    sampler = _sampler(config)
    if isinstance(sampler, EvolveProposer):
        return EditsProposer(sampler, chosen.share), advisor
    return AdvisedProposer(sampler, chosen.share), advisor


def import_search() -> None:
    """Imports what the first proposal and the first verdict need: more than a second in which a worker would wait."""
    import optuna.samplers  # noqa: F401
    import scipy.special  # noqa: F401  of gate.py

    import evolve.sampler  # noqa: F401


def pruner(config: Config, warn: Callable[[str], None]) -> Pruner:
    """The pruner that the config names, which knows nothing yet. Raises `BadInput`."""
    if config.pruner.get("_target_") is None:
        return NeverPruner()
    from evolve.pruning import OptunaPruner, pruner_factory

    return OptunaPruner(pruner_factory(config.pruner), warn)


# ---------------------------------------------------------------- tracking


class NoTracker:
    """`tracking=none`: the journal alone is the record."""

    def record(self, record: Record) -> None:
        pass

    def flush(self, timeout_seconds: float) -> int:
        return 0

    def close(self) -> None:
        pass


def tracking_uri(config: Config, folder: Folder) -> str:
    return config.tracking.uri or f"sqlite:///{folder.state_dir / 'mlflow.db'}"


def artifact_place(config: Config, folder: Folder) -> Path | str | None:
    """Where the files of a new experiment go; None: where the server says. MLflow's own choice for a database would be
    `mlruns` in whatever folder a person happens to stand in."""
    from evolve.tracking import is_database

    if config.tracking.artifacts is not None:
        return config.tracking.artifacts
    return folder.state_dir / "mlartifacts" if is_database(tracking_uri(config, folder)) else None


def tracker(config: Config, folder: Folder, warn: Callable[[str], None], *, apart: bool = False) -> Tracker:
    """The campaign's tracker: in a process of its own (`apart`, for a controller), or in a thread of this one."""
    if config.tracking.kind == "none":
        return NoTracker()
    uri, artifacts = tracking_uri(config, folder), artifact_place(config, folder)
    if apart:
        from evolve.tracking_process import TrackerProcess

        return TrackerProcess(uri, folder.path, warn=warn, artifacts=artifacts, prefix=processes.die_with_parent())
    from evolve.tracking import MlflowTracker

    return MlflowTracker(uri, folder.path, warn=warn, artifacts=artifacts)


def registry(config: Config, folder: Folder, *, apart: bool = False) -> Registry:
    """The model registry, in a process of its own (`apart`) or in this one."""
    if apart:
        from evolve.tracking_process import RegistryProcess

        return RegistryProcess(tracking_uri(config, folder), folder.path, prefix=processes.die_with_parent())
    from evolve.registry import MlflowRegistry

    return MlflowRegistry(tracking_uri(config, folder), folder.path, WeightStore(folder.weights).path)


def sync_branch(config: Config, folder: Folder, state: State) -> list[str]:
    """The branch with the promoted edits as the journal says; a line where there can be none. Raises `NotCommitted`."""
    from evolve import branch
    from evolve.tracking import read_position

    position = read_position(folder.path)
    run_id = None if position is None else position.run_id
    try:
        return branch.sync(
            folder, state, branch.Origin(Path(config.root), config.commit, config.start == "champion", run_id)
        )
    except branch.NoRepository as reason:
        return [str(reason)] if "branch" in champion.behind(folder) else []
    except OSError as error:
        raise NotCommitted(f"A commit needs room for temporary files, but {error}; run `evolve sync` later.") from error


def stored_config(state: State) -> Config:
    """The config that a campaign was started with, from its journal."""
    config: Config = msgspec.convert(state.campaign.config, Config)
    return config


# ---------------------------------------------------------------- campaigns


def start_point(config: Config, sources: Path | None = None) -> tuple[Candidate, str]:
    """What a new campaign starts from, and where it comes from. `sources`: where its files are, by default the user's own.

    Hyperparameters that the champion's patch declares stay in the space, also where the user has merged the patch: then
    the merged code reads them. Raises `BadInput` where the patch does not fit the sources.
    """
    subject = config.subject
    state_dir = Path(config.state_dir).resolve()
    found = champion.starting_point(state_dir, subject.name) if config.start == "champion" else None
    if found is None:
        return Candidate(SearchSpace(subject.space).default(), ""), "the subject's default config"
    from evolve.carry import carried

    declared = {name: p for name, p in found.candidate.declared.items() if name not in subject.space}
    params = SearchSpace({**subject.space, **declared}).overlay(found.candidate.params, {})
    patch, origin = found.candidate.patch, found.origin
    if patch is not None:
        patch = carried(patch, subject.editable, sources or Path(config.root), found.snapshot)
        origin += ", with its patch" if patch is not None else ", whose patch the sources have"
    return Candidate(params, "", patch, declared), origin


def imported_history(config: Config) -> HistoryImported | None:
    """What `start.import` names, read now; None without it. Raises `BadInput`."""
    if config.history.source is None:
        return None
    from evolve import history

    state_dir = Path(config.state_dir).resolve()
    return history.read(
        config.history.source,
        SearchSpace(config.subject.space),
        config.subject.objective,
        metric=config.history.metric,
        state_dir=state_dir,
        tracking_uri=config.tracking.uri or f"sqlite:///{state_dir / 'mlflow.db'}",
    )


def earlier_lessons(config: Config, new: Folder) -> list[LessonWritten]:
    """What the latest campaigns on the same subject leave to a new one, the latest last; each hands on its own past too.

    A journal that cannot be read is left out, and said so on stderr.
    """
    found: dict[tuple[str, str], LessonWritten] = {}
    earlier = [f for f in files.campaigns(new.state_dir) if f.name != new.name]
    for folder in [f for f in earlier if files.subject_of(f) == config.subject.name][-_EARLIER:]:
        try:
            found |= {(x.origin, x.text): x for x in memory.carried(files.load(folder))}
        except EvolveError as error:
            print(f"evolve: the lessons of {folder.name} are left out: {error}", file=sys.stderr)
    return list(found.values())[-memory.MOST_LESSONS :]


def with_suite(config: Config) -> Config:
    """With the evaluations that people have adopted for the subject. Raises `BadInput`, also for a guard that is none of them."""
    from evolve import suite_file

    subject, found = config.subject, tuple[SuiteMetric, ...]()
    if config.suite and subject.answer_cmd:
        found = suite_file.adopted(Path(config.state_dir).resolve(), subject.name)
    if found and sandbox.find().name != "bubblewrap":
        raise BadInput(
            f"The suite's code runs in the sandbox alone, but {sandbox.find().reason}; suite=false begins without it."
        )
    names = [metric.metric for metric in found]
    for guard in subject.guards:
        if guard.metric.startswith(SUITE) and guard.metric not in names:
            raise BadInput(
                f"A guard must be measured, but {guard.metric!r} is not adopted{did_you_mean(guard.metric, names)}"
            )
    return replace(config, subject=replace(subject, suite=found))


def create(config: Config, clock: Callable[[], float] = time.time) -> tuple[Folder, Journal, State]:
    """Makes a campaign on disk and writes its first event. The caller holds the journal's lock afterwards."""
    config = with_suite(config)
    proposers(config, language_model(config))  # a wrong sampler or model must fail before anything is made
    pruner(config, lambda line: None)
    start_point(config)  # what is refused is refused before anything is made
    imported = imported_history(config)
    if imported is not None:  # the journal holds no password
        config = replace(config, history=replace(config.history, source=imported.source))
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(clock()))
    name = config.campaign or f"{config.subject.name}-{stamp}"
    path = Path(config.state_dir).resolve() / "campaigns" / name
    number = 2
    while config.campaign is None and path.exists():
        path, number = path.with_name(f"{name}-{number}"), number + 1
    secret = files.new_secret(config.secret_file)
    folder = files.create(path, secret)
    try:
        snapshot = Snapshot.take(
            Path(config.root),
            config.subject.sources,
            folder.path / "code",
            Path(config.state_dir),
            config.subject.outside,
        )
        if not config.subject.is_project:
            asset = config.subject.assets[config.subject.weights.like]
            if not (snapshot.folder / asset).exists():
                raise NotFound(
                    f"The subject's assets must be among its sources, but {asset} is not; add it to `sources`."
                )
            layout_of(snapshot.folder / asset)
        start, origin = start_point(config, snapshot.folder)
    except BaseException:
        shutil.rmtree(folder.path, ignore_errors=True)  # nothing has begun: the name is free again
        raise
    config = replace(config, commit=git_commit(Path(config.root)))
    journal, state = files.open_journal(folder, clock)
    event = files.started_event(
        folder, config.subject, snapshot, secret, start, origin,
        seed=config.seed, rules=config.rules, config=msgspec.to_builtins(config),
    )  # fmt: skip
    lessons = earlier_lessons(config, folder) if config.agent.model is not None else []
    for first in (event, imported, *lessons):
        if first is not None:
            journal.records.append(journal.append(first))
            apply(state, first, journal.records[-1].time)
    return folder, journal, state


def suite_of(local: LocalProcesses, secret: str) -> tuple[Scorer, Assessor]:
    """The scorer, with the campaign's suite where it has one, and who tries proposed evaluations."""
    from evolve import suite_runs

    scorer, suite = LocalScorer(local, secret), suite_runs.Suite(local, secret)
    measured = suite_runs.SuiteScorer(scorer, suite) if local.subject.suite else scorer
    return measured, suite if suite_runs.available(local) else NoAssessor()


def cluster_of(config: Config, workers: int, warn: Callable[[str], None]) -> Cluster:
    """The session's Ray cluster, whose nodes are there and alike. Raises `BadInput`."""
    from evolve.ray_executor import Asked, Cluster

    e = config.executor
    return Cluster(Asked(e.address, workers, e.num_cpus, e.num_gpus, dict(e.resources or {})), warn)


def make_loop(
    folder: Folder,
    journal: Journal,
    state: State,
    *,
    budget: Budget,
    workers: int,
    track: Tracker,
    watcher: Watcher,
    prune: Pruner,
    interrupted: Callable[[], bool],
    warn: Callable[[str], None],
) -> Loop:
    """The loop of one session over a campaign whose lock the caller holds. `prune` knows the journal up to here.

    To be run in the thread that calls this: what it starts ends with that thread.
    """
    config = stored_config(state)
    if config.history.source is not None and state.imported is None:
        raise EvolveError(
            f"{folder.name} must begin with its imported history, but was ended before that was written;"
            " start a new campaign."
        )
    secret = files.check_secret(folder, state)
    snapshot = folder.snapshot(state)
    snapshot.verify()
    store = WeightStore(folder.weights)
    cluster = None if config.executor.kind == "local" else cluster_of(config, workers, warn)
    level, reason = sandbox_of(config) if cluster is None else cluster.sandbox(config.sandbox)
    if level == "unavailable":  # perhaps on the nodes alone: then nobody is asked for edits that could not be tried
        config = replace(config, edits=False)
    if state.candidate(state.champion_id).patch is not None and level == "unavailable":
        raise EvolveError(
            f"The champion has edited code, which needs the sandbox, but {reason}; start=default begins without it."
        )
    accelerators = devices_of(config) if cluster is None else None
    local = LocalProcesses(state.campaign.subject, snapshot, folder.trials, store, level, accelerators)
    executor: Executor = LocalExecutor(local)
    scorer, assessor = suite_of(local, secret)
    environment, close = this_environment, local.close
    if cluster is not None:
        from evolve.ray_executor import RayExecutor, RayScorer

        cluster.begin(local, warm=config.executor.warm)
        executor, scorer = RayExecutor(cluster, local, secret), RayScorer(cluster, local, secret)
        assessor = assessor if isinstance(assessor, NoAssessor) else scorer
        environment, close = cluster.environment, cluster.close
    elif config.executor.warm:
        local.warm_up(warn)
    ledger, model = Ledger(), language_model(config)
    metered = None if model is None else MeteredModel(model, ledger)
    proposer, advisor = proposers(config, metered, snapshot.texts(state.campaign.subject.editable))
    ports = Ports(
        proposer=proposer,
        advisor=advisor,
        advisor_paused=lambda: model is not None and model.paused,
        executor=executor,
        scorer=scorer,
        assessor=assessor,
        tracker=track,
        store=store,
        environment=environment(config.commit),
        sandbox=level,
        watcher=watcher,
        pruner=prune,
        ledger=ledger,
        check=approval_check(folder),
        prepare=(lambda: None) if config.proposer.kind == "default" else import_search,
        steady=time.monotonic,
        close=close,
        left_behind=local.left_behind,
        journalled=local.journalled,
    )
    rules = replace(state.campaign.rules, budget=budget, workers=workers, advice_share=config.rules.advice_share)
    return Loop(journal, state, rules, ports, folder.inbox, interrupted)


def notifier(config: Config, folder: Folder, watcher: Watcher, warn: Callable[[str], None]) -> Notifier | None:
    """`watcher` with notifications; None where nobody is to be told."""
    if config.notify.to is None:
        return None
    from evolve.notify import Notifier, target

    every = config.notify.every_hours
    return Notifier(watcher, target(config.notify.to), folder.path / "notified.json", every_hours=every, warn=warn)


def missing_weights(folder: Folder, request: ApprovalRequest) -> str:
    """Why the weights that an approval would promote are not there as they were, or ""."""
    if request.kind == "eval":
        return ""
    try:
        WeightStore(folder.weights).verified(request.weights)
    except NotFound:
        name = short(request.candidate_id)
        return (
            f"Only the weights that were judged can be promoted, but those of {name} ({short(request.weights)}) are missing or"
            f" changed; `evolve reproduce {name}` makes them again, and puts them back where they come out the same."
        )
    return ""


def name_taken(folder: Folder, state: State, request: ApprovalRequest) -> str:
    """Why an evaluation cannot be adopted any more, or "": another campaign's has its name by now."""
    if request.kind != "eval":
        return ""
    from evolve import suite_file

    proposal = state.evals[request.candidate_id].proposal
    if suite_file.taken(folder.state_dir, state.campaign.subject.name).get(proposal.name, proposal.id) == proposal.id:
        return ""
    return f"An evaluation adds a metric, but {proposal.name!r} was adopted by now; reject this one."


def approval_check(folder: Folder) -> Check:
    """What the one writer checks of an approval beside the policy: its weights, and its signature where one is asked for."""

    def check(state: State, command: Command) -> str:
        request = request_of(state, command.candidate_id)
        if request is None:
            return ""  # the policy has refused it
        allowed = stored_config(state).approval.allowed_signers_text
        refusal = signatures.refusal(allowed, state.campaign, command)
        return refusal or missing_weights(folder, request) or name_taken(folder, state, request)

    return check


def perform_directly(journal: Journal, state: State, event: Event, track: Tracker) -> None:
    """Writes one event of a command while no controller runs."""
    record = journal.append(event)
    apply(state, event, record.time)
    track.record(record)


def dollars(config: Config) -> str:
    """What the language model may cost, for the plan."""
    if config.agent.model is None:
        return "0 (no language model is configured)"
    limit = config.budget.llm_usd
    return f"at most ${limit:.2f} (budget.llm_usd)" if limit is not None else "no limit (set budget.llm_usd)"


def _sampler_text(config: Config) -> str:
    if config.proposer.sampler:
        return str(config.proposer.sampler.get("_target_"))
    return "TPE" if config.subject.secondary else "evolve's sampler"


def proposer_text(config: Config) -> str:
    """Who proposes, said so that nobody takes a rule for a language model."""
    kind, model = config.proposer.kind, config.agent.model
    if kind == "optuna":
        return str((config.proposer.sampler or {}).get("_target_"))
    if kind == "agent" or (kind == "auto" and model):
        return f"language model {model}" + (f" advises {_sampler_text(config)}" if kind == "auto" else "")
    if kind == "auto":
        return f"playbook (rules, no language model is configured) advises {_sampler_text(config)}"
    if kind == "evolve":
        return "evolve's sampler"
    return "playbook (rules, no language model)" if kind == "playbook" else "default config alone"


def changed_limits(state: State, overrides: list[str]) -> tuple[Budget, int]:
    """Budget and workers for a resumed session: those of the last one, with what may be changed. Raises `BadInput`."""
    raw: dict[str, Any] = msgspec.to_builtins(state.budget)
    workers = state.workers if state.environment else state.campaign.rules.workers
    known = [*(f"budget.{name}" for name in raw), "executor.workers"]
    for word in overrides:
        name, _, value = word.partition("=")
        if name not in known:
            raise BadInput(f"{name!r} cannot be changed by a resume{did_you_mean(name, known)}")
        try:
            if name == "executor.workers":
                workers = int(value)
            else:
                raw[name.removeprefix("budget.")] = None if value == "null" else msgspec.json.decode(value)
        except (ValueError, msgspec.DecodeError) as error:
            raise BadInput(f"{name} must be a number, but got {value!r}; correct it.") from error
    try:
        budget = msgspec.convert(raw, Budget)
    except msgspec.ValidationError as error:
        raise BadInput(f"A budget must be numbers, but {error}; correct it.") from error
    limits = [v for v in (budget.trials, budget.train_seconds, budget.wall_seconds) if v is not None]
    if not limits or min(limits) <= 0:
        raise BadInput(
            "budget.trials, budget.train_seconds or budget.wall_seconds must be a limit above 0, but got"
            f" {limits}; set one of them."
        )
    check_prices(budget, state.campaign.subject)
    if workers < 1:
        raise BadInput(f"executor.workers >= 1 must hold, but got {workers}; set it to 1 or more.")
    return budget, workers


# ---------------------------------------------------------------- reproduce


def reproduce(folder: Folder, state: State, candidate_id: str) -> tuple[list[str], bool]:
    """Trains a candidate's latest scored trial again on its recorded seed and compares weights and score.

    Writes below the campaign's `reproduce/` alone, never into the journal; but weights of what waits for a person that the
    store has lost are put back, where they come out the same. True where weights and score are the same.
    """
    from evolve.ports import Cancel

    done = [state.trials[n] for n in state.entries[candidate_id].trials if state.trials[n].score is not None]
    if not done:
        raise BadInput(f"A candidate must have a scored trial to be reproduced, but {candidate_id[:8]} has none.")
    waits = waiting.request_of(state, candidate_id)  # then the weights that would be promoted
    trial = done[-1] if waits is None else state.trials[waits.trial_number]
    snapshot = folder.snapshot(state)
    snapshot.verify()
    secret = files.check_secret(folder, state)
    place = folder.path / "reproduce"
    level, _ = sandbox_of(stored_config(state))
    local = LocalProcesses(state.campaign.subject, snapshot, place / "trials", WeightStore(place / "weights"), level)
    training = LocalExecutor(local).train(trial, state.candidate(candidate_id), lambda point: None, Cancel())
    [score] = LocalScorer(local, secret).score([replace(trial, weights=training.weights)], "search", 0, Cancel())
    assert trial.score is not None
    here, then = this_environment(None), trial.hardware
    same_weights, same_score = training.weights == trial.weights, score.mean == trial.score.mean
    lines = [
        f"trial      {trial.number} of candidate {candidate_id[:8]}, seed {trial.seed}",
        f"recorded   {trial.score.mean:.4f} ± {trial.score.stderr:.4f}",
        f"again      {score.mean:.4f} ± {score.stderr:.4f}",
        f"weights    {'the same, bit for bit' if same_weights else 'different'}",
    ]
    store = WeightStore(folder.weights)
    if waits is not None and same_weights and missing_weights(folder, waits):
        store.path(waits.weights).unlink(missing_ok=True)
        store.put(WeightStore(place / "weights").verified(waits.weights).read_bytes())
        lines.append("restored   the store has the weights again: it can be approved")
    if here.hardware != then:
        lines.append(f"hardware   recorded on {then}, now on {here.hardware}: small differences are expected")
    return lines, same_weights and same_score


# ---------------------------------------------------------------- links and the UI


UI_PORT = 5000


def candidate_link(folder: Folder, request: ApprovalRequest) -> str | None:
    """Where a candidate's trials are in the MLflow UI that `evolve ui` starts; None where it was not tracked."""
    from evolve.tracking import read_position
    from evolve.tracking_page import candidate_url

    position = read_position(folder.path)
    if position is None:
        return None
    return candidate_url(_ui_base(position.uri, UI_PORT), position.experiment_id, request.candidate_id)


def _ui_base(uri: str, port: int) -> str:
    """Where people see a store: a server is its own page, any other store is shown by the one that `evolve ui` starts."""
    from evolve.tracking import shown_uri

    return shown_uri(uri) if uri.startswith(("http://", "https://")) else f"http://127.0.0.1:{port}"


def serve_ui(config: Config, folder: Folder, state: State, port: int) -> int:
    """Prints the links to the campaign. Where its store is no server, starts one on it first, on loopback alone, which ends
    with Ctrl-C."""
    from evolve.tracking import read_position
    from evolve.tracking_page import campaign_key, campaign_url, run_url

    position = read_position(folder.path)
    if config.tracking.kind == "none" or position is None:
        raise BadInput(
            f"The UI needs a tracked campaign, but {folder.name} is in no store yet; `evolve sync` carries it over"
            " (with tracking=none there is none: `evolve report` needs no store)."
        )
    uri = tracking_uri(config, folder)
    base = _ui_base(uri, port)
    links = [
        f"trials     {campaign_url(base, position.experiment_id, campaign_key(state.campaign))}",
        f"summary    {run_url(base, position.experiment_id, position.run_id)}",
    ]
    if uri.startswith(("http://", "https://")):
        print("\n".join(links))
        return 0
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise BadInput(f"Port {port} must be free, but something answers there; use `evolve ui --port {port + 1}`.")
    print("starting MLflow's server", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
               "--uvicorn-opts", "--log-level critical"]  # fmt: skip
    settings = {
        "MLFLOW_BACKEND_STORE_URI": uri,  # not an argument, which everybody on the machine can read: it may hold a password
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven processes of 300 MB each, for evaluations that nobody asks for
    }
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # ends as Ctrl-C does, and the server with us
    with subprocess.Popen(command, env=os.environ | settings) as server:
        try:
            while server.poll() is None:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        print("\n".join([*links, "ready; end with Ctrl-C"]), flush=True)
                        break
                time.sleep(0.2)
            return server.wait()
        except KeyboardInterrupt:
            server.terminate()
    return 0
