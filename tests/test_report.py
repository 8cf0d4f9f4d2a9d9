"""`evolve report`: one file that shows a campaign, in which nothing of what others wrote becomes an element."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from evolve import report
from evolve.cli import main
from evolve.journal import Journal
from evolve.types import Budget, GateRules, Proposal, Record, Rules, TrialStarted
from tests.tracking_campaign import Campaign

SMALL = Rules(budget=Budget(trials=9), gate=GateRules(baseline_seeds=2, max_seeds=3))
TAGS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "b", "span", "div", "figure", "img", "figcaption",
    "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
EVIL = (
    "<script>alert(1)</script><img src=x onerror=alert(1)></style></title><!-- ]]> [click](javascript:alert(1)) "
    "![x](data:text/html;base64,AAAA) \x1b[31mred\x1b[0m \u202egnp.exe\u2066 &lt;b&gt; # Heading \x00\u200b"
)
SHOWN = (
    "<script>alert(1)</script><img src=x onerror=alert(1)></style></title><!-- ]]> [click](javascript:alert(1)) "
    "![x](data:text/html;base64,AAAA) [31mred[0m gnp.exe &lt;b&gt; # Heading"
)


class Page(HTMLParser):
    """What a browser's parser finds: elements with their attributes, and the text that people see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.style = ""
        self._inside = ""
        self.comments: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.style += data
        self.texts.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def told(records: list[Record]) -> report.Told:
    return report.tell(records)


def page(campaign: Campaign, *, alive: bool = False, drawn: dict[str, bytes] | None = None) -> Page:
    return Page(report.html(told(campaign.records), drawn or {}, alive=alive))


def evil_campaign(text: str = EVIL, *, candidates: bool = True) -> Campaign:
    """`text` wherever somebody else may write: rationale, proposer, errors, reasons, names, descriptions; with `candidates`
    in a parameter and a patch as well, which makes other candidates of them."""
    campaign = Campaign(name=text, rules=replace(SMALL, budget=Budget(trials=14)), rationale=text)
    propose = campaign._proposal

    def evil() -> Proposal:
        proposal = propose()
        candidate = proposal.candidate
        if candidates:
            candidate = replace(candidate, params={**candidate.params, "method": text}, patch=text)
        return replace(proposal, candidate=candidate, proposer=text, rationale=text, decided=text)

    campaign._proposal = evil  # type: ignore[method-assign]
    campaign.play().command("approve", text).command("rollback", text)
    first = campaign.records[0].event
    subject = replace(first.subject, name=text, description=text)  # type: ignore[union-attr]
    campaign.records[0] = replace(campaign.records[0], event=replace(first, subject=subject))  # type: ignore[arg-type]
    return campaign


def test_foreign_text_becomes_no_element_and_shows_as_itself() -> None:
    found = page(evil_campaign())
    assert {tag for tag, _ in found.elements} <= TAGS
    assert found.comments == []
    allowed = {"class", "lang", "charset", "http-equiv", "content", "name", "alt", "src"}
    assert {name for _, attributes in found.elements for name in attributes} <= allowed
    assert SHOWN in found.texts, "the campaign's name, as it is"
    assert any(f"Claimed by its proposer ({SHOWN[:59]}…), checked by nobody: {SHOWN}" in text for text in found.texts)
    assert not any(c in found.text for c in "\x1b\x00\u202e\u2066\u200b")


def test_the_elements_do_not_depend_on_what_was_written() -> None:
    evil, harmless = (page(evil_campaign(text, candidates=False)) for text in (EVIL, "x"))
    assert [tag for tag, _ in evil.elements] == [tag for tag, _ in harmless.elements]


def test_the_policy_forbids_everything_but_our_style_and_pictures_from_within() -> None:
    found = page(Campaign(rules=SMALL).play(), drawn={"progress.png": b"\x89PNG"})
    (policy,) = [a["content"] for tag, a in found.elements if tag == "meta" and "http-equiv" in a]
    style = base64.b64encode(hashlib.sha256(found.style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'"
    )
    assert [a["src"] for tag, a in found.elements if tag == "img"] == ["data:image/png;base64,iVBORw=="]
    assert "url(" not in found.style and "@import" not in found.style


def test_the_report_shows_what_waits_with_its_interval_and_the_promise() -> None:
    campaign = Campaign(rules=SMALL).play()
    text = page(campaign).text
    (waits,) = campaign.state.pending
    numbers = campaign.state.entries[waits].verdict.numbers  # type: ignore[union-attr]
    interval = f"{numbers['estimate']:+.4g} (95 % interval {numbers['low']:+.4g} to {numbers['high']:+.4g})"
    assert text.count(interval) == 2, "where it waits, and among the accepted"
    assert f"{numbers['difference']:.4f} ±" not in text
    assert (
        "Gate custom: at most 5% that a campaign of 50 useless candidates promotes any; not simulated for these" in text
    )
    assert "2 fresh seeds against 2 of the champion" in text
    assert "Nothing was promoted." in text
    assert "finished: budget.trials: 9 of 9 spent" in text
    assert "train_seconds" in text and "holds" in text, "the guards"


def test_the_report_shows_who_promoted_and_who_rolled_back_and_when() -> None:
    campaign = Campaign(rules=SMALL).play().command("approve", "it is faster")
    promoted = campaign.state.champion_id[:8]
    text = page(campaign).text
    assert "Nothing waits." in text
    assert f"2023-11-14 22:23 UTC\n{promoted}\nada\nit is faster\n+0.0" in text
    assert f"{promoted}   0.47" in text, "the champion"
    assert "rolled back" in page(campaign.command("rollback", "too slow")).text


def test_a_running_campaign_is_reported_as_of_its_last_event() -> None:
    campaign = Campaign(rules=SMALL).play(until=lambda event: event == TrialStarted(3, 1))
    text = page(campaign, alive=True).text
    assert f"running; as of 2023-11-14 22:15 UTC, event {len(campaign.records)}" in text
    assert "RUNNING" in text
    assert "interrupted; as of" in page(campaign).text


def test_a_report_of_many_trials_is_bounded_and_says_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MOST_TRIALS", 5)
    monkeypatch.setattr(report, "MOST_ACCEPTED", 1)
    text = page(Campaign(rules=Rules(budget=Budget(trials=40), gate=GateRules(baseline_seeds=2))).play()).text
    assert "The latest 5; 35 earlier ones are left out (`evolve log` has all)." in text
    assert "The latest 1 of " in text


def test_equal_journals_give_equal_reports() -> None:
    one, two = (report.html(told(Campaign(rules=SMALL).play().records), {}, alive=False) for _ in range(2))
    assert one == two


# ---------------------------------------------------------------- the command


def stored(root: Path) -> Campaign:
    """A campaign's journal where the command looks for it; nothing else of it."""
    campaign = Campaign(rules=SMALL).play()
    folder = root / "campaigns" / "toy-1"
    folder.mkdir(parents=True)
    with Journal.open(folder, lambda: 1_700_000_000.0) as journal:
        for record in campaign.records:
            journal.append(record.event)
    return campaign


def test_the_command_writes_one_file_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    stored(tmp_path / ".evolve")
    assert main(["report"]) == 0
    path = tmp_path / ".evolve/campaigns/toy-1/report.html"
    assert "report     .evolve/campaigns/toy-1/report.html (" in capsys.readouterr().out
    found = Page(path.read_text())
    assert [a["src"][:22] for tag, a in found.elements if tag == "img" and a["src"]] == ["data:image/png;base64,"]
    assert main(["report", "toy-1", "--out", "mine.html"]) == 0
    assert (tmp_path / "mine.html").read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".evolve", "mine.html"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["report", "--out", "."], "evolve: --out must name a file, but '.' is a folder; add a file's name.\n"),
        (
            ["report", "--out", "nowhere/r.html"],
            "evolve: The report must be written to nowhere/r.html, but No such file or directory; choose a place with"
            " --out.\n",
        ),
    ],
)
def test_a_place_that_cannot_be_written_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    stored(tmp_path / ".evolve")
    assert main(words) == 2
    assert capsys.readouterr().err == line


def test_a_campaign_that_is_not_there_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    stored(tmp_path / ".evolve")
    assert main(["report", "toy-2"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_report_needs_no_mlflow(tmp_path: Path) -> None:
    stored(tmp_path / ".evolve")
    code = (
        "import sys; sys.modules['mlflow'] = None\n"
        "from evolve.cli import main; sys.exit(main(['report', '--out', 'r.html']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r.html").stat().st_size > 10_000


def test_an_empty_journal_is_no_campaign() -> None:
    with pytest.raises(Exception, match="ended before its first event"):
        report.tell([])
