"""What operation costs: a year round the clock by a price map, and what a campaign's journal says of its own. Pure.

Nothing here reads a file or knows a price: prices come as litellm's map (model -> entry, US dollars per token), a
campaign as its records. `tables.py` prints the results, `capacity.py` answers what a server of one's own carries.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from evolve.budget import training_spend
from evolve.errors import BadInput, did_you_mean
from evolve.types import (
    AdviceStarted,
    ApprovalRequested,
    Budget,
    CampaignStarted,
    CampaignStopped,
    Decided,
    HumanProposed,
    LessonWritten,
    ModelCallFinished,
    ModelCallStarted,
    Promoted,
    Proposal,
    ProposalFailed,
    Proposed,
    Record,
    RolledBack,
    Scored,
    ScoreStarted,
    SessionStarted,
    Spend,
    Suggested,
    TrialFinished,
    TrialInterrupted,
    TrialStarted,
    VaultAnswered,
    VerdictReached,
)

Prices = Mapping[str, Mapping[str, Any]]  # litellm's `model_cost`
YEAR_SECONDS = 365 * 24 * 3600
TOKENS_PER_SECOND = 50.0

# (model, output tokens/s) of the table that is printed where none are named. The high-speed tier twice: at the same
# speed as the others, and at the speed that its provider sells it for.
MODELS: tuple[tuple[str, float], ...] = (
    ("novita/minimax/minimax-m2.7", 50.0),
    ("novita/minimax/minimax-m2.7-highspeed", 50.0),
    ("novita/minimax/minimax-m2.7-highspeed", 100.0),
    ("gpt-5.4", 50.0),
    ("claude-opus-4-7", 50.0),
)
# Rule-of-thumb figures of the press for output tokens alone at 50 tokens/s; shown beside what the prices give.
PRESS: Mapping[str, str] = {
    "novita/minimax/minimax-m2.7": "about $2,000",
    "novita/minimax/minimax-m2.7-highspeed": "about $4,000",
    "gpt-5.4": "about $23,000",
    "claude-opus-4-7": "up to $39,000",
}


# ---------------------------------------------------------------- a year


@dataclass(frozen=True)
class Reading:
    """How much a model reads for each token that it writes. `cached`: the share of it that is read from a cache, 0 to 1."""

    tokens_in_per_out: float = 20.0
    cached: float = 0.8
    source: str = "assumed"

    def __post_init__(self) -> None:
        if not (0 <= self.tokens_in_per_out < math.inf and 0 <= self.cached <= 1):
            raise BadInput(
                "Input tokens for each output token >= 0 and a cached share in [0, 1] must hold, but got"
                f" {self.tokens_in_per_out} and {self.cached}; correct --input-ratio or --cached."
            )


@dataclass(frozen=True)
class Hardware:
    """A machine of one's own that serves a model. `tokens_per_second` is its output, over all it serves at once."""

    price: float  # US dollars
    watts: float
    tokens_per_second: float
    price_kwh: float = 0.30  # US dollars
    years: float = 4.0  # of life, linear

    def __post_init__(self) -> None:
        if not (min(self.price, self.watts, self.price_kwh) >= 0 and min(self.tokens_per_second, self.years) > 0):
            raise BadInput(
                f"Own hardware needs price, watts and price_kwh >= 0, tokens/s and years > 0, but got {self}; correct it."
            )

    @property
    def year_usd(self) -> float:
        """US dollars a year for one machine that is never off: its price over its life, and its electricity."""
        return self.price / self.years + self.watts / 1000 * YEAR_SECONDS / 3600 * self.price_kwh


@dataclass(frozen=True)
class YearRow:
    """What one way of running a model costs, in US dollars a year without a pause."""

    name: str
    tokens_per_second: float
    output_usd: float  # output tokens alone
    total_usd: float  # with what is read
    ratio: float  # of `output_usd` to the cheapest model's of the table
    press: str = ""


def price(prices: Prices, model: str) -> tuple[float, float, float]:
    """US dollars per token (in, cached in, out). Where a model has no price for cached text, that of fresh text.

    Raises `BadInput` where the map does not have the model or its prices.
    """
    entry = prices.get(model)
    if entry is None:
        raise BadInput(f"A model must be in litellm's price map, but {model!r} is not{did_you_mean(model, prices)}")
    into, out = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
    if into is None or out is None:
        raise BadInput(f"A price per token must be known, but litellm has none for {model!r}; name another model.")
    cached = entry.get("cache_read_input_token_cost")
    return float(into), float(into if cached is None else cached), float(out)


def year_table(
    prices: Prices,
    models: Sequence[tuple[str, float]] = MODELS,
    reading: Reading | None = None,
    hardware: Hardware | None = None,
) -> list[YearRow]:
    """One row a (model, output tokens/s), in the order given; own hardware last, in as many machines as the first row's
    speed needs. Reading takes money here, no time: a model that must read first writes less a day.

    >>> [row] = year_table({"m": {"input_cost_per_token": 0, "output_cost_per_token": 1.2e-6}}, [("m", 50.0)])
    >>> round(row.output_usd)
    1892
    """
    reading = reading or Reading()
    costs = []
    for name, speed in models:
        if not 0 < speed < math.inf:
            raise BadInput(f"Tokens a second > 0 must hold, but got {speed} for {name}; write --model NAME@TOKENS.")
        into, cached, out = price(prices, name)
        written = speed * YEAR_SECONDS
        read = reading.tokens_in_per_out * ((1 - reading.cached) * into + reading.cached * cached)
        costs.append((name, speed, written * out, written * (out + read)))
    cheapest = min((usd for _, _, usd, _ in costs), default=0.0)
    rows = [
        YearRow(
            name, speed, usd, total, _ratio(usd, cheapest), PRESS.get(name, "") if speed == TOKENS_PER_SECOND else ""
        )
        for name, speed, usd, total in costs
    ]
    if hardware is not None:
        machines = math.ceil(models[0][1] / hardware.tokens_per_second) if models else 1
        usd = machines * hardware.year_usd
        name = f"own hardware, {machines} machine{'s' if machines > 1 else ''}"
        rows.append(YearRow(name, machines * hardware.tokens_per_second, usd, usd, _ratio(usd, cheapest)))
    return rows


def _ratio(usd: float, cheapest: float) -> float:
    return usd / cheapest if cheapest else math.inf


def fast_variant(prices: Prices, model: str) -> str | None:
    """The same model in its provider's faster tier, by its name in the price map; None where there is none."""
    return next((f"{model}{end}" for end in ("-highspeed", "-lightning") if f"{model}{end}" in prices), None)


# ---------------------------------------------------------------- a campaign


Who = Literal["agent", "sampler", "evolve", "person"]
WHO: tuple[Who, ...] = ("agent", "sampler", "evolve", "person")
STEPS = ("propose", "edit", "launch", "monitor", "diagnose", "evaluate", "decide", "promote", "report")


@dataclass
class CampaignCosts:
    """What a journal says of one campaign. Dollars are US dollars; None is "no such thing happened yet"."""

    calls: int = 0
    calls_unsettled: int = 0  # under way, or left open by a kill: counted at their reservation
    tokens_in: int = 0  # cached ones included
    tokens_cached: int = 0
    tokens_out: int = 0
    model_usd: float = 0.0
    call_seconds: float = 0.0
    train_seconds: float = 0.0  # CPU
    train_usd: float = 0.0
    trainings: int = 0
    accepted: int = 0  # by gate and vault
    promoted: int = 0
    wall_seconds: float = 0.0  # of all sessions
    waited_seconds: float = 0.0  # no training or score ran while a model was at work
    trained_seconds: float = 0.0  # at least one training or score ran
    models: Counter[str] = field(default_factory=Counter)  # -> calls
    steps: dict[str, Counter[Who]] = field(default_factory=lambda: {step: Counter() for step in STEPS})
    prompt_seconds: float = 0.0  # that prompts waited for a person who then decided
    to_promotion_seconds: list[float] = field(default_factory=list)  # from each promoted candidate's proposal

    @property
    def usd(self) -> float:
        return self.model_usd + self.train_usd

    @property
    def tokens_per_second(self) -> float | None:
        """Output tokens over the seconds that calls took."""
        return self.tokens_out / self.call_seconds if self.call_seconds else None

    @property
    def usd_per_accepted(self) -> float | None:
        return self.usd / self.accepted if self.accepted else None

    @property
    def usd_per_promoted(self) -> float | None:
        return self.usd / self.promoted if self.promoted else None

    @property
    def prompt_minutes_per_promotion(self) -> float | None:
        return self.prompt_seconds / 60 / self.promoted if self.promoted else None

    @property
    def median_seconds_to_promotion(self) -> float | None:
        return median(self.to_promotion_seconds) if self.to_promotion_seconds else None

    @property
    def reading(self) -> Reading | None:
        """How much was read for each token written, for the year's table; None before anything was written."""
        if not self.tokens_out:
            return None
        cached = self.tokens_cached / self.tokens_in if self.tokens_in else 0.0
        return Reading(self.tokens_in / self.tokens_out, cached, "measured in this campaign")

    @property
    def automated(self) -> float | None:
        """Share of all counted steps that no person did. Each counts as one, whatever its weight."""
        total = sum(count for by in self.steps.values() for count in by.values())
        return 1 - sum(by["person"] for by in self.steps.values()) / total if total else None

    @property
    def with_a_person(self) -> list[str]:
        """The steps in which a person took part at least once."""
        return [step for step in STEPS if self.steps[step]["person"]]


def campaign_costs(records: Iterable[Record]) -> CampaignCosts:
    """Reads a journal once, from its beginning."""
    costs, clock = CampaignCosts(), _Clock()
    budget, device = Budget(), "cpu"
    open_calls: dict[int, Record] = {}
    proposed: dict[str, float] = {}  # candidate -> when

    def count(step: str, who: Who) -> None:
        costs.steps[step][who] += 1

    for record in records:
        clock.take(record, costs)
        match record.event:
            case CampaignStarted():
                budget, device = record.event.rules.budget, record.event.subject.device
            case SessionStarted():
                for usage in record.event.killed or ():
                    _add_training(costs, training_spend(budget, usage, device))
                budget = record.event.budget
                count("launch", "person")
            case ModelCallStarted(call, _, model):
                open_calls[call] = record
                costs.calls += 1
                costs.models[model] += 1
            case ModelCallFinished(call, spend):
                begun = open_calls.pop(call)
                _add_call(costs, spend, spend.llm_seconds or max(0.0, record.time - begun.time))
            case Proposed(p) | HumanProposed(p):
                who = proposed_by(p)
                count("propose", who)
                if p.candidate.patch is not None:
                    count("edit", who)
                proposed.setdefault(p.candidate.id, record.time)
            case TrialStarted():
                count("launch", "evolve")
            case TrialInterrupted(_, usage):
                _add_training(costs, training_spend(budget, usage, device))
            case TrialFinished():
                costs.trainings += 1
                count("monitor", "evolve")
                count("evaluate" if record.event.score is not None else "diagnose", "evolve")
                if record.event.usage is not None:
                    _add_training(costs, training_spend(budget, record.event.usage, device))
            case Scored():
                count("evaluate", "evolve")
            case LessonWritten(_, by):
                count("diagnose", "person" if by in ("human", "person") else "agent" if by == "agent" else "evolve")
            case VerdictReached() | VaultAnswered():
                count("decide", "evolve")
            case ApprovalRequested(request):
                costs.accepted += request.kind == "candidate"
                count("report", "evolve")
            case CampaignStopped():
                count("report", "evolve")
            case Decided(approval):
                count("decide", "person")
                costs.prompt_seconds += approval.seconds
            case Promoted(candidate_id):
                costs.promoted += 1
                count("promote", "evolve")
                if candidate_id in proposed:
                    costs.to_promotion_seconds.append(record.time - proposed[candidate_id])
            case RolledBack():
                count("promote", "person")
            case _:
                pass
    for record in open_calls.values():
        assert isinstance(record.event, ModelCallStarted)
        _add_call(costs, record.event.reserved, 0.0)
        costs.calls_unsettled += 1
    return costs


def proposed_by(proposal: Proposal) -> Who:
    """Rules (the playbook, the default config) are evolve's own; what names no model and no person is a sampler."""
    if proposal.model is not None:
        return "agent"
    if proposal.proposer == "human":
        return "person"
    return "evolve" if proposal.proposer in ("playbook", "default") else "sampler"


def _add_call(costs: CampaignCosts, spend: Spend, seconds: float) -> None:
    costs.tokens_in += spend.llm_tokens - spend.llm_tokens_out
    costs.tokens_cached += spend.llm_tokens_cached
    costs.tokens_out += spend.llm_tokens_out
    costs.model_usd += spend.llm_usd
    costs.call_seconds += seconds


def _add_training(costs: CampaignCosts, spend: Spend) -> None:
    costs.train_seconds += spend.train_seconds
    costs.train_usd += spend.train_usd


class _Clock:
    """Between each two records of a session: whether a training or a score ran, or only a model was at work."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._busy: set[object] = set()
        self._asked: set[object] = set()

    def take(self, record: Record, costs: CampaignCosts) -> None:
        if self._last is not None:
            seconds = max(0.0, record.time - self._last)
            costs.wall_seconds += seconds
            if self._busy:
                costs.trained_seconds += seconds
            elif self._asked:
                costs.waited_seconds += seconds
            self._last = record.time
        match record.event:
            case SessionStarted():
                self._last, self._busy, self._asked = record.time, set(), set()
            case CampaignStopped():
                self._last = None
            case TrialStarted(number):
                self._busy.add(number)
            case TrialFinished(number) | TrialInterrupted(number):
                self._busy.discard(number)
            case ScoreStarted(number, split, round):
                self._busy.add((number, split, round))
            case Scored(number, split, round):
                self._busy.discard((number, split, round))
            case AdviceStarted():
                self._asked.add("advice")
            case Suggested() | ProposalFailed(advice=True):
                self._asked.discard("advice")
            case ModelCallStarted(call):
                self._asked.add(("call", call))
            case ModelCallFinished(call):
                self._asked.discard(("call", call))
            case _:
                pass


def waiting_text(costs: CampaignCosts, prices: Prices | None, speedup: float = 2.0) -> str:
    """One line: what rounds wait for, and what the faster tier of the model would buy at `speedup` times the speed."""
    if not costs.calls or not costs.wall_seconds:
        return "no model was called: rounds wait for trainings alone"
    waited, wall = costs.waited_seconds, costs.wall_seconds
    facts = f"for {waited:.0f} of {wall:.0f} s ({waited / wall:.0%}) a model was at work and no training ran"
    if waited <= costs.trained_seconds:
        return f"rounds wait for the training: {facts}; a faster tier would buy at most that"
    (model, _), *_ = costs.models.most_common(1)
    saved = waited * (1 - 1 / speedup)
    text = f"rounds wait for the model, not for the training: {facts}; at {speedup:g}x its speed {saved:.0f} s less"
    fast = fast_variant(prices, model) if prices else None
    if fast is None or prices is None:
        return f"{text} (litellm's map names no faster tier of {model})"
    times = price(prices, fast)[2] / price(prices, model)[2] if price(prices, model)[2] else math.inf
    return f"{text}: {fast}, {times:.2g}x the price of an output token"
