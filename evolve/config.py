"""From Hydra overrides to a checked `Config`. Imported by the CLI inside the commands that need it.

Hydra composes, msgspec checks the types, `SearchSpace` checks the ranges; below this module there is no DictConfig.
Every mistake becomes one line with the nearest valid name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_type_hints

import msgspec

from evolve import commands, outside, projects
from evolve.errors import BadInput, did_you_mean
from evolve.gate import MOST_SEEDS
from evolve.space import SearchSpace
from evolve.types import MEASURED, PERSON_NAME, SUITE, Budget, GateRules, Rules, Subject

_PACKAGE = Path(__file__).parent
_PROJECT = "project"  # the name under which Hydra knows the subject of somebody's YAML
SPLITS = ("train", "search", "gate", "vault")
MOST_BRIEF_CHARS = 8000
MOST_SIGNERS_CHARS = 20_000
CARRIED = ("strict", "standard", "cheap")  # settings of the gate that `gate=auto` may take, the strictest first
BANK_SHARE = 3  # of a budget's trials the bank may take one in so many


def data_root() -> Path:
    """Where `configs/`, `train/` and `evals/` lie: beside the package in a clone, inside it in a wheel."""
    return _PACKAGE.parent if (_PACKAGE.parent / "configs" / "config.yaml").exists() else _PACKAGE / "_data"


def groups() -> dict[str, list[str]]:
    """Hydra group -> its options, read from the folder names alone (0.1 ms: `--help` shows them)."""
    root = data_root() / "configs"
    folders = (d for d in sorted(root.iterdir()) if d.is_dir() and d.name != "ready_edits")  # those are a subject's own
    # one that begins with _ is shared by others
    return {d.name: sorted(p.stem for p in d.glob("*.yaml") if not p.stem.startswith("_")) for d in folders}


@dataclass(frozen=True)
class ProposerConfig:
    kind: Literal["auto", "default", "evolve", "optuna", "playbook", "agent"]
    share: float = 0.3
    sampler: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ExecutorConfig:
    kind: Literal["local", "ray"]
    workers: int = 1
    gpus_per_trial: float = 1.0  # a whole number, or a fraction of one; where the subject's device is no CPU
    warm: bool = True  # fork trainings and scores from servers that have imported what `subject.preload` names
    address: str | None = None  # of a Ray cluster, as are the rest; None: a local one
    num_cpus: float = 1.0  # of each trial
    num_gpus: float = 0.0
    resources: Mapping[str, float] | None = None


@dataclass(frozen=True)
class TrackingConfig:
    kind: Literal["mlflow", "none"]
    uri: str | None = None
    artifacts: str | None = None  # folder or URI for the files of an experiment that has to be made


@dataclass(frozen=True)
class HistoryConfig:
    """`start.import` and `start.metric`; the source without its password once it is in a journal."""

    source: str | None = None
    metric: str | None = None


@dataclass(frozen=True)
class FallbackConfig:
    """A model that is asked where those before it fail; a word alone in the list is its name."""

    model: str
    api_base: str | None = None
    price_in: float | None = None
    price_out: float | None = None


@dataclass(frozen=True)
class AgentConfig:
    model: str | None = None
    api_base: str | None = None
    max_tokens: int = 4096
    temperature: float = 0.7
    timeout_seconds: float = 120
    price_in: float | None = None
    price_out: float | None = None
    style: Literal["auto", "tools", "single"] = "auto"
    max_calls: int = 6
    context_tokens: int = 24_000
    brief: str | None = None
    brief_text: str = ""  # of the file, read when the campaign is configured
    share_code: bool = True
    share_logs: bool = True
    share_lessons: bool = True
    tools: bool | None = None
    tier: Literal["standard", "high_speed"] = "standard"
    fallbacks: tuple[FallbackConfig, ...] = ()


@dataclass(frozen=True)
class ApprovalConfig:
    """Who approves. `by` is the default of `evolve review --by`; the signers' text is fixed when the campaign is made."""

    by: str | None = None
    allowed_signers: str | None = None
    allowed_signers_text: str = ""  # of the file, read when the campaign is configured


@dataclass(frozen=True)
class NotifyConfig:
    """Who is told that something waits: a URL, or a command (one text, or its words); see `notify.py`."""

    to: str | tuple[str, ...] | None = None
    every_hours: float | None = None


@dataclass(frozen=True)
class Config:
    """All that a campaign is started from; stored in its journal."""

    subject: Subject
    root: str  # of the subject's sources
    proposer: ProposerConfig
    executor: ExecutorConfig
    gate: GateRules
    tracking: TrackingConfig
    budget: Budget
    agent: AgentConfig = field(default_factory=AgentConfig)
    approval: ApprovalConfig = field(default_factory=ApprovalConfig)
    notify: NotifyConfig = field(default_factory=NotifyConfig)
    pruner: Mapping[str, Any] = field(
        default_factory=dict
    )  # `_target_` in optuna.pruners, null for none; its arguments
    campaign: str | None = None
    state_dir: str = ".evolve"
    seed: int = 0
    start: Literal["champion", "default"] = "champion"
    history: HistoryConfig = field(default_factory=HistoryConfig)
    secret_file: str | None = None
    max_attempts: int = 3
    keep_weights: int = 3
    edits: bool = True
    suite: bool = True
    sandbox: Literal["auto", "bubblewrap", "none"] = "auto"
    commit: str | None = None  # of the subject's repository, noted when the campaign was created

    @property
    def rules(self) -> Rules:
        return Rules(
            budget=self.budget,
            gate=self.gate,
            workers=self.executor.workers,
            max_attempts=self.max_attempts,
            keep_weights=self.keep_weights,
            advice_share={"auto": self.proposer.share, "agent": 1.0}.get(self.proposer.kind, 0.0),
        )


def load(overrides: list[str]) -> Config:
    """Composes `configs/config.yaml` with the overrides. Raises `BadInput` with one line for anything that is off."""
    words = [
        _quoted(word.replace("notify=", "notify.to=", 1) if word.startswith("notify=") else word) for word in overrides
    ]
    words, project = _project(words)
    raw = _compose(words, project)
    if raw["gate"].get("setting") == "auto":
        setting = gate_setting(_affordable_trials(raw))
        raw = _compose([*(word for word in words if word != "gate=auto"), f"gate={setting}"], project)
    raw["gate"]["setting"] = _named_setting(raw["gate"])
    start = {"source" if k == "import" else k: None if v is None else str(v) for k, v in raw["start"].items()}
    raw["start"], raw["history"] = start.pop("kind"), start
    subject = raw["subject"]
    if isinstance(fallbacks := raw["agent"].get("fallbacks"), list):
        raw["agent"]["fallbacks"] = [{"model": f} if isinstance(f, str) else f for f in fallbacks]
    root = Path(subject.pop("root", "."))
    raw["root"] = str(root if root.is_absolute() else (data_root() / root).resolve())
    _complete_sources(subject)
    if isinstance(subject.get("edits"), str):
        subject["edits"] = _ready_edits(subject["edits"])
    if isinstance(listed := subject.get("objective"), list):
        if not listed:
            raise BadInput("subject.objective must name a metric, but got an empty list; name one.")
        subject["objective"], subject["secondary"] = listed[0], [*listed[1:], *subject.get("secondary", [])]
    for name, value in _leaves(raw):
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f"{name} must be a finite number, but got {value}; null stands for no limit.")
    config: Config = convert(raw, Config, "")
    config = replace(config, agent=replace(config.agent, brief_text=_brief(config.agent.brief)))
    signers = _signers(config.approval.allowed_signers)
    config = replace(config, approval=replace(config.approval, allowed_signers_text=signers))
    check(config)
    return config


def _project(words: list[str]) -> tuple[list[str], dict[str, Any] | None]:
    """`subject=PATH` as a subject of that content, which Hydra's overrides may change. Raises `BadInput`."""
    named = [word.partition("=")[2] for word in words if word.startswith("subject=")]
    if not named or not projects.is_path(named[-1]):
        return words, None
    project = projects.read(Path(named[-1]))
    return [f"subject={_PROJECT}" if word.startswith("subject=") else word for word in words], project


def _complete_sources(subject: dict[str, Any]) -> None:
    """Data, and a project's assets, become paths, and those that are relative part of the sources. Raises `BadInput`."""
    weights = subject.get("weights")
    is_project = isinstance(weights, dict) and bool(weights.get("files"))
    covered, more = [Path(source) for source in subject["sources"]], []
    for kind in ("data", "assets") if is_project else ("data",):
        named = found if isinstance(found := subject.get(kind), dict) else {}
        for name in [name for name, value in named.items() if value is None]:
            del named[name]  # a place that a shipped subject leaves for the user's
        for name, value in named.items():
            if isinstance(value, str):  # of any other type it is refused later
                named[name] = value = outside.local(f"{kind}.{name}", value)
                if not value.startswith("/") and not any(Path(value).is_relative_to(source) for source in covered):
                    more.append(value)
    subject["sources"] = [*subject["sources"], *dict.fromkeys(more)]


def _ready_edits(name: str) -> list[Any]:
    """The raw list of a subject's `edits` file, relative to `configs/` where it is no absolute path. Raises `BadInput`."""
    import yaml

    path = data_root() / "configs" / name
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadInput(
            f"subject.edits must name a YAML file, but {name!r} cannot be read: {' '.join(str(error).split())}; correct it."
        ) from error
    if not isinstance(found, list):
        raise BadInput(
            f"subject.edits must be a file with a list of edits, but {name!r} holds none; see configs/ready_edits."
        )
    return found


def gate_setting(trials: float) -> str:
    """The strictest setting of the gate that a budget of so many trials carries: its bank is at most a third of them."""
    for name in CARRIED:
        if trials >= BANK_SHARE * bank_size(name):
            return name
    return "exploratory"


def bank_size(setting: str) -> int:
    """Trainings of the champion that a setting of the gate asks for."""
    return int(_setting(setting)["baseline_seeds"])


def _setting(name: str) -> dict[str, Any]:
    import yaml

    return dict(yaml.safe_load((data_root() / "configs" / "gate" / f"{name}.yaml").read_text()))


def _named_setting(chosen: Mapping[str, Any]) -> str:
    """The setting's name; `custom` where one of the numbers behind its promise was changed."""
    name = str(chosen.get("setting"))
    if name not in groups()["gate"]:
        return "custom"
    tested = ("baseline_seeds", "max_seeds", "alpha", "candidates", "delta")
    shipped = _setting(name)
    return name if all(chosen.get(key) == shipped[key] for key in tested) else "custom"


def _affordable_trials(raw: Mapping[str, Any]) -> float:
    """How many trials the budget allows, by the subject's own estimate where it limits only time; what is wrong counts as 0."""
    budget, estimate = raw["budget"], raw["subject"].get("estimate", {})
    try:
        training = float(estimate["train_seconds"])
        whole = (training + float(estimate["score_seconds"])) / max(1, int(raw["executor"]["workers"]))
        limits = ((budget["trials"], 1.0), (budget["train_seconds"], training), (budget["wall_seconds"], whole))
        return min((float(limit) / each for limit, each in limits if limit is not None), default=math.inf)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return 0.0


def _brief(path: str | None) -> str:
    """The user's brief, without control characters; "" without one. Raises `BadInput`."""
    if path is None:
        return ""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BadInput(f"agent.brief must be a text file, but {path!r} cannot be read: {error}; correct it.") from error
    text = "".join(c for c in text if c == "\n" or c.isprintable()).strip()
    if not 0 < len(text) <= MOST_BRIEF_CHARS:
        raise BadInput(
            f"agent.brief must hold 1 to {MOST_BRIEF_CHARS} characters, but {path!r} has {len(text)}; it is sent with every"
            " request, so keep what matters."
        )
    return text


def _signers(path: str | None) -> str:
    """The text of the allowed-signers file; "" without one. Raises `BadInput` where nobody could sign."""
    if path is None:
        return ""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BadInput(
            f"approval.allowed_signers must be a text file, but {path!r} cannot be read: {error}; correct it."
        ) from error
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines or len(text) > MOST_SIGNERS_CHARS:
        raise BadInput(
            f"approval.allowed_signers must hold a line for each signer, at most {MOST_SIGNERS_CHARS} characters, but {path!r}"
            f" has {len(lines)} line(s) and {len(text)} characters; see `man ssh-keygen`, ALLOWED SIGNERS."
        )
    return text


def _check_notify(notify: NotifyConfig) -> None:
    """A word of a command that is missing is seen now, not when something waits. Raises `BadInput`."""
    import shlex
    import shutil

    if notify.every_hours is not None and not notify.every_hours > 0:
        raise BadInput(f"notify.every_hours > 0 must hold, but got {notify.every_hours}; null sends no reminder.")
    if notify.to is None:
        if notify.every_hours is not None:
            raise BadInput(
                "notify.every_hours needs somebody to tell, but notify is null; set notify=COMMAND or notify=URL."
            )
        return
    rule = "notify must be a URL (http, https) or a command that exists"
    if isinstance(notify.to, str) and "://" in notify.to.partition(" ")[0]:
        scheme, _, rest = notify.to.partition("://")
        if scheme.lower() not in ("http", "https") or not rest:
            raise BadInput(f"{rule}, but got one that begins {scheme}://; correct it.")
        return
    try:
        words = shlex.split(notify.to) if isinstance(notify.to, str) else list(notify.to)
    except ValueError as error:
        raise BadInput(f"{rule}, but {notify.to!r} has {str(error).lower()}; correct it.") from error
    if not words or shutil.which(words[0]) is None:
        raise BadInput(f"{rule}, but got {words[0] if words else ''!r}; give its path, or make it executable.")


def _quoted(word: str) -> str:
    """`start.import=STORAGE#STUDY`, a command or a URL as Hydra takes it: its grammar wants quotes around `#`, `=` and blanks."""
    name, _, value = word.partition("=")
    if name not in ("start.import", "notify.to") or value in ("", "null") or value[0] in "'\"[":
        return word
    return f"{name}=" + '"' + value.replace('"', r"\"") + '"'


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict | list):
        pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for name, value in pairs:
            yield from _leaves(value, f"{prefix}{name}.")
    else:
        yield prefix[:-1], tree


def check(config: Config) -> None:
    """The rules that no type says. Raises `BadInput`."""
    SearchSpace(config.subject.space)
    rules: list[tuple[bool, str, object, str]] = [
        (config.executor.workers >= 1, "executor.workers >= 1", config.executor.workers, "set it to 1 or more"),
        (
            config.gate.baseline_seeds >= 2 or config.gate.max_seeds == 1,
            "gate.baseline_seeds >= 2",
            config.gate.baseline_seeds,
            "raise it (one is for gate=single_seed alone)",
        ),
        (config.gate.baseline_seeds >= 1, "gate.baseline_seeds >= 1", config.gate.baseline_seeds, "raise it"),
        (
            1 <= config.gate.max_seeds <= MOST_SEEDS,
            f"1 <= gate.max_seeds <= {MOST_SEEDS}",
            config.gate.max_seeds,
            "choose in between",
        ),
        (1 <= config.gate.approvals <= 9, "1 <= gate.approvals <= 9", config.gate.approvals, "choose in between"),
        (0 < config.gate.alpha < 0.5, "0 < gate.alpha < 0.5", config.gate.alpha, "0.05 is usual"),
        (config.gate.candidates >= 1, "gate.candidates >= 1", config.gate.candidates, "set it"),
        (config.gate.vault_queries >= 0, "gate.vault_queries >= 0", config.gate.vault_queries, "set it"),
        (config.max_attempts >= 1, "max_attempts >= 1", config.max_attempts, "set it"),
        (0 <= config.proposer.share <= 1, "0 <= proposer.share <= 1", config.proposer.share, "0.3 is usual"),
        (2 <= config.agent.max_calls <= 50, "2 <= agent.max_calls <= 50", config.agent.max_calls, "6 is usual"),
        (config.agent.context_tokens >= 4000, "agent.context_tokens >= 4000", config.agent.context_tokens, "raise it"),
        (config.subject.problems >= 2, "subject.problems >= 2", config.subject.problems, "set it"),
        (
            config.subject.limits.train_seconds > 0,
            "subject.limits.train_seconds > 0",
            config.subject.limits.train_seconds,
            "set it",
        ),
        (
            config.budget.trials is None or config.budget.trials >= 1,
            "budget.trials >= 1",
            config.budget.trials,
            "set `budget.trials`, or null for no limit",
        ),
        *(
            (limit is None or limit > 0, f"budget.{name} > 0", limit, "set it, or null for no limit")
            for name, limit in (
                ("train_seconds", config.budget.train_seconds),
                ("llm_usd", config.budget.llm_usd),
                ("llm_tokens", config.budget.llm_tokens),
                ("wall_seconds", config.budget.wall_seconds),
                ("usd", config.budget.usd),
            )
        ),
        (
            any(v is not None for v in (config.budget.trials, config.budget.train_seconds, config.budget.wall_seconds)),
            "budget.trials, budget.train_seconds or budget.wall_seconds must be a limit",
            "null for all",
            "set one of them",
        ),
        (
            config.proposer.kind != "agent" or config.agent.model is not None,
            "proposer=agent needs agent.model",
            config.agent.model,
            "set agent.model=PROVIDER/MODEL, or use proposer=playbook",
        ),
    ]
    for holds, rule, value, step in [*rules, *_objective_rules(config.subject)]:
        if not holds:
            raise BadInput(f"{rule} must hold, but got {value!r}; {step}.")
    check_prices(config.budget, config.subject)
    _check_ray(config.executor, config.subject)
    _check_notify(config.notify)
    by = config.approval.by
    if by is not None and not PERSON_NAME.fullmatch(by):
        raise BadInput(f"approval.by must be letters, digits, blanks and any of .@+-_, but got {by!r}; correct it.")
    progress = config.subject.progress
    if progress is not None and not (progress.every_tokens >= 1 and 1 <= progress.marks <= 50):
        raise BadInput(
            "subject.progress needs every_tokens >= 1 and 1 <= marks <= 50, but got"
            f" {progress.every_tokens} and {progress.marks}; correct them."
        )
    if config.pruner.get("_target_") is not None and progress is None:
        raise BadInput(
            f"A pruner needs subject.progress, but {config.subject.name} has none: say there which metric its trainings"
            " report, or use pruner=none."
        )
    _check_project(config.subject, Path(config.root))
    like = config.subject.weights.like
    if not config.subject.is_project and like not in config.subject.assets:
        raise BadInput(
            f"subject.weights.like must name one of the assets, but got {like!r}{did_you_mean(like, config.subject.assets)}"
        )
    name = config.campaign
    if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}", name):
        raise BadInput(
            f"A campaign's name must be letters, digits, `.`, `_` and `-`, but got {name!r}; choose another."
        )


def _check_ray(executor: ExecutorConfig, subject: Subject) -> None:
    """What executor=ray needs, before anything is made. Raises `BadInput`."""
    import importlib.util

    if executor.kind != "ray":
        return
    if importlib.util.find_spec("ray") is None:
        raise BadInput("executor=ray needs Ray, but it is not installed; pip install 'evolve[ray]'.")
    address = executor.address
    if address is not None and not re.fullmatch(r"auto|(ray://)?[^\s/:]+:[0-9]+", address):
        raise BadInput(
            f"executor.address must be auto, HOST:PORT, ray://HOST:PORT or null, but got {address!r}; correct it."
        )
    gpus = executor.num_gpus
    amounts = {"num_cpus": executor.num_cpus, "num_gpus": gpus}
    amounts |= {f"resources.{name}": amount for name, amount in (executor.resources or {}).items()}
    for name, amount in amounts.items():
        if amount < 0 or (amount > 1 and amount != int(amount)):
            raise BadInput(
                f"executor.{name} must be a whole number or a fraction below 1, but got {amount:g}; correct it."
            )
    if subject.device != "cpu" and not gpus:
        raise BadInput(
            f"executor.num_gpus > 0 must hold where subject.device is {subject.device}, but got 0; set what a trial needs."
        )


def _check_project(subject: Subject, root: Path) -> None:
    """What the commands of somebody's project need. Raises `BadInput`."""
    if not subject.is_project:
        for name, path in subject.outside.items():
            raise BadInput(f"subject.{name} must be relative to the subject's root, but got {path!r}; copy it there.")
        return
    if (
        subject.preload
    ):  # each training has a copy of the sources to run in, which a server forked from another place has not
        raise BadInput(
            f"subject.preload must be empty for a project, whose trainings start cold, but got {', '.join(subject.preload)};"
            " remove it."
        )
    names = [*subject.space, *subject.fixed]
    commands.check(subject.train_cmd, commands.TRAIN, names, "subject.train_cmd", subject.assets)
    commands.check(subject.score_cmd, commands.SCORE, [], "subject.score_cmd", subject.assets)
    for split in subject.data:
        if split not in SPLITS:
            raise BadInput(f"subject.data may have {', '.join(SPLITS)}, but has {split!r}{did_you_mean(split, SPLITS)}")
    named = {f"{kind}.{name}": p for kind in ("data", "assets") for name, p in getattr(subject, kind).items()}
    for name, path in named.items():
        if not (root / path).exists():
            step = (
                "correct it"
                if Path(path).is_absolute()
                else f"correct it, or say where by an absolute path ($PWD/{path})"
            )
            raise BadInput(f"subject.{name} must exist, but there is no {root / path}; {step}.")
    held = {split: path for split, path in subject.data.items() if split != "train"}
    seen = [p for name, p in named.items() if name == "data.train" or name.startswith("assets.")]
    for split, path in held.items():
        for other in [*seen, *subject.readable]:  # among the sources the jail covers it; outside of them it is shown
            outer = (root / other).resolve()
            if (path.startswith("/") or other.startswith("/")) and (root / path).resolve().is_relative_to(outer):
                raise BadInput(
                    f"subject.data.{split} must be apart from what a training reads, but {path!r} lies in {other!r}; move it."
                )
        inside = [n for n in subject.editable if Path(n).is_relative_to(path)]
        train = subject.data.get("train")
        if inside or (train is not None and Path(train).is_relative_to(path)):
            raise BadInput(
                f"subject.data.{split} must be apart from what a training reads, but {inside[0] if inside else train!r} lies in"
                f" {path!r}; move it."
            )
    for rule, text in {
        "log_progress": subject.log_progress,
        **{f"log_metrics.{k}": v for k, v in subject.log_metrics.items()},
    }.items():
        try:
            pattern = re.compile(text)
        except re.error as error:
            raise BadInput(
                f"subject.{rule} must be a regular expression, but {text!r} is none: {error}; correct it."
            ) from error
        if rule == "log_progress" and text and "step" not in pattern.groupindex:
            raise BadInput(f"subject.log_progress needs a group (?P<step>...), but {text!r} has none; add it.")
        if rule != "log_progress" and pattern.groups < 1:
            raise BadInput(f"subject.{rule} needs a group around the number, but {text!r} has none; add parentheses.")
    for folder in subject.readable:
        if not Path(folder).is_absolute():
            raise BadInput(f"subject.readable must be absolute folders, but got {folder!r}; correct it.")


def check_prices(budget: Budget, subject: Subject) -> None:
    """`budget.usd` counts trainings, so that it needs what an hour of one costs. Raises `BadInput`."""
    prices = {"price_cpu_hour": budget.price_cpu_hour, "price_gpu_hour": budget.price_gpu_hour}
    for name, price in prices.items():
        if price is not None and not price >= 0:
            raise BadInput(f"budget.{name} >= 0 must hold, but got {price}; set US dollars an hour.")
    needed = "price_cpu_hour" if subject.device == "cpu" else "price_gpu_hour"
    if budget.usd is not None and prices[needed] is None:
        raise BadInput(
            f"budget.usd needs what a training costs, but budget.{needed} is null;"
            f" set it in US dollars an hour (0 where it costs nothing)."
        )


def _objective_rules(subject: Subject) -> Iterator[tuple[bool, str, object, str]]:
    names, known = [o.metric for o in subject.objectives], [*MEASURED, *subject.metrics]
    yield (
        not subject.suite,
        "subject.suite is what people have adopted, so that none in the YAML",
        subject.suite,
        "remove it",
    )
    for name in [n for n in (*names, *subject.metrics) if n.startswith(SUITE)]:
        step = "it may be one of subject.guards"
        yield False, "no objective or metric of the scorer's that belongs to the suite", name, step
    primary = subject.objective
    rule = "in subject.objective the scorer's own metric first"
    yield not primary.measured, rule, primary.metric, "what the controller measures comes after it"
    yield len(set(names)) == len(names), "in subject.objective each metric once", names, "remove one"
    for name in subject.metrics:
        free = name not in (*MEASURED, primary.metric)
        yield free, "in subject.metrics a name that is not taken", name, "rename it in the scorer"
    for o in subject.guards:
        hint = did_you_mean(o.metric, [*known, "groups"]).removeprefix("; ")
        step = f"`groups`, what the controller measures, or a metric in subject.metrics; {hint}".removesuffix("?")
        guarded = o.metric in (*known, "groups") or o.metric.startswith(
            SUITE
        )  # whether it was adopted is seen at the start
        yield guarded, "in subject.guards a metric that is measured or declared", o.metric, step
        yield o.tolerance >= 0, f"tolerance >= 0 of guard {o.metric}", o.tolerance, "set it"
        yield (
            0 <= o.relative_tolerance < 1,
            f"0 <= relative_tolerance < 1 of guard {o.metric}",
            o.relative_tolerance,
            "set it",
        )
    if pot := subject.honeypot:
        hint = did_you_mean(pot.metric, subject.metrics).removeprefix("; ")
        step = f"the scorer's metric is declared there; {hint}".removesuffix("?").removesuffix("; ")
        yield pot.metric in subject.metrics, "in subject.honeypot a metric of subject.metrics", pot.metric, step
        yield 0 <= pot.at_most < 1, "0 <= subject.honeypot.at_most < 1", pot.at_most, "set it"
    for o in subject.secondary:
        hint = did_you_mean(o.metric, known).removeprefix("; ")
        step = f"a further metric of the scorer's is declared in subject.metrics; {hint}".removesuffix("?")
        yield o.metric in known, "in subject.objective a metric that is measured or declared", o.metric, step
    for o in subject.objectives:
        yield o.tolerance >= 0, f"tolerance >= 0 of {o.metric}", o.tolerance, "set it"
        relative = o.relative_tolerance
        yield 0 <= relative < 1, f"0 <= relative_tolerance < 1 of {o.metric}", relative, "set it"
        some = max(o.tolerance, relative)
        if subject.secondary:
            step = "with several objectives set how much worse a promoted candidate may be on each"
            yield some > 0, f"tolerance or relative_tolerance > 0 of {o.metric}", some, step
        else:
            step = "a tolerance is for campaigns with several objectives; remove it"
            yield some <= 0, f"no tolerance of {o.metric}, the only objective,", some, step


def load_rows(path: Path, cls: type[Any]) -> list[Any]:
    """A CSV file with a header, or a YAML or JSON file with a mapping or a list of them, as dataclasses.

    Raises `BadInput` with the file's name for anything that is off.
    """
    import csv

    import yaml

    try:
        text = path.read_text()
        rows = list(csv.DictReader(text.splitlines())) if path.suffix == ".csv" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadInput(
            f"{path} must be readable CSV, YAML or JSON, but {' '.join(str(error).split())}; correct it."
        ) from error
    rows = [rows] if isinstance(rows, dict) else rows
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise BadInput(f"{path} must hold rows with names, but holds {type(rows).__name__}; name the columns.")
    found = []
    for number, row in enumerate(rows):
        for where, key, known in _unknown(row, cls, f"{path}, row {number + 1}: "):
            raise BadInput(f"{where}{key} is not a column{did_you_mean(str(key), known)}")
        try:
            found.append(msgspec.convert(row, cls, strict=False))
        except msgspec.ValidationError as error:
            raise BadInput(f"{path}, row {number + 1}: {error}; correct it.") from error
    return found


def convert(raw: Mapping[str, Any], cls: type[Any], where: str) -> Any:
    """`raw` as a dataclass, unknown keys refused at every level. Raises `BadInput` with the path of the culprit."""
    for path, key, known in _unknown(raw, cls, where):
        raise BadInput(f"{path}{key} is not a setting{did_you_mean(key, known)}")
    try:
        return msgspec.convert(raw, cls)
    except msgspec.ValidationError as error:
        text = str(error)
        match = re.fullmatch(r"(.*) - at `\$\.?(.*)`", text)
        path, reason = (match[2], match[1]) if match else ("", text)
        raise BadInput(
            f"{where}{path}: {reason[0].lower()}{reason[1:].replace('`', '')}; correct the value."
        ) from error


def _unknown(raw: Mapping[str, Any], cls: type[Any], where: str) -> Iterator[tuple[str, str, list[str]]]:
    hints = get_type_hints(cls)
    known = {f.name: hints[f.name] for f in fields(cls)}
    for key, value in raw.items():
        if key not in known:
            yield where, key, sorted(known)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                for kind in get_args(known[key]):
                    if isinstance(item, Mapping) and is_dataclass(kind):
                        yield from _unknown(item, kind, f"{where}{key}.{index}.")  # type: ignore[arg-type]
        elif isinstance(value, Mapping):
            kind = known[key]
            if isinstance(kind, UnionType):  # X of `X | None`
                kind = get_args(kind)[0]
            if is_dataclass(kind):
                yield from _unknown(value, kind, f"{where}{key}.")  # type: ignore[arg-type]
            elif key == "space":
                from evolve.types import Parameter

                for name, parameter in value.items():
                    if isinstance(parameter, Mapping):
                        yield from _unknown(parameter, Parameter, f"{where}space.{name}.")


def _compose(overrides: list[str], project: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Hydra's answer; `project` is the content of the subject that is called `_PROJECT`."""
    import tempfile

    import yaml
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    with (
        tempfile.TemporaryDirectory(prefix="evolve-") as place,
        initialize_config_dir(str(data_root() / "configs"), version_base="1.3"),
    ):
        if project is not None:
            (Path(place) / "subject").mkdir()
            (Path(place) / "subject" / f"{_PROJECT}.yaml").write_text(yaml.safe_dump(dict(project), sort_keys=False))
            overrides = [*overrides, f"hydra.searchpath=[file://{place}]"]
        try:
            config = OmegaConf.to_container(compose("config", overrides), resolve=True)
        except (HydraException, OmegaConfBaseException) as error:
            known = _keys(OmegaConf.to_container(compose("config")))
            raise BadInput(_explain(error, overrides, known)) from error
    assert isinstance(config, dict)
    for name, value in _leaves(config):
        if value == "???":
            raise BadInput(f"{name} must be given, but is not; set {name}=... on the command line.")
    return {str(k): v for k, v in config.items()}


def _keys(tree: Any, prefix: str = "") -> list[str]:
    if not isinstance(tree, dict):
        return [prefix[:-1]]
    return [prefix[:-1], *(key for name, value in tree.items() for key in _keys(value, f"{prefix}{name}."))]


def _explain(error: Exception, overrides: list[str], known: list[str]) -> str:
    """One line for Hydra's several, which name the fault in the first line or in the cause."""
    text = " ".join(str(error).split())
    if option := re.search(r"Could not find '([\w-]+)/([^']*)'", text):
        group, name = option[1], option[2]
        options = groups().get(group, [])
        return f"{group}={name} must be one of {', '.join(options)}{did_you_mean(name, options)}."
    if key := re.search(r"Could not override '([^']*)'", text):
        names = [k for k in known if k]
        # Compare the last part too: `trails` is near `budget.trials` only there.
        by_leaf = {k.rsplit(".", 1)[-1]: k for k in names}
        leaf = did_you_mean(key[1].rsplit(".", 1)[-1], by_leaf)
        found = re.search(r"did you mean '(.*)'", leaf)
        hint = f"; did you mean {by_leaf[found[1]]!r}?" if found else "; see `evolve run --help`"
        return f"{key[1]!r} is not a setting{hint}"
    if group := re.search(r"Could not override '?([\w./]+)'?\. No match in the defaults list", text):
        return f"{group[1]!r} is not a group{did_you_mean(group[1], groups())}"
    cause = error.__cause__ or error
    return f"The overrides {overrides} must be KEY=VALUE of known settings, but {' '.join(str(cause).split())[:200]}"
