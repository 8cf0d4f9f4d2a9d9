"""Proposed evaluations: their contract, their report, their code in real jails, what the policy makes of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from inline import Crash, Inline, Scripted, Walk, apply_first
from test_agent import make_view

from evolve import advisors, memory, notify, policy, sandbox, suite, suite_file, suite_runs, tracking_runs
from evolve.agent import AgentProposer
from evolve.campaign import Folder
from evolve.errors import BadInput, InvalidCandidate, TrialFailed
from evolve.journal import Journal, read, stable
from evolve.llm import ScriptedModel
from evolve.ports import Cancel, Completion, ToolCall
from evolve.state import State, apply
from evolve.suite_runs import Code, Refused, SuiteScorer, read_values
from evolve.testing import InlineExecutor, InlineScorer
from evolve.types import (
    ApprovalRequested,
    CommandRefused,
    EvalAssessed,
    EvalProposal,
    EvalProposed,
    Evaluation,
    GateRules,
    Objective,
    Rules,
    SuiteChanged,
    SuiteMetric,
    Trial,
    VerdictReached,
)

SELECT = "def select(prompt: str) -> bool:\n    return prompt > '5'\n"
MEASURE = (
    "def measure(prompt: str, answer: str, expected: str) -> float:\n    return float(answer[:1] == expected[:1])\n"
)
GENERATE = (
    "import random\n\n\ndef generate(seed: int, n: int) -> list[tuple[str, str]]:\n    draw = random.Random(seed)\n"
    "    return [(f'{draw.random():.6f}', 'yes') for _ in range(n)]\n"
)
jailed = pytest.mark.skipif(sandbox.find().name == "none", reason=f"no sandbox: {sandbox.find().reason}")

# ---------------------------------------------------------------- the contract


@pytest.mark.parametrize(
    ("form", "code", "words"),
    [
        ("slice", "def select(", "code must be Python, but line 1 is not: "),
        ("slice", "x = 1\n", "A slice must define one function `select` of 1 argument(s)"),
        ("slice", "def select(a, b):\n    return True\n", "of 1 argument(s)"),
        ("metric", SELECT, "A metric must define one function `measure` of 3 argument(s)"),
        ("generator", "(" * 5000, "code must be Python"),
        ("slice", "#" * 6001, "must have at most 6000 characters, but has 6001"),
    ],
)
def test_code_that_cannot_be_one_of_the_forms_is_refused_before_it_runs(form: Any, code: str, words: str) -> None:
    with pytest.raises(InvalidCandidate) as caught:
        suite.check(EvalProposal("good_name", form, code), set(), set())
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["", "A", "1a", "a-b", "a/b", "../a", "a" * 41, "a b", "é"])
def test_a_name_is_plain(name: str) -> None:
    with pytest.raises(InvalidCandidate, match="1 to 40 of a-z"):
        suite.check(EvalProposal(name, "slice", SELECT), set(), set())


def test_existing_metrics_keep_their_names_and_a_proposal_is_made_once() -> None:
    proposal = EvalProposal("score", "slice", SELECT)
    with pytest.raises(InvalidCandidate, match="existing ones stay as they are"):
        suite.check(proposal, {"score"}, set())
    with pytest.raises(InvalidCandidate, match="was proposed before"):
        suite.check(proposal, set(), {proposal.id})
    suite.check(proposal, set(), set())


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("text", "must be an object with name, form, code and rationale, but is str"),
        ({"name": "a", "form": "slice", "code": 3, "rationale": ""}, "code of an evaluation must be text, but is int"),
        ({"name": "a", "form": "loop", "code": "", "rationale": ""}, "form must be one of slice, metric, generator"),
        ({"name": "a", "form": "slice", "code": "", "rationale": "", "n": 1}, "but got 'n'; leave it out"),
        ({"name": "a", "form": "slice", "code": "#" * 7000, "rationale": ""}, "but has 7000"),
    ],
)
def test_whatever_a_model_sends_becomes_a_proposal_with_what_is_wrong(raw: object, words: str) -> None:
    proposal, wrong = suite.read(raw, "agent")
    assert words in wrong
    assert len(proposal.code) <= suite.MOST_CHARS


# ---------------------------------------------------------------- the report


def measured(rank: float, ones: int, primary: int, champion: bool = False) -> suite.Measured:
    def values(k: int) -> tuple[float, ...]:
        return tuple(float(i < k) for i in range(100))

    return suite.Measured(rank, values(ones), values(primary), champion)


def test_the_report_in_numbers_that_were_worked_out_by_hand() -> None:
    pool = [measured(0.1, 10, 20), measured(0.4, 50, 40, champion=True), measured(0.5, 60, 50), measured(0.9, 46, 90)]
    r = suite.report(pool)
    assert (r.items, r.weights, r.champion, r.good_bad) == (100, 4, 0.5, (1, 1))
    assert (r.good, r.bad) == (0.46, 0.1)
    assert r.stderr == pytest.approx(math.sqrt(0.25 / 99))
    assert r.separation == pytest.approx(0.36 / math.sqrt(0.36 * 0.64 / 99))  # 36 of 100 items differ, by 1 each
    assert r.primary_separation == pytest.approx(0.7 / math.sqrt(0.7 * 0.3 / 99))
    assert (r.ceiling, r.floor) == (0.5, 0.5)
    assert r.seed_sd is None
    two = suite.report(
        [measured(0.1, 48, 20), measured(0.4, 40, 40, champion=True), measured(0.5, 60, 50, champion=True)]
    )
    assert two.seed_sd == pytest.approx(0.2 / math.sqrt(2))
    assert any("two seeds of one candidate" in c for c in suite.cautions(two))
    assert r.agreement == pytest.approx(0.4)  # ranks 1 3 4 2 against 1 2 3 4: 1 - 6 * (0 + 1 + 1 + 4) / 60


def test_a_report_says_what_to_look_at() -> None:
    upside_down = suite.report([measured(0.9, 10, 90, champion=True), measured(0.1, 60, 10)])
    assert any("upside down" in c for c in suite.cautions(upside_down))
    assert upside_down.agreement is None
    assert "not enough" in suite.facts(upside_down)["agreement"]
    full = suite.report([measured(0.9, 100, 90, champion=True), measured(0.1, 99, 10)])
    assert any("saturated" in c for c in suite.cautions(full))
    assert any("does not tell known good from known bad" in c for c in suite.cautions(full))
    good = suite.report([measured(0.9, 80, 90, champion=True), measured(0.1, 20, 10)])
    assert [c for c in suite.cautions(good) if "coarse" not in c] == []


def test_what_measures_nothing_has_no_report() -> None:
    with pytest.raises(InvalidCandidate, match="gives 0.5 for each of 3"):
        suite.report([measured(0.1, 50, 10), measured(0.2, 50, 20), measured(0.3, 50, 30)])
    with pytest.raises(InvalidCandidate, match="at least 20 items to say anything, but has 3"):
        suite.report([suite.Measured(0, (1.0, 0.0, 1.0), (1.0,)), suite.Measured(1, (1.0, 1.0, 1.0), (1.0,))])
    with pytest.raises(InvalidCandidate, match="two sets of weights"):
        suite.report([measured(0.1, 50, 10)])


def test_a_rank_correlation_needs_four_and_something_to_rank() -> None:
    assert suite.spearman([1, 2, 3], [1, 2, 3]) is None
    assert suite.spearman([1, 1, 1, 1], [1, 2, 3, 4]) is None
    assert suite.spearman([4, 3, 2, 1], [1, 2, 3, 4]) == -1
    assert suite.spearman([1, 1, 2, 2], [1, 1, 2, 2]) == 1


def test_the_evidence_of_two_equal_runs_is_equal_whatever_time_they_took() -> None:
    r = suite.report([measured(0.9, 80, 90), measured(0.1, 20, 10)])
    assert suite.evidence(r) == suite.evidence(replace(r, seconds=3.0))
    assert suite.evidence(r) != suite.evidence(replace(r, overlap=0.5))


# ---------------------------------------------------------------- the code, in real jails


def code(folder: Path, text: str, form: Any = "slice", runs: int = 1) -> Code:
    folder.mkdir(exist_ok=True)
    return Code(SuiteMetric("m", form, text), folder, Cancel(), runs)


@jailed
def test_each_form_runs(tmp_path: Path) -> None:
    assert code(tmp_path, SELECT).select(["4", "6", "7"]) == [0, 1, 1]
    assert code(tmp_path, MEASURE, "metric").measure([["p", "12", "19"], ["p", "", "1"]]) == [1.0, 0.0]
    pairs = code(tmp_path, GENERATE, "generator", runs=2).generate(7, 5)
    assert len(pairs) == 5 and pairs == code(tmp_path, GENERATE, "generator").generate(7, 5)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def select(body: str) -> str:
    return "".join(f"{line}\n" for line in ("def select(prompt):", *(f"    {line}" for line in body.split("\n"))))


@jailed
@pytest.mark.parametrize(
    ("body", "form", "words"),
    [
        ("return 1", "slice", "`select` must return True or False"),
        ("raise ValueError(prompt)", "slice", "it raised ValueError at line 2 of its code"),
        ("class Mine(Exception): pass\nMine.__name__ = prompt\nraise Mine", "slice", "it raised Exception at line 4"),
        ("import os\nos._exit(0)", "slice", "it must leave its values, but ended without"),
        ("import os\nos.kill(os.getpid(), 9)", "slice", "it must leave its values, but ended without (exit code -9)"),
        ("raise SystemExit(0)", "slice", "it raised SystemExit at line 2"),
        ("return bytearray(10**10) and True", "slice", "it raised MemoryError"),
        ("import numpy\nreturn True", "slice", "it raised ModuleNotFoundError at line 2"),
        ("import os\nos.fork()\nreturn True", "slice", "it raised PermissionError at line 3"),
        ("return 2", "metric", "`measure` must return a number in [0, 1]"),
        ("return float('nan')", "metric", "`measure` must return a number in [0, 1]"),
        ("return 'x'", "metric", "`measure` must return a number"),
        ("return 7", "generator", "`generate` must return a list of 1 to n pairs"),
        ("return [(1, 2)]", "generator", "pairs of text"),
        ("return [('x', 'y')] * 99", "generator", "1 to n pairs"),
        ("return [('x' * 3000, 'y')]", "generator", "more than 2000 characters"),
    ],
)
def test_code_that_breaks_its_contract_is_refused_in_our_words(
    tmp_path: Path, body: str, form: Any, words: str
) -> None:
    function = {
        "slice": "select(prompt)",
        "metric": "measure(prompt, answer, expected)",
        "generator": "generate(seed, n)",
    }
    text = select(body).replace("select(prompt)", function[form])
    asked = code(tmp_path, text, form)
    ask = {
        "slice": lambda: asked.select(["SECRETPROMPT"]),
        "metric": lambda: asked.measure([["SECRETPROMPT", "a", "e"]]),
        "generator": lambda: asked.generate(1, 10),
    }
    with pytest.raises(Refused) as caught:
        ask[form]()
    assert words in str(caught.value)
    assert "SECRETPROMPT" not in str(caught.value), "no problem reaches the author by a message"


@jailed
@pytest.mark.parametrize(
    "text",
    [
        select("import time\nreturn time.monotonic_ns() % 2 == 0 or time.monotonic_ns() % 7 < 3"),
        select("import random\nreturn random.random() < 0.5"),
        select("return hash(prompt) % 2 == 0"),
    ],
)
def test_code_that_is_not_deterministic_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(Refused, match="two runs differ"):
        code(tmp_path, text, runs=2).select([f"p{i}" for i in range(200)])


@jailed
def test_code_that_never_ends_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite_runs, "_SECONDS", 1.0)
    with pytest.raises(Refused, match="must end within 1 s"):
        code(tmp_path, select("while True: pass")).select(["p"])


@jailed
def test_code_sees_neither_campaign_nor_home_nor_network_nor_environment(tmp_path: Path) -> None:
    """What it would need to cheat or to leak is not there; each attempt is one item, selected where it succeeded."""
    campaign = tmp_path / "campaign"
    campaign.mkdir()
    (campaign / "secret").write_text("5e" * 32)
    (campaign / "journal.jsonl").write_text("{}")
    attempts = [
        f"open({str(campaign / 'secret')!r}).read()",
        f"open({str(campaign / 'journal.jsonl')!r}).read()",
        f"__import__('os').listdir({str(tmp_path.parent)!r})",
        f"open({str(Path(__file__))!r}).read()",
        "open('/etc/shadow').read()",
        "open('/etc/hostname').read()",
        "__import__('socket').create_connection(('127.0.0.1', 22), 1)",
        "__import__('socket').create_connection(('1.1.1.1', 53), 1)",
        "__import__('socket').getaddrinfo('example.com', 80)",
        "__import__('os').environ['OPENAI_API_KEY']",
        "__import__('subprocess').run(['/bin/true'])",
        "open('/code/proposal.py', 'a').write('x')",
        "open('/request.json', 'a').write('x')",
        "[p for p in __import__('os').listdir('/proc') if p.isdigit() and int(p) > 50][0]",
    ]
    text = select("try:\n    eval(prompt)\nexcept BaseException:\n    return False\nreturn True")
    assert code(campaign, text).select(attempts) == [0] * len(attempts)
    assert eval(attempts[0]) == "5e" * 32, "outside of the jail it is there"


@pytest.mark.parametrize(
    ("form", "data"),
    [
        ("slice", b'{"values": [2]}'),
        ("slice", b'{"values": ["1"]}'),
        ("metric", b'{"values": [1.5]}'),
        ("metric", b'{"values": [NaN]}'),
        ("metric", b'{"values": [true]}'),
        ("metric", b'{"values": [1, 1]}'),
        ("metric", b'{"values": null}'),
        ("metric", b"[[[[[["),
        ("metric", b'{"fault": "SECRETPROMPT", "line": 1}'),
        ("metric", b'{"fault": "raised", "exception": "SECRETPROMPT", "line": 1234567}'),
    ],
)
def test_what_comes_out_of_a_jail_is_checked_as_if_an_enemy_wrote_it(form: Any, data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        read_values(form, data, 1, lines=10)
    assert "SECRETPROMPT" not in str(caught.value) and "1234567" not in str(caught.value)


def test_an_answers_file_that_is_wrong_is_refused(tmp_path: Path) -> None:
    good = {"problems": [{"prompt": "p", "expected": "e"}], "evaluations": [{"answers": ["a"], "results": [1]}]}
    path = tmp_path / "answers.json"
    path.write_text(json.dumps({"sets": [good]}))
    [found] = suite_runs.read_answers(path, 1, 1)
    assert (found.prompts, found.answers, found.results) == (("p",), (("a",),), ((1.0,),))
    for bad in (
        {"sets": []},
        {"sets": [{**good, "evaluations": []}]},
        {"sets": [{**good, "evaluations": [{"answers": [], "results": [1]}]}]},
        {"sets": [{**good, "evaluations": [{"answers": ["a"], "results": [2]}]}]},
        {"sets": 3},
    ):
        path.write_text(json.dumps(bad))
        with pytest.raises(TrialFailed, match="answers.json"):
            suite_runs.read_answers(path, 1, 1)


# ---------------------------------------------------------------- the policy

PROPOSAL = EvalProposal("hard", "slice", SELECT, "because", "scripted")
STEPS = [{"x": 0.1 + i / 20} for i in range(4)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "campaign"


def campaign(folder: Path, *proposals: EvalProposal, **settings: Any) -> Inline:
    made = Inline(folder, Scripted(STEPS, evaluations=proposals), **settings)
    made.changes = {"answer_cmd": ("x",)}
    return made


def events(made: Inline, kind: type) -> list[Any]:
    return [r.event for r, _ in read(made.folder / "journal.jsonl") if isinstance(r.event, kind)]


def test_a_proposal_is_tried_and_waits_for_a_person(folder: Path) -> None:
    made = campaign(folder, PROPOSAL)
    made.run()
    (proposed,), (assessed,) = events(made, EvalProposed), events(made, EvalAssessed)
    assert proposed.proposal == PROPOSAL and proposed.error == ""
    assert assessed.report.weights >= 4
    (request,) = [e.request for e in events(made, ApprovalRequested) if e.request.kind == "eval"]
    assert (request.candidate_id, request.weights) == (PROPOSAL.id, PROPOSAL.id)
    assert request.evidence == suite.evidence(assessed.report)
    assert request.evaluation_version == made.state.campaign.measured_by
    assert all(not t.score.metrics for t in made.state.trials.values() if t.score)
    assert made.state.pending.keys().isdisjoint({PROPOSAL.id}), "it is no candidate"
    told = notify.payload(made.state, PROPOSAL.id)
    assert (told["kind"], told["metric"], told["confirmations_needed"]) == ("eval", "suite/hard", 2)
    assert "must confirm twice" in told["text"] and SELECT not in json.dumps(told)
    assert not any(
        tracking_runs._changes_stages(e) for e in events(made, ApprovalRequested) if e.request.kind == "eval"
    )


def test_one_confirmation_is_refused_two_adopt_and_the_campaign_goes_on_without_it(folder: Path) -> None:
    made = campaign(folder, PROPOSAL)
    made.run()
    request = made.state.evals[PROPOSAL.id].request
    fields = {"candidate_id": PROPOSAL.id, "content_hash": request.content_hash}  # type: ignore[union-attr]
    made.command("approve", **fields)
    made.command("approve", confirmations=2, **fields)
    made.run()
    assert any("must be confirmed twice" in e.reason for e in events(made, CommandRefused))
    (changed,) = events(made, SuiteChanged)
    assert (changed.version, changed.metric) == (1, SuiteMetric("hard", "slice", SELECT, "inline", "ada"))
    assert made.state.campaign.subject.suite == () and made.state.suite_version == 1


def test_a_broken_proposal_is_told_and_nobody_is_asked(folder: Path) -> None:
    made = campaign(folder, EvalProposal("hard", "slice", SELECT + "# fail: no good"))
    made.run()
    assert [e.error for e in events(made, EvalAssessed)] == ["no good"]
    assert [e for e in events(made, ApprovalRequested) if e.request.kind == "eval"] == []
    assert made.proposer.views[-1].evaluations.told == ("hard (slice): refused: no good",)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("settings", "changes", "words"),
    [
        ({"sandbox": "none"}, {"answer_cmd": ("x",)}, "needs the sandbox"),
        ({"sandbox": "unavailable"}, {"answer_cmd": ("x",)}, "needs the sandbox"),
        ({}, {}, "needs the subject's answer_cmd"),
        ({}, {"answer_cmd": ("x",), "metrics": ("hard",)}, "existing ones stay as they are"),
        ({}, {"answer_cmd": ("x",), "suite": (SuiteMetric("hard", "slice", ""),)}, "existing ones stay as they are"),
    ],
)
def test_a_proposal_that_cannot_be_taken_is_refused_with_the_reason(
    folder: Path, settings: Any, changes: dict[str, object], words: str
) -> None:
    made = campaign(folder, PROPOSAL, **settings)
    made.changes = changes
    made.run()
    (proposed,) = events(made, EvalProposed)
    assert words in proposed.error
    assert made.state.evals[PROPOSAL.id].stage == "refused"
    assert events(made, EvalAssessed) == []


def test_a_campaign_takes_a_bounded_number_of_proposals(folder: Path) -> None:
    many = [EvalProposal(f"e{i}", "slice", SELECT) for i in range(suite.MOST_PROPOSALS + 2)]
    made = campaign(folder, *many)
    made.run()
    assert len(made.state.evals) == len(many)
    assert sum("takes 10 evaluations" in e.error for e in events(made, EvalProposed)) == 2


def test_replay_gives_the_live_state_and_a_kill_anywhere_the_same_journal(folder: Path, tmp_path: Path) -> None:
    made = campaign(folder, PROPOSAL)
    made.run()
    records = [r for r, _ in read(folder / "journal.jsonl")]
    state = State()
    for record in records:
        apply(state, record.event, record.time)
    assert state == made.state
    whole = list(stable(records))
    for at in range(1, len(records) - 1, 3):
        again = campaign(tmp_path / f"killed-{at}", PROPOSAL)
        again.crash_after = at
        with pytest.raises(Crash):
            again.run()
        again.crash_after = None
        again.run()
        found = list(stable(r for r, _ in read(again.folder / "journal.jsonl")))
        kinds = ("EvalProposed", "EvalAssessed", "ApprovalRequested")
        assert [e for e in found if e["type"] in kinds] == [e for e in whole if e["type"] in kinds], at


def test_a_guard_that_could_not_be_measured_has_not_held(folder: Path) -> None:
    guard = Objective("suite/hard", "maximize", tolerance=0.1)
    made = Inline(folder, Scripted([{"x": 0.8, "mode": "b", "z": 4}]), gate=GateRules(baseline_seeds=4, max_seeds=4))
    made.changes = {"guards": (guard,), "suite": (SuiteMetric("hard", "slice", SELECT),)}
    plain = made.scorer.score

    def without(trials: Any, split: Any, round: int, cancel: Cancel) -> list[Evaluation]:
        return [replace(e, missing={"suite/hard": "it broke"}) for e in plain(trials, split, round, cancel)]

    made.scorer.score = without  # type: ignore[method-assign]
    made.run()
    last = [e.verdict for e in events(made, VerdictReached)][-1]
    assert (last.decision, last.reason) == ("REJECT", "guard suite/hard could not be measured: it broke")


def test_a_new_suite_is_a_new_version_of_the_evaluation(folder: Path) -> None:
    without = apply_first(State(), campaign(folder))
    made = campaign(folder.parent / "other")
    made.changes = {"suite": (SuiteMetric("hard", "slice", SELECT),)}
    assert apply_first(State(), made).measured_by != without.measured_by == "e"
    made.changes = {"suite": (SuiteMetric("hard", "slice", SELECT, "elsewhere", "bob"),)}
    renamed = apply_first(State(), made).measured_by
    made.changes = {"suite": (SuiteMetric("hard", "slice", SELECT),)}
    assert apply_first(State(), made).measured_by == renamed, "whoever adopted it: it measures the same"


def test_the_pool_is_of_weights_that_the_store_keeps(folder: Path) -> None:
    made = Inline(folder, Walk())
    made.changes = {"answer_cmd": ("x",)}
    made.run()
    rules = Rules(keep_weights=3)
    pool, kept = policy.eval_pool(made.state, rules), policy.weights_to_keep(made.state, rules)
    assert 4 <= len(pool) <= 8 and len({t.number for t in pool}) == len(pool)
    assert all(t.weights in kept for t in pool)
    scored = [t.score.mean for t in made.state.trials.values() if t.score]
    assert min(scored) in [t.score.mean for t in pool if t.score], "the worst, as known to be bad"


# ---------------------------------------------------------------- the scorer with the suite


class Broken:
    """A suite whose code fails at scoring."""

    def measure(self, trials: list[Trial], round: int, cancel: Cancel) -> list[tuple[dict[str, float], dict[str, str]]]:
        return [({"suite/a": 0.5}, {"suite/b": "it raised KeyError"}) for _ in trials]


def test_what_cannot_be_measured_is_missing_and_the_vault_knows_the_score_alone() -> None:
    executor = InlineExecutor(lambda params, rng: 0.5)
    executor.trained["w"] = 0.5
    scorer = SuiteScorer(InlineScorer(executor), Broken())  # type: ignore[arg-type]
    trial = Trial(0, "c", "search", 0, 1, weights="w")
    [found] = scorer.score([trial], "search", 0, Cancel())
    assert (found.mean, found.metrics, found.missing) == (0.5, {"suite/a": 0.5}, {"suite/b": "it raised KeyError"})
    [vault] = scorer.score([trial], "vault", 1, Cancel())
    assert (vault.metrics, vault.missing) == ({}, {})


# ---------------------------------------------------------------- the file


def start(state_dir: Path, name: str, *metrics: SuiteMetric) -> Folder:
    made = campaign(state_dir / "campaigns" / name)
    with Journal.open(made.folder, lambda: 1.0) as journal:
        journal.append(apply_first(State(), made))
        for number, metric in enumerate(metrics, start=1):
            journal.append(SuiteChanged(number, metric, "0" * 64))
    return Folder(made.folder)


def test_two_campaigns_suites_become_one_file_the_first_keeps_a_name(tmp_path: Path) -> None:
    a = SuiteMetric("a", "slice", SELECT, "one", "ada")
    taken = SuiteMetric("a", "metric", MEASURE, "two", "bob")
    b = SuiteMetric("b", "metric", MEASURE, "two", "bob")
    one = start(tmp_path, "one", a)
    assert suite_file.sync(one) and suite_file.sync(one) == []
    two = start(tmp_path, "two", taken, b)
    assert suite_file.adopted(tmp_path, "inline") == (a, b), "what a crash left undone is taken from the journals"
    suite_file.sync(two)
    raw = json.loads(suite_file.path_of(tmp_path, "inline").read_text())
    assert [(m["version"], m["name"], m["approved_by"]) for m in raw["metrics"]] == [(1, "a", "ada"), (2, "b", "bob")]
    assert suite_file.taken(tmp_path, "inline") == {"a": a.id, "b": b.id}


def test_a_file_that_was_written_by_hand_is_refused(tmp_path: Path) -> None:
    one = start(tmp_path, "one", SuiteMetric("a", "slice", SELECT, "one", "ada"))
    suite_file.sync(one)
    path = suite_file.path_of(tmp_path, "inline")
    raw = json.loads(path.read_text())
    forged = SuiteMetric("evil", "slice", SELECT, "one", "ada")
    raw["metrics"].append({**raw["metrics"][0], "name": "evil", "sha256": forged.id})
    path.write_text(json.dumps(raw))
    with pytest.raises(BadInput, match="'evil' in .* is not what the journal of one has"):
        suite_file.adopted(tmp_path, "inline")
    path.write_text("{")
    with pytest.raises(BadInput, match="cannot be read"):
        suite_file.adopted(tmp_path, "inline")
    assert "put right" in suite_file.sync(one)[0]
    assert [m.name for m in suite_file.adopted(tmp_path, "inline")] == ["a"]


# ---------------------------------------------------------------- the agent

OFFERED = memory.Evaluations(frozenset({"score", "hard"}), frozenset(), ("old (slice): refused: it raised KeyError",))
ANSWER = {"changes": {"lr": 0.001}, "rationale": "Faster."}
GIVEN = {"name": "odd", "form": "slice", "code": SELECT, "rationale": "a weakness"}


def asked(*answers: Any, tools: bool = True, offered: bool = True, **view: Any) -> tuple[Any, ScriptedModel]:
    model = ScriptedModel(answers, calls_tools=tools)
    proposer = AgentProposer(model, evaluations=offered)
    return proposer.propose(make_view(evaluations=OFFERED, **view)), model


def said(*pairs: tuple[str, Any]) -> Completion:
    return Completion("", "", tool_calls=tuple(ToolCall(f"c{i}", n, json.dumps(a)) for i, (n, a) in enumerate(pairs)))


def test_the_agent_proposes_one_evaluation_a_turn_and_a_candidate_as_well() -> None:
    proposal, model = asked(
        said(("propose_evaluation", {**GIVEN, "name": "hard"}), ("propose_evaluation", GIVEN)),
        said(("propose_evaluation", {**GIVEN, "name": "other"}), ("propose", ANSWER)),
    )
    assert proposal.candidate.params["lr"] == 0.001
    assert proposal.evaluations == (EvalProposal("odd", "slice", SELECT, "a weakness", "agent", "scripted"),)
    replies = [json.loads(m["content"]) for m in model.calls[1] if m["role"] == "tool"]
    assert "existing ones stay as they are" in replies[0]["error"] and replies[1]["ok"] is True
    assert "propose_evaluation" in [t["function"]["name"] for t in model.tools[0]]
    system, turn = (model.calls[0][i]["content"] for i in (0, 1))
    assert "the tool `propose_evaluation`" in system and "taken: hard, score" in system
    assert "old (slice): refused: it raised KeyError" in turn


def test_an_evaluation_in_a_single_answer_is_taken_and_a_wrong_one_costs_no_candidate() -> None:
    proposal, model = asked(json.dumps(ANSWER | {"evaluation": GIVEN}), tools=False)
    assert [e.name for e in proposal.evaluations] == ["odd"]
    assert "the key `evaluation`" in model.calls[0][0]["content"]
    proposal, _ = asked(json.dumps(ANSWER | {"evaluation": {**GIVEN, "code": "x = 1"}}), tools=False)
    assert proposal.candidate.params["lr"] == 0.001
    assert [e.code for e in proposal.evaluations] == ["x = 1"], "it is journaled, with what is wrong"


@pytest.mark.parametrize("tools", [True, False])
def test_where_none_are_taken_the_agent_is_not_told_of_them(tools: bool) -> None:
    answer = (
        said(("propose_evaluation", GIVEN), ("propose", ANSWER))
        if tools
        else json.dumps(ANSWER | {"evaluation": GIVEN})
    )
    proposal, model = asked(answer, tools=tools, offered=False)
    assert proposal.evaluations == ()
    assert "propose_evaluation" not in json.dumps([model.calls[0], model.tools[0]])
    assert "valuations that were proposed" not in json.dumps(model.calls[0])


def test_the_scripted_author_proposes_what_is_valid_for_each_shipped_subject() -> None:
    for name, form, text, why in advisors._EVALUATIONS.values():
        suite.check(EvalProposal(name, form, text, why), set(), set())  # type: ignore[arg-type]
    draw: dict[str, Any] = {}
    exec(advisors._EVALUATIONS["arithmetic"][2], draw)
    for prompt, expected in draw["generate"](1, 200):
        a, b = prompt[:3], prompt[4:7]
        assert expected == f"{int(a) + int(b):04d}"[::-1]
        carry = 0
        for x, y in zip(reversed(a), reversed(b), strict=True):
            carry = (int(x) + int(y) + carry) // 10
            assert carry == 1, prompt
