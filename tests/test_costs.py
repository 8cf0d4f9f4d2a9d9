"""What a year and a campaign cost: figures worked out by hand, and a changed price changes its row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from inline import Inline, Scripted

from evolve import journal as journals
from evolve.cli import main
from evolve.costs import (
    MODELS,
    Hardware,
    Reading,
    campaign_costs,
    fast_variant,
    price,
    waiting_text,
    year_table,
)
from evolve.errors import BadInput
from evolve.types import (
    AdviceStarted,
    Budget,
    Candidate,
    ModelCallFinished,
    ModelCallStarted,
    Proposal,
    Proposed,
    Record,
    SessionStarted,
    Spend,
    Suggested,
    TrialFinished,
    TrialStarted,
    Usage,
)

MAP = {
    "maker/m": {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6, "cache_read_input_token_cost": 1e-7},
    "maker/m-highspeed": {"input_cost_per_token": 2e-6, "output_cost_per_token": 6e-6},
    "free": {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0},
    "image": {"output_cost_per_image": 1.0},
}


# ---------------------------------------------------------------- a year


def test_output_tokens_of_a_year_at_fifty_a_second_cost_what_litellms_prices_say() -> None:
    from evolve.llm import price_map

    rows = year_table(price_map())
    # 50 * 31,536,000 s = 1,576.8 million tokens, at 1.20, 2.40, 15 and 25 dollars a million
    assert [round(r.output_usd) for r in rows] == [1892, 3784, 7569, 23652, 39420]
    assert [round(r.ratio, 1) for r in rows] == [1.0, 2.0, 4.0, 12.5, 20.8]
    assert [r.press for r in rows] == ["about $2,000", "about $4,000", "", "about $23,000", "up to $39,000"]


def test_a_changed_price_changes_its_row_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import litellm

    def rows() -> list[float]:
        assert main(["cost", "--year", "--json"]) == 0
        return [row["output_usd"] for row in json.loads(capsys.readouterr().out)["year"]["rows"]]

    before = rows()
    dearer = dict(litellm.model_cost["gpt-5.4"], output_cost_per_token=30e-6)
    monkeypatch.setitem(litellm.model_cost, "gpt-5.4", dearer)
    after = rows()
    assert after[3] == pytest.approx(2 * before[3])
    assert [a for i, a in enumerate(after) if i != 3] == [b for i, b in enumerate(before) if i != 3]


def test_what_is_read_is_paid_for_at_the_price_of_fresh_and_cached_text() -> None:
    (row,) = year_table(MAP, [("maker/m", 1.0)], Reading(10, 0.5))
    # a token out: 2e-6, and 5 fresh at 1e-6 and 5 cached at 1e-7
    assert row.total_usd == pytest.approx(31_536_000 * (2e-6 + 5e-6 + 5e-7))
    (row,) = year_table(MAP, [("maker/m-highspeed", 1.0)], Reading(10, 0.5))
    assert row.total_usd == pytest.approx(31_536_000 * (6e-6 + 20e-6)), "no price for cached text: that of fresh text"


def test_own_hardware_costs_its_price_over_its_life_and_its_electricity_in_as_many_machines_as_the_speed_needs() -> (
    None
):
    hardware = Hardware(price=4000, watts=500, tokens_per_second=20, price_kwh=0.25, years=4)
    assert hardware.year_usd == pytest.approx(1000 + 0.5 * 8760 * 0.25)
    *_, row = year_table(MAP, [("maker/m", 50.0)], hardware=hardware)
    assert (row.name, row.tokens_per_second) == ("own hardware, 3 machines", 60.0)
    assert row.output_usd == row.total_usd == pytest.approx(3 * 2095)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: price(MAP, "maker/n"), "did you mean 'maker/m'"),
        (lambda: price(MAP, "image"), "litellm has none for 'image'"),
        (lambda: year_table(MAP, [("free", 0.0)]), "Tokens a second > 0"),
        (lambda: Reading(-1), "--input-ratio"),
        (lambda: Reading(1, 1.1), "--cached"),
        (lambda: Hardware(1, 1, 0), "Own hardware needs"),
    ],
)
def test_bad_input_is_one_line_with_the_next_step(make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadInput, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_faster_tier_is_found_by_its_name() -> None:
    assert fast_variant(MAP, "maker/m") == "maker/m-highspeed"
    assert fast_variant(MAP, "free") is None
    assert MODELS[1][0] == MODELS[0][0] + "-highspeed"


# ---------------------------------------------------------------- a campaign


def call(number: int, begun: float, ended: float, **spend: float) -> list[Record]:
    return [
        Record(0, begun, ModelCallStarted(number, "agent", "maker/m", Spend(llm_tokens=500, llm_usd=0.5))),
        Record(0, ended, ModelCallFinished(number, Spend(**spend))),  # type: ignore[arg-type]
    ]


def session(hour: float = 0.0) -> Record:
    from inline import HERE

    return Record(0, hour, SessionStarted(HERE, 1, "none", Budget(price_cpu_hour=3.6), 1))


def test_tokens_dollars_and_seconds_are_the_sums_of_the_journal() -> None:
    records = [
        session(),
        *call(0, 10, 14, llm_tokens=110, llm_tokens_out=10, llm_tokens_cached=60, llm_usd=0.01),
        *call(1, 20, 30, llm_tokens=60, llm_tokens_out=10, llm_usd=0.02, llm_seconds=6.0),
        Record(0, 31, TrialStarted(0, 1)),
        Record(0, 41, TrialFinished(0, "FAIL", usage=Usage(100.0, 10.0, 1.0))),
    ]
    costs = campaign_costs(records)
    assert (costs.tokens_in, costs.tokens_cached, costs.tokens_out) == (150, 60, 20)
    assert costs.model_usd == pytest.approx(0.03)
    assert costs.tokens_per_second == 20 / (4 + 6)
    assert costs.train_usd == pytest.approx(0.1), "100 CPU seconds at 3.60 dollars an hour"
    assert (costs.usd_per_accepted, costs.prompt_minutes_per_promotion) == (None, None)
    assert costs.reading == Reading(7.5, 0.4, "measured in this campaign")


def test_a_call_that_was_never_settled_counts_at_its_reservation() -> None:
    costs = campaign_costs([session(), *call(0, 1, 2, llm_usd=0.1), call(1, 3, 9)[0]])
    assert (costs.calls, costs.calls_unsettled) == (2, 1)
    assert costs.model_usd == pytest.approx(0.6)


def test_who_waited_for_whom_is_told_with_what_the_faster_tier_would_buy() -> None:
    begin = [session(), Record(0, 0, AdviceStarted("agent"))]
    answer = Record(0, 80, Suggested(Proposal(Candidate({}, "v"), "agent", model="maker/m")))
    train = [Record(0, 80, TrialStarted(0, 1)), Record(0, 100, TrialFinished(0, "FAIL"))]
    slow = campaign_costs([*begin, *call(0, 0, 80), answer, *train])
    assert (slow.waited_seconds, slow.trained_seconds, slow.wall_seconds) == (80, 20, 100)
    assert waiting_text(slow, MAP) == (
        "rounds wait for the model, not for the training: for 80 of 100 s (80%) a model was at work and no training ran;"
        " at 2x its speed 40 s less: maker/m-highspeed, 3x the price of an output token"
    )
    train = [Record(0, 1, TrialStarted(0, 1)), Record(0, 100, TrialFinished(0, "FAIL"))]
    beside = campaign_costs([*begin, train[0], *call(0, 1, 80), answer, train[1]])
    assert (beside.waited_seconds, beside.trained_seconds) == (1, 99)
    assert waiting_text(beside, MAP).startswith("rounds wait for the training")
    assert waiting_text(campaign_costs([session()]), MAP).startswith("no model was called")


def test_the_workflow_is_counted_by_whoever_did_each_step(tmp_path: Path) -> None:
    campaign = Inline(tmp_path / "c", Scripted([{"x": 0.8, "mode": "b", "z": 4}]), budget=Budget(trials=16))
    campaign.run()
    (request,) = campaign.state.pending.values()
    command = {"candidate_id": request.candidate_id, "content_hash": request.content_hash, "seconds": 90.0}
    campaign.command("approve", reason="good", **command)
    campaign.run()
    records = [r for r, _ in journals.read(tmp_path / "c" / "journal.jsonl")]
    costs = campaign_costs(records)
    trials = sum(isinstance(r.event, TrialFinished) for r in records)
    assert costs.steps["propose"] == {"sampler": 1}
    assert costs.steps["launch"] == {"evolve": trials, "person": 2}
    assert costs.steps["monitor"] == {"evolve": trials}
    assert costs.steps["promote"] == {"evolve": 1}
    assert costs.steps["decide"]["person"] == 1
    assert (costs.accepted, costs.promoted, costs.prompt_minutes_per_promotion) == (1, 1, 1.5)
    proposed = next(r.time for r in records if isinstance(r.event, Proposed))
    promoted = next(r.time for r in records if type(r.event).__name__ == "Promoted")
    assert costs.to_promotion_seconds == [promoted - proposed]
    total = sum(sum(by.values()) for by in costs.steps.values())
    assert costs.with_a_person == ["launch", "decide"]
    assert costs.automated == pytest.approx(1 - 3 / total), "two sessions and one decision by a person"


def test_cost_prints_the_year_where_there_is_no_campaign(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", f"state_dir={tmp_path}", "--hardware", "10000,800,60"]) == 0
    out = capsys.readouterr().out
    assert "What" not in out
    for words in ("$1,892", "$3,784", "$7,569", "$23,652", "$39,420", "20.8x", "own hardware, 1 machine", "(assumed)"):
        assert words in out
    assert main(["cost", f"state_dir={tmp_path}", "--model", "gpt-5.4@x"]) == 2
    assert main(["cost", f"state_dir={tmp_path}", "--hardware", "1,2"]) == 2


def test_a_campaigns_costs_are_plain_data_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    campaign = Inline(tmp_path / "campaigns" / "c", Scripted([{"x": 0.8}]), budget=Budget(trials=6))
    campaign.run()
    assert main(["cost", "c", "--json", f"state_dir={tmp_path}"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["campaign"]["trainings"], told["campaign"]["steps"]["propose"]) == (6, {"sampler": 1})
    assert len(told["year"]["rows"]) == len(MODELS)
    assert main(["cost", f"state_dir={tmp_path}"]) == 0
    out = capsys.readouterr().out
    for words in ("What c cost", "no model was called", "Who did what", "$39,420"):
        assert words in out
