"""The nouns of evolve and the events that a campaign consists of. Frozen dataclasses, standard library only.

A campaign is an append-only journal of the events at the end of this file; `state.apply` folds them, `policy.decide`
picks the next action from the result, `loop.run` performs it. What happened is here, what happens next is in
`policy.py`, how it is done is in `loop.py`.

Fields and events marked *volatile* (times, process ids, measured seconds, hosts) may differ between two runs of the
same seed and secret; everything else may not.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

Value = bool | int | float | str
Params = Mapping[str, Value]
Split = Literal["search", "gate", "vault"]
Direction = Literal["maximize", "minimize"]
TrialState = Literal["WAITING", "RUNNING", "COMPLETE", "PRUNED", "FAIL"]  # exactly Optuna's
Purpose = Literal[
    "bank", "search", "gate", "vault", "rerun"
]  # rerun: the same seed once more, to see whether it repeats

# Of the journal, in its first line. 1: scorers take one set of weights, gates have no name. 2: several at once, gates by name.
# A new event or a new field with a default needs no new version; a changed meaning does, and a line here.
SCHEMA_VERSION = 2
MEASURED = ("train_seconds", "peak_memory_mb")  # metrics that the controller measures: CPU seconds, MB (see `Usage`)
_LARGEST = 1e100  # of a reported number: its square must still be a float
VOLATILE = {"volatile": True}  # metadata of a field that two runs of the same seed and secret may fill differently


def digest(value: object) -> str:
    """sha256 (64 hex digits) of a value's canonical JSON: sorted keys, no blanks, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def short(identifier: str) -> str:
    """The first 8 digits of a sha256: what people see and type."""
    return identifier[:8]


# The name that a person goes by: no pattern and no list of OpenSSH's, no brackets.
PERSON_NAME = re.compile(r"[^\W_](?:[\w .@+-]{0,58}[\w.@+-])?")
UID_NAME = " (uid name "  # between the name that a person goes by and the system's name of the account


def person_of(by: str) -> str:
    """What makes two approvers the same person: the name that they go by, whatever account they use and however it is spelt.

    >>> person_of("Ada (uid name root)")
    'ada'
    """
    return by.partition(UID_NAME)[0].strip().casefold()


# ---------------------------------------------------------------- what is searched


@dataclass(frozen=True)
class Objective:
    """What better means: one metric and its direction. Set by the user, never by a candidate.

    The metric is the scorer's, or one of `MEASURED`. With several objectives a promoted candidate may be worse on this one
    by `tolerance` (in the metric's units) plus `relative_tolerance` (a share, in [0, 1), of the champion's value).
    """

    metric: str
    direction: Direction
    tolerance: float = 0.0
    relative_tolerance: float = 0.0

    @property
    def sign(self) -> int:
        """+1 where larger is better, -1 where smaller is: `sign * value` can always be maximised."""
        return 1 if self.direction == "maximize" else -1

    @property
    def measured(self) -> bool:
        """Whether the controller measures it of the training, and not the scorer of the weights."""
        return self.metric in MEASURED

    def margin(self, reference: float) -> float:
        """How much worse than `reference`, the champion's value, is still within the tolerance; at least 0."""
        return self.tolerance + self.relative_tolerance * abs(reference)


@dataclass(frozen=True)
class Parameter:
    """One named distribution of the search space, with the field's word for what it does (`role`).

    `when` makes it conditional: it exists only where the categorical parameter named there has one of the values.
    """

    type: Literal["float", "int", "categorical"]
    default: Value
    role: str = ""
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Value, ...] = ()
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """What one training and one score may use; past it the whole process group is killed and the trial fails."""

    train_seconds: float  # wall clock
    score_seconds: float  # wall clock
    memory_mb: int = 8000  # address space of one process, where the device is the CPU
    log_bytes: int = 1_000_000  # kept of stdout and stderr together; the rest is counted and dropped
    scratch_mb: int = 512  # that edited code may write, in memory; it is gone after the training
    processes: int = 1  # of edited code at once, its own included; 1: it cannot make another one
    weights_mb: int = 4000
    compute_ratio: float = 1.1  # a challenger's CPU seconds over the champion's, see DESIGN "Equal compute"
    compute_slack_seconds: float = 0.5  # added to the allowance: the noise of a process' start


@dataclass(frozen=True)
class WeightsSpec:
    """What a training leaves in its output folder.

    Either one safetensors `file`, with the tensor names, shapes and types of the asset `like`; or `files` of any kind, by
    patterns of their paths, which nothing of ours opens.
    """

    file: str = ""
    like: str = ""
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """Wall seconds that one training and one score usually take; for the plan before anything has run."""

    train_seconds: float
    score_seconds: float


@dataclass(frozen=True)
class Progress:
    """One self-reported point of a training's curve. Serves curves and pruning; never a verdict, never a value.

    `tokens` is what the training says that it has consumed; None where it does not.
    """

    step: int
    metrics: Mapping[str, float]
    tokens: int | None = None


@dataclass(frozen=True)
class ProgressSpec:
    """Which of its self-reported metrics a training may be pruned by, compared at equal consumed tokens.

    Mark k of `marks` is reached with `k * every_tokens` tokens, whatever a recipe's own steps are. A metric that means
    the same in every phase and recipe (exact match on a fixed train probe), not a loss.
    """

    metric: str
    direction: Direction
    every_tokens: int
    marks: int = 20

    def marked(self, curve: Iterable[Progress]) -> list[tuple[int, Progress]]:
        """(mark, its first report), marks ascending. All else is left out: reports without tokens or metric, repeated
        or late ones, values beyond `_LARGEST`, and whatever comes after the last mark."""
        found: list[tuple[int, Progress]] = []
        for point in curve:
            if point.tokens is None or not abs(point.metrics.get(self.metric, math.inf)) < _LARGEST:
                continue
            mark = point.tokens // self.every_tokens
            if (found[-1][0] if found else 0) < mark <= self.marks:
                found.append((mark, point))
        return found


@dataclass(frozen=True)
class Honeypot:
    """A metric of the scorer's that no honest training can move: above `at_most` a person should look at it."""

    metric: str
    at_most: float


@dataclass(frozen=True)
class Block:
    """In `file`, the one place where `search` stands becomes `replace`: whole lines, compared exactly."""

    file: str
    search: str
    replace: str


@dataclass(frozen=True)
class ReadyEdit:
    """An edit of the harness that a subject offers ready-made, to whoever would rather choose than write.

    `parameters` are hyperparameters that it adds: they join the space of candidates that carry it.
    """

    name: str
    source: str  # where it is from: a paper, a report
    blocks: tuple[Block, ...]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


SUITE = "suite/"  # what the names of adopted metrics begin with, among an evaluation's metrics and the guards
EvalForm = Literal["slice", "metric", "generator"]


@dataclass(frozen=True)
class SuiteMetric:
    """A metric that was proposed as code and that a person has adopted (`suite.py` has the contracts of the forms).

    The code runs in the sandbox for ever. `campaign` proposed it, `by` approved it.
    """

    name: str
    form: EvalForm
    code: str
    campaign: str = field(default="", metadata=VOLATILE)
    by: str = field(default="", metadata=VOLATILE)

    @property
    def id(self) -> str:
        """sha256 of what it measures; the same as that of the proposal."""
        return digest(["evaluation", self.name, self.form, self.code])

    @property
    def metric(self) -> str:
        """Its name among the metrics of an evaluation."""
        return SUITE + self.name


@dataclass(frozen=True)
class Subject:
    """What is being improved: the commands, the files, the base config, the space and the objective. A YAML, not a class.

    Paths are relative to the snapshot of the sources that the campaign takes at its start; those of a project's assets and
    data may be absolute, which are pinned and not copied. `objective` is the primary one, the scorer's own metric; a YAML
    writes it and the `secondary` ones as one list, `objective`.
    """

    name: str
    description: str
    sources: tuple[str, ...]
    editable: tuple[str, ...]
    train_cmd: tuple[str, ...]
    score_cmd: tuple[str, ...]
    assets: Mapping[str, str]
    weights: WeightsSpec
    objective: Objective
    limits: Limits
    estimate: Estimate
    space: Mapping[str, Parameter]
    problems: int = 2000
    model: Mapping[str, Value] = field(default_factory=dict)
    fixed: Mapping[str, Value] = field(default_factory=dict)  # passed to every training like parameters, never changed
    # Folders or files by split, `train` among them; those that a split has none for use `search`'s. Part of the sources.
    data: Mapping[str, str] = field(default_factory=dict)
    log_progress: str = (
        ""  # a regular expression with the groups `step`, perhaps `tokens`, and metrics, for lines of the log
    )
    log_metrics: Mapping[str, str] = field(
        default_factory=dict
    )  # metric -> a regular expression for the scorer's output
    readable: tuple[
        str, ...
    ] = ()  # absolute folders that commands in the sandbox may read: the project's own libraries
    device: str = "cpu"
    secondary: tuple[Objective, ...] = ()
    metrics: tuple[str, ...] = ()  # that the scorer's evaluation.json holds beside the primary one
    progress: ProgressSpec | None = None  # without it no training of the subject can be pruned
    # What may not get worse by more than the tolerance, whatever is gained: further metrics of the scorer's, measured ones,
    # or `groups`, which stands for the mean of each group of problems.
    guards: tuple[Objective, ...] = ()
    edits: tuple[ReadyEdit, ...] = ()  # a YAML names their file
    imports: tuple[
        str, ...
    ] = ()  # modules that an edit may import beside the standard library's harmless ones and the harness' own
    # Writes the canary, a file of false answers that edited code can reach; what it teaches, the honeypot metric shows.
    canary_cmd: tuple[str, ...] = ()
    honeypot: Honeypot | None = None  # a metric of the scorer's that no honest training can raise
    fresh_problems: bool = True  # false: the held-out data is fixed, every round of a split has the same problems
    answer_cmd: tuple[
        str, ...
    ] = ()  # writes problems with the model's answers; without it nobody may propose evaluations
    suite: tuple[SuiteMetric, ...] = ()  # adopted when the campaign began; never in a YAML
    # Modules of installed libraries that a warm server imports once, for all trainings (and another one for all scores) of a
    # session; of pristine sources alone.
    preload: tuple[str, ...] = ()

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """All of them, the primary one first."""
        return (self.objective, *self.secondary)

    @property
    def is_project(self) -> bool:
        """Whether the commands are of a project that knows nothing of evolve: files of any kind, a score in its own words."""
        return bool(self.weights.files)

    @property
    def unconfirmed(self) -> str:
        """Why no promotion of this subject is confirmed on data that the search has not seen; "" where it is."""
        if not self.is_project or "vault" in self.data or self.fresh_problems:
            return ""
        if any("{split}" in word for word in self.score_cmd):
            return ""  # the scorer divides its data itself
        return "not confirmed: the subject has no data for the vault"

    def data_of(self, split: str) -> str | None:
        """Path of a split's data; None where the subject names none."""
        return self.data.get(split, None if split == "train" else self.data.get("search"))

    @property
    def outside(self) -> dict[str, str]:
        """The assets and data that lie outside of the sources: `assets.NAME` or `data.SPLIT` -> absolute path."""
        named = (("assets", self.assets), ("data", self.data))
        return {f"{kind}.{name}": path for kind, all in named for name, path in all.items() if path.startswith("/")}


def evaluation_digest(sources: str, suite: tuple[SuiteMetric, ...]) -> str:
    """A new version of the evaluation wherever the suite has changed; without one that of the sources."""
    return digest([sources, [metric.id for metric in suite]]) if suite else sources


@dataclass(frozen=True)
class Candidate:
    """Validated params and, where there is one, a patch of the harness, for one version of the subject.

    `patch` is the unified diff that `patches.make` writes, against the campaign's own copy of the sources. `declared` are the
    hyperparameters that it adds to the space; their values are among `params`.
    """

    params: Params
    subject_version: str
    patch: str | None = None
    declared: Mapping[str, Parameter] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """sha256 of all that makes a candidate what it is, so that a duplicate is seen whoever proposes it."""
        more = [{name: asdict(p) for name, p in self.declared.items()}] if self.declared else []
        return digest([dict(self.params), self.patch, self.subject_version, *more])


@dataclass(frozen=True)
class Spend:
    """Use of a campaign in its budget's units. Training seconds are CPU seconds, measured by the controller.

    `llm_tokens` counts what went in and came out; of them `llm_tokens_out` came out, and `llm_tokens_cached` went in at
    the provider's price for cached text. `llm_seconds` is the time that calls took. `wall_seconds` is that of all
    sessions; for one training ahead, what it may take.
    """

    trials: int = 0
    train_seconds: float = field(default=0.0, metadata=VOLATILE)
    llm_usd: float = 0.0
    llm_tokens: int = 0
    llm_tokens_out: int = 0
    llm_tokens_cached: int = 0
    llm_calls: int = 0
    llm_seconds: float = field(default=0.0, metadata=VOLATILE)
    train_usd: float = field(default=0.0, metadata=VOLATILE)
    wall_seconds: float = field(default=0.0, metadata=VOLATILE)

    @property
    def usd(self) -> float:
        """Dollars for everything: models and trainings."""
        return self.llm_usd + self.train_usd

    def __add__(self, other: Spend) -> Spend:
        return Spend(*map(operator.add, _amounts(self), _amounts(other)))


_amounts = operator.attrgetter(*(f.name for f in fields(Spend)))


@dataclass(frozen=True)
class Budget:
    """Upper limits of `Spend`; None is no limit. A trial is one training, whatever it is for (bank, search or gate).

    `usd` is for models and trainings together; the prices, in US dollars, are what a training's CPU hours and, where the
    subject's device is not the CPU, its hours of wall clock cost. None is no price, which counts as 0.
    """

    trials: int | None = None
    train_seconds: float | None = None
    llm_usd: float | None = None
    llm_tokens: int | None = None
    wall_seconds: float | None = None
    usd: float | None = None
    price_cpu_hour: float | None = None
    price_gpu_hour: float | None = None


@dataclass(frozen=True)
class Message:
    """One message between us and a language model; `role` as in the chat APIs (user, assistant)."""

    role: str
    text: str


@dataclass(frozen=True)
class EvalProposal:
    """Code that would measure something more of every candidate, with who proposed it and why (a claim).

    It never counts in the campaign that proposed it: adopted, it is a `SuiteMetric` of those that begin later.
    """

    name: str
    form: EvalForm
    code: str
    rationale: str = ""
    proposer: str = ""
    model: str | None = None

    @property
    def id(self) -> str:
        return SuiteMetric(self.name, self.form, self.code).id


@dataclass(frozen=True)
class Proposal:
    """A candidate with who proposed it and why. The rationale is a claim of its author, shown as such.

    `spend` is for display: what is counted are the events of the model's calls.
    Where a language model proposed, `transcript` is what was said after the system prompt, which `prompt_hash` names.
    `decided` is one sentence of whoever chose it among others: why this candidate, now. `lessons` are what the author
    learned from what had finished, `evaluations` what it would measure as well; the loop journals both as events of their
    own, so that a stored proposal has none.
    """

    candidate: Candidate
    proposer: str
    rationale: str = ""
    parents: tuple[str, ...] = ()
    prompt_hash: str | None = None
    model: str | None = None
    spend: Spend = field(default_factory=Spend)
    transcript: tuple[Message, ...] = ()
    decided: str = ""
    lessons: tuple[str, ...] = ()
    evaluations: tuple[EvalProposal, ...] = ()


# ---------------------------------------------------------------- what is measured


@dataclass(frozen=True)
class Evaluation:
    """One metric on one split: mean, its standard error over `n` problems, and the means of the groups (task families).

    `metrics` are the further ones that the subject declares, and those of the suite (`suite/NAME`); `missing` says why one
    of the suite's has no value. The results per problem stay in the trial's folder; they never travel further than the
    scorer's file.
    """

    metric: str
    split: Split
    mean: float
    stderr: float
    n: int
    groups: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EvalReport:
    """What is known of a proposed evaluation, on stored weights and problems that score nobody; see `suite.report`.

    Means are over items, in [0, 1]. `separation` is good - bad in standard errors of that difference, over the same items (not
    over seeds: `seed_sd`);
    `primary_separation` the same of the primary metric's results, on as many problems of the whole search split.
    """

    items: int
    weights: int  # sets of weights that were looked at, the untrained checkpoint among them
    champion: float
    stderr: float  # of the champion's mean
    ceiling: float  # share of the items at 1, of the champion
    floor: float  # share at 0
    good: float
    bad: float
    good_bad: tuple[int, int]  # how many sets of weights are behind each
    separation: float
    primary_separation: float
    seed_sd: float | None  # of the champion's value over its seeds in the pool; None with fewer than 2
    agreement: float | None  # rank correlation with the primary metric; None with fewer than 4 sets of weights
    overlap: float = 0.0  # share of a generator's prompts that a training could have met
    left_out: Mapping[str, int] = field(default_factory=dict)  # a generator's prompts that were not used, by reason
    seconds: float = field(default=0.0, metadata=VOLATILE)  # of the proposed code, all its runs


@dataclass(frozen=True)
class Usage:
    """What the kernel counted for one training, its waited-for children included (wait4, not self-reported).

    The peak of memory is exact where it is above the controller's own; below that it is what was seen at most 0.5 s apart.
    """

    cpu_seconds: float
    wall_seconds: float
    peak_memory_mb: float
    saved_seconds: float = 0.0  # CPU of imports that a warm start made once for many: not used, not in the budget

    @property
    def cold_seconds(self) -> float:
        """CPU seconds as if it had started cold: what trainings are compared by, since those of edited code do start so."""
        return self.cpu_seconds + self.saved_seconds


@dataclass(frozen=True)
class Environment:
    """Where a result was made. Evidence is paired only within one `hardware`."""

    hardware: str
    platform: str
    lock: str  # sha256 of the installed distributions and their versions
    commit: str | None  # of the subject's repository, "-dirty" appended where the tree had changes
    python: str


@dataclass(frozen=True)
class Trial:
    """One training of a candidate at (seed, fidelity). A failed trial has an error and no score.

    A pruned one has no score and no weights either, and in `error` why it was ended: that is no failure of anyone's.
    """

    number: int
    candidate_id: str
    purpose: Purpose
    seed_index: int
    seed: int
    fidelity: float = 1.0
    state: TrialState = "WAITING"
    attempt: int = 0
    score: Evaluation | None = None
    error: str | None = None
    weights: str | None = None  # sha256 of the re-serialised copy that the controller keeps
    usage: Usage | None = None
    hardware: str | None = None
    integrity: IntegrityReport | None = None  # of edited code

    @property
    def evidence(self) -> bool:
        """Whether the gate may use it: not the search's own, which was selected for being high, nor a repetition."""
        return self.purpose not in ("search", "rerun")


Decision = Literal["ACCEPT", "REJECT", "NEED_MORE"]


@dataclass(frozen=True)
class GuardFinding:
    """One guard metric over the gate's trainings: the means of both sides, and by how much the challenger may be worse.

    `difference` is in the direction of better.
    """

    name: str
    challenger: float
    champion: float
    difference: float
    margin: float

    @property
    def holds(self) -> bool:
        """By the estimate, not by a test: to *show* it of a dozen metrics would need seeds that the gain does not."""
        return self.difference >= -self.margin


@dataclass(frozen=True)
class Verdict:
    """What the gate found, with the numbers behind it (see `gate.judge` for their names and units).

    `differences` has one entry a challenger seed: its score minus the champion's mean on the same problems; `secondary`
    the same of each further objective, by its metric. `guards` is what was found on each guard metric of an acceptance.
    """

    decision: Decision
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    differences: tuple[float, ...] = ()
    secondary: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    guards: tuple[GuardFinding, ...] = field(default=(), metadata=VOLATILE)  # equal compute first; some are measured


@dataclass(frozen=True)
class ApprovalRequest:
    """A candidate that passed gate and vault and waits for a person. `content_hash` is what the person's yes is bound to.

    Of kind `eval` a proposal for the evaluation: `candidate_id` is its id, `weights` too, `evidence` its report's hash.
    """

    candidate_id: str
    champion_id: str  # at the time that the evidence was taken
    weights: str  # sha256, of the first gate seed
    trial_number: int  # that training
    evidence: str  # sha256 of the scores behind the verdict
    evaluation_version: str
    sandbox: str
    kind: Literal["candidate", "eval"] = "candidate"  # eval: a proposal for the evaluation itself, confirmed twice

    @property
    def content_hash(self) -> str:
        return digest(
            [self.candidate_id, self.weights, self.evidence, self.evaluation_version, self.sandbox, self.kind]
        )


@dataclass(frozen=True)
class Approval:
    """A person's decision about exactly one content."""

    candidate_id: str
    decision: Literal["approve", "reject"]
    content_hash: str
    by: str = field(metadata=VOLATILE)
    reason: str = ""
    command_id: str = field(default="", metadata=VOLATILE)
    seconds: float = field(default=0.0, metadata=VOLATILE)  # that the prompt waited for the person
    signature: str = field(default="", metadata=VOLATILE)  # of `ssh-keygen -Y sign`, see `signatures.py`; checked
    kind: Literal["candidate", "eval"] = "candidate"


_LISTED = 5  # of each kind of finding; the report holds the rest
_START_SECONDS = 10.0  # a first or last phase may always take so long: torch starts in 2 to 7 on a crowded machine


@dataclass(frozen=True)
class IntegrityReport:
    """What was seen of one training beside its weights, for whoever reviews it. Evidence, never a verdict.

    The first five are what its process reached for, by its own audit (`inside/audit.py`), which code in that process could
    silence; `dropped` counts what came beyond the limits. torch alone imports hundreds of modules, so that a person is shown
    what is `beyond` the same report of the pristine harness; `compared` says that this has been done.
    """

    imports: tuple[str, ...] = ()  # top-level names
    opened: tuple[str, ...] = ()  # outside of interpreter, harness and scratch; "write PATH" anywhere but in scratch
    spawned: tuple[str, ...] = ()
    connected: tuple[str, ...] = ()
    native: tuple[str, ...] = ()
    dropped: int = 0
    # Seconds by the controller's clock: to the first line of progress, from there to the last, from there to the end.
    phases: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0), metadata=VOLATILE)
    canary: Literal["untouched", "touched", "not watched"] = "not watched"
    sandbox: str = ""
    unsatisfiable: float | None = None  # the subject's honeypot metric
    rerun: str = ""  # "" not made, "same weights", "same score", "score differs by X"
    compared: bool = False

    def beyond(self, baseline: IntegrityReport) -> IntegrityReport:
        """The same report without what the pristine harness' own run (`baseline`) reached for as well."""

        def more(name: str) -> tuple[str, ...]:
            known = set(getattr(baseline, name))
            return tuple(each for each in getattr(self, name) if each not in known)

        return replace(
            self,
            imports=more("imports"),
            opened=more("opened"),
            spawned=more("spawned"),
            connected=more("connected"),
            native=more("native"),
            compared=True,
        )

    def merged(self, others: Iterable[IntegrityReport]) -> IntegrityReport:
        """With what was seen of other trainings of the same candidate; the phases stay this one's."""
        every = [self, *others]

        def union(name: str) -> tuple[str, ...]:
            return tuple(sorted({item for report in every for item in getattr(report, name)}))

        canaries = {report.canary for report in every}
        canary = next(c for c in ("touched", "not watched", "untouched") if c in canaries)
        return replace(
            self,
            imports=union("imports"),
            opened=union("opened"),
            spawned=union("spawned"),
            connected=union("connected"),
            native=union("native"),
            dropped=sum(report.dropped for report in every),
            canary=canary,
            compared=all(report.compared for report in every),
        )

    def findings(self, honeypot: Honeypot | None = None) -> tuple[str, ...]:
        """One plain sentence for each thing that a reviewer should look at. Imports, opened files and native code are
        among them only where the report was `compared`: else they are mostly the harness' own."""
        found = []
        if self.canary == "touched":
            found.append("The canary was touched: the training opened, changed or removed the file of false answers.")
        if self.canary == "not watched":
            found.append("The canary was not watched: nothing is known of whether the training looked for answers.")
        if self.unsatisfiable is not None and honeypot and not self.unsatisfiable <= honeypot.at_most:
            found.append(
                f"{honeypot.metric} is {self.unsatisfiable:.4g}, above {honeypot.at_most:g}: the model gives"
                " false answers that it can know only from the canary or the campaign's key."
            )
        if self.rerun.startswith("score differs"):
            found.append(f"The training was repeated with the same seed, and its {self.rerun}.")
        kinds = [("tried to start a process", self.spawned), ("tried to use the network", self.connected)]
        if self.compared:
            kinds.append(("opened files outside of its place", self.opened))
            kinds.append(("loaded native code that the pristine harness does not load", self.native))
            kinds.append(("imported modules that the pristine harness does not import", self.imports))
        found += [f"The training {what}: {_listed(items)}." for what, items in kinds if items]
        if self.dropped:
            found.append(
                f"The training reached for more than is kept: {self.dropped} reports were dropped or unreadable."
            )
        first, middle, last = self.phases
        for what, seconds in (("before its first report of progress", first), ("after its last report", last)):
            whole = first + middle + last
            if seconds > max(_START_SECONDS, whole / 2):
                found.append(f"The training spent {seconds:.1f} of {whole:.1f} seconds {what}.")
        return tuple(found)


def _listed(items: tuple[str, ...]) -> str:
    """The first few in quotes, each cut to a length that fits a line, and how many more there are."""
    shown = ", ".join(f"`{item if len(item) <= 80 else item[:80] + '...'}`" for item in items[:_LISTED])
    return shown + (f" and {len(items) - _LISTED} more" if len(items) > _LISTED else "")


# ---------------------------------------------------------------- the rules of a campaign


@dataclass(frozen=True)
class GateRules:
    """The setting of the gate; see `gate.judge` for the meaning of each.

    The promise: with a chance of at most alpha any of `candidates` useless ones is accepted, and no more are challenged; with
    `candidates` of 1 it is for each one alone, and nothing limits the challenges.
    `max_seeds` of 1 is "keep if better", which promises nothing. `approvals` different persons must say yes.
    """

    setting: str = "custom"
    baseline_seeds: int = 4
    max_seeds: int = 8
    alpha: float = 0.05
    candidates: int = 50
    delta: float = 2.0
    vault_queries: int = 10
    wait: bool = False
    approvals: int = 1

    @property
    def most_challenges(self) -> float:
        """That a campaign may open under its promise; infinity where there is none for the campaign."""
        return self.candidates if self.candidates > 1 else math.inf


@dataclass(frozen=True)
class Rules:
    """All that `policy.decide` may know beside the state.

    `advice_share`: the advisor's part of all turns, 0 without an advisor, 1 where nobody else proposes. `advice_ahead`:
    its answers take time, so that they are asked for before they are needed; `advice_paused`: it would fail at once (its
    model is down), and is not asked. The loop says both, from its advisor.
    """

    budget: Budget = field(default_factory=Budget)
    gate: GateRules = field(default_factory=GateRules)
    workers: int = field(default=1, metadata=VOLATILE)
    max_attempts: int = 3
    max_proposer_failures: int = 20  # in a row, over all proposers: then nothing new can be found
    keep_weights: int = 3
    advice_share: float = 0.0
    advice_ahead: bool = field(default=False, metadata=VOLATILE)
    advice_paused: bool = field(default=False, metadata=VOLATILE)


# ---------------------------------------------------------------- events: the journal's lines


@dataclass(frozen=True)
class CampaignStarted:
    """First line of every journal. `config` is what the composition root needs to build the same ports again."""

    campaign: str = field(metadata=VOLATILE)
    subject: Subject
    subject_version: str
    evaluation_version: str
    secret_sha256: str
    seed: int
    rules: Rules
    start: Candidate
    start_origin: str
    config: Mapping[str, Any] = field(metadata=VOLATILE)
    schema: int = SCHEMA_VERSION

    @property
    def measured_by(self) -> str:
        """The version of the whole evaluation: the sources' (`evaluation_version`), and the suite where there is one."""
        return evaluation_digest(self.evaluation_version, self.subject.suite)


@dataclass(frozen=True)
class ImportedTrial:
    """One finished trial of an earlier study, as that study tells it: a claim. A failed one has no score."""

    params: Params
    score: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class HistoryImported:
    """What the proposers start from beside the campaign's own trials. Never a candidate, an incumbent or evidence.

    `observations` is in the order of the source, all within this campaign's space; `skipped` counts by reason the
    trials that were left out, `notes` what had to be changed in those that were taken.
    """

    source: str = field(metadata=VOLATILE)  # without a password
    observations: tuple[ImportedTrial, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SessionStarted:
    """A controller took the lock: at the start and at every resume. What was running before is not any more.

    `sandbox`: in which edited code runs; `bubblewrap`, `none` (by the user's choice), or `unavailable`: not at all.
    `killed`: the most that each training and check of an edit has used which the session before did not live to see the
    end of; None where that is not known: then a training counts as what was reserved for it.
    """

    VOLATILE: ClassVar[bool] = True
    environment: Environment
    workers: int
    sandbox: str
    budget: Budget
    pid: int
    killed: tuple[Usage, ...] | None = None


@dataclass(frozen=True)
class Proposed:
    proposal: Proposal


@dataclass(frozen=True)
class AdviceStarted:
    """The advisor was asked, and answers from a thread of its own; no worker waits for it."""

    VOLATILE: ClassVar[bool] = True
    proposer: str


@dataclass(frozen=True)
class Suggested:
    """The advisor's candidate, checked as a proposal is. It waits until somebody proposes it."""

    proposal: Proposal


@dataclass(frozen=True)
class ProposalFailed:
    """A proposer's turn (with `advice`, the advisor's) without a valid candidate. Its cost is shown here, and counted by
    the events of its calls."""

    proposer: str
    reason: str
    spend: Spend = field(default_factory=Spend)
    transcript: tuple[Message, ...] = ()
    advice: bool = False


@dataclass(frozen=True)
class ModelCallStarted:
    """Written before the call is made: `reserved`, the most that it can cost, is taken out of the budget."""

    call: int  # from 0, over all sessions
    by: str
    model: str
    reserved: Spend


@dataclass(frozen=True)
class ModelCallFinished:
    """What the call really cost takes the place of its reservation. These events alone are a campaign's spend on models.

    A call whose cost nobody can know any more (a crash, an end of the session) is settled at its reservation, and
    `error` says so.
    """

    call: int
    spend: Spend
    error: str = ""


@dataclass(frozen=True)
class ModelCallRefused:
    """A call that was not made, since it might have passed a limit. No other is asked for until there is more room."""

    by: str
    reason: str


@dataclass(frozen=True)
class EvalProposed:
    """Somebody would measure something more. `error`: why it was refused at once."""

    proposal: EvalProposal
    error: str = ""


@dataclass(frozen=True)
class EvalAssessStarted:
    """The proposed code is tried on a worker, in the sandbox, on the stored weights of these trials."""

    VOLATILE: ClassVar[bool] = True
    proposal_id: str
    trials: tuple[int, ...]


@dataclass(frozen=True)
class EvalAssessed:
    """The quality report of a proposed evaluation, or why it is not worth anyone's time."""

    proposal_id: str
    report: EvalReport | None = None
    error: str = ""


@dataclass(frozen=True)
class SuiteChanged:
    """An evaluation was adopted, from the subject's next campaign on. The suite's file is a projection of this event.

    `version` counts the adopted metrics as this campaign knows them; the file's own number counts all campaigns'.
    """

    version: int
    metric: SuiteMetric
    content_hash: str


@dataclass(frozen=True)
class EditCheckStarted:
    """The early checks of a candidate's patch have begun on a worker, in the sandbox of this session."""

    VOLATILE: ClassVar[bool] = True
    candidate_id: str


@dataclass(frozen=True)
class EditChecked:
    """What the early checks of a patch found: nothing, or the `stage` that it failed at and the message to its author.

    They save a training that could not succeed. What protects is the sandbox, in which they run as well.
    """

    candidate_id: str
    stage: str = ""
    error: str = ""
    usage: Usage | None = field(default=None, metadata=VOLATILE)  # of its trial training, which is counted as any


@dataclass(frozen=True)
class TrialScheduled:
    """From here on the trial has its number and its place in the budget, through any number of crashes."""

    number: int
    candidate_id: str
    purpose: Purpose
    seed_index: int
    seed: int
    fidelity: float = 1.0


@dataclass(frozen=True)
class TrialStarted:
    VOLATILE: ClassVar[bool] = True
    number: int
    attempt: int


@dataclass(frozen=True)
class TrialInterrupted:
    """The training was ended before its end; what it had used is counted, and it runs again.

    By an orderly stop, for the next session; or because what it ran on was lost, by `reason`: then that was an attempt.
    """

    VOLATILE: ClassVar[bool] = True
    number: int
    usage: Usage
    reason: str = ""


@dataclass(frozen=True)
class TrialFinished:
    number: int
    state: TrialState
    score: Evaluation | None = None
    error: str | None = None
    weights: str | None = None
    curve: tuple[Progress, ...] = ()
    usage: Usage | None = field(default=None, metadata=VOLATILE)
    environment: Environment | None = field(default=None, metadata=VOLATILE)
    log_tail: str = field(default="", metadata=VOLATILE)
    integrity: IntegrityReport | None = field(default=None, metadata=VOLATILE)  # where the code was edited


@dataclass(frozen=True)
class EvidenceRequested:
    """A person wants more before deciding: `seeds` further ones, or, where the champion has changed, all of it anew."""

    candidate_id: str
    seeds: int
    by: str = field(default="", metadata=VOLATILE)
    command_id: str = field(default="", metadata=VOLATILE)


@dataclass(frozen=True)
class ChallengeOpened:
    """A candidate that beat the incumbent on the search split meets the champion: fresh seeds, fresh problems."""

    candidate_id: str
    champion_id: str
    round: int
    more_seeds: int = 0  # a person asked for so many further ones: the round that was accepted before goes on


@dataclass(frozen=True)
class ScoreStarted:
    VOLATILE: ClassVar[bool] = True
    number: int
    split: Split
    round: int
    attempt: int


@dataclass(frozen=True)
class Scored:
    """A stored training's weights scored once more on fresh problems; `evaluation` is None where the scorer failed."""

    number: int
    split: Split
    round: int
    evaluation: Evaluation | None
    error: str | None = None


@dataclass(frozen=True)
class VerdictReached:
    candidate_id: str
    round: int
    verdict: Verdict


@dataclass(frozen=True)
class VaultAsked:
    """Counted before the vault is read, so that no crash makes a query free."""

    candidate_id: str
    round: int


@dataclass(frozen=True)
class VaultAnswered:
    candidate_id: str
    round: int
    passed: bool
    verdict: Verdict


@dataclass(frozen=True)
class ApprovalRequested:
    request: ApprovalRequest


@dataclass(frozen=True)
class Decided:
    approval: Approval


@dataclass(frozen=True)
class Promoted:
    """The recorded change of the champion. Registry, champion YAML and branch are projections of this event."""

    candidate_id: str
    previous_id: str
    content_hash: str
    trial_number: int
    weights: str


@dataclass(frozen=True)
class RolledBack:
    """The champion before becomes the champion again."""

    candidate_id: str
    restored_id: str
    reason: str = ""
    by: str = field(default="", metadata=VOLATILE)
    command_id: str = field(default="", metadata=VOLATILE)


@dataclass(frozen=True)
class HumanProposed:
    """A person's own candidate (`evolve try`), to be trained next."""

    proposal: Proposal
    command_id: str = field(default="", metadata=VOLATILE)


@dataclass(frozen=True)
class LessonWritten:
    """A line of the memory: a claim of whoever wrote it, an advisor or a person (`human`).

    `about`: the candidates (short ids) that it was written about. `origin`: the earlier campaign that it comes from.
    """

    text: str
    by: str
    about: tuple[str, ...] = ()
    origin: str = field(default="", metadata=VOLATILE)
    person: str = field(default="", metadata=VOLATILE)
    command_id: str = field(default="", metadata=VOLATILE)


@dataclass(frozen=True)
class LessonRemoved:
    """A person struck a lesson out. Lessons are numbered from 1 in the order of their events; no number comes twice."""

    number: int
    person: str = field(default="", metadata=VOLATILE)
    command_id: str = field(default="", metadata=VOLATILE)


@dataclass(frozen=True)
class CommandRefused:
    """A command from the inbox that changed nothing, and why."""

    VOLATILE: ClassVar[bool] = True
    command_id: str
    reason: str


@dataclass(frozen=True)
class StopRequested:
    VOLATILE: ClassVar[bool] = True
    command_id: str
    by: str


@dataclass(frozen=True)
class CampaignStopped:
    """Why the loop ended. Only `finished` is the campaign's own end; the others can be resumed."""

    VOLATILE: ClassVar[bool] = True
    kind: Literal["finished", "stopped", "failed"]
    reason: str


@dataclass(frozen=True)
class ClockJumped:
    """The wall clock went on by `seconds` more than time did (the machine slept, or somebody set the clock), or by less.

    The times of the records are the wall clock's; what budgets count is time.
    """

    VOLATILE: ClassVar[bool] = True
    seconds: float


@dataclass(frozen=True)
class JournalRepaired:
    """A person cut the journal off where it did not hold together (`evolve repair`).

    What the cut lines had used stays used, as far as they could be read: model calls and trainings (`spend`), questions to
    the vault, the number of the last round of fresh problems.
    """

    VOLATILE: ClassVar[bool] = True
    line: int  # the first that was cut
    lines: int  # how many
    reason: str
    kept_as: str  # a file beside the journal: all of it as it was
    sha256: str  # of that file
    by: str
    spend: Spend = field(default_factory=Spend)
    vault_queries: int = 0
    rounds: int = 0


Event = (
    CampaignStarted
    | HistoryImported
    | SessionStarted
    | Proposed
    | AdviceStarted
    | Suggested
    | ProposalFailed
    | ModelCallStarted
    | ModelCallFinished
    | ModelCallRefused
    | EvalProposed
    | EvalAssessStarted
    | EvalAssessed
    | SuiteChanged
    | EditCheckStarted
    | EditChecked
    | TrialScheduled
    | TrialStarted
    | TrialInterrupted
    | TrialFinished
    | EvidenceRequested
    | ChallengeOpened
    | ScoreStarted
    | Scored
    | VerdictReached
    | VaultAsked
    | VaultAnswered
    | ApprovalRequested
    | Decided
    | Promoted
    | RolledBack
    | HumanProposed
    | LessonWritten
    | LessonRemoved
    | CommandRefused
    | StopRequested
    | CampaignStopped
    | ClockJumped
    | JournalRepaired
)


@dataclass(frozen=True)
class Record:
    """One line of the journal: an event with its place in the chain."""

    seq: int
    time: float  # seconds since the epoch, by the controller's clock
    event: Event


# ---------------------------------------------------------------- commands: what a person leaves in the inbox


@dataclass(frozen=True)
class Command:
    """What `approve`, `reject`, `rollback`, `try`, `stop`, `review` and `memory` ask of the one writer.

    `evidence` asks for `seeds` further ones. `confirmations`: how often the person said yes, one after the other.
    `remember` writes the lesson `reason`; `forget` removes number `lesson`, whose text has the digest `content_hash`.
    """

    id: str
    kind: Literal["approve", "reject", "evidence", "rollback", "try", "stop", "remember", "forget"]
    by: str
    candidate_id: str = ""
    content_hash: str = ""
    reason: str = ""
    params: Params = field(default_factory=dict)
    seconds: float = 0.0  # that the prompt waited for the person
    lesson: int = 0
    seeds: int = 0
    confirmations: int = 1
    signature: str = ""
    patch: str = ""  # of `try`: canonical, against the campaign's own copy of the sources
    declared: Mapping[str, Parameter] = field(default_factory=dict)
