"""Promoted edits on a branch of a real repository, whose owner notices nothing of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from inline import HERE, subject

from evolve import branch, champion, cli, compose, patches
from evolve import campaign as files
from evolve.branch import NoRepository, Origin
from evolve.campaign import Folder
from evolve.carry import carried
from evolve.config import Config, load
from evolve.errors import BadInput, NotCommitted
from evolve.git import Commit, Repository, merged
from evolve.journal import Journal
from evolve.state import State
from evolve.types import (
    Approval,
    ApprovalRequest,
    ApprovalRequested,
    Budget,
    CampaignStarted,
    Candidate,
    Decided,
    Event,
    GateRules,
    Parameter,
    Params,
    Promoted,
    Proposal,
    Proposed,
    RolledBack,
    Rules,
    SessionStarted,
    TrialScheduled,
)
from evolve.workspace import Snapshot, git_commit, texts

RECIPE, LOSS = "train/recipe.py", "train/loss.py"
LINES = [f"step_{i} = {i}" for i in range(30)]
EDITABLE = (RECIPE, LOSS)


def text(**changes: object) -> str:
    """The recipe with some of its lines changed: `step_3=7`."""
    return "".join(f"{name} = {changes.get(name, i)}\n" for i, name in enumerate(f"step_{i}" for i in range(30)))


def clean_environment() -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    return env | {"HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_DATE": "@1600000000 +0000",
                  "GIT_COMMITTER_DATE": "@1600000000 +0000"}  # fmt: skip


class Desk:
    """A person's repository with a subject in a subfolder, and campaigns on it in a state folder elsewhere."""

    def __init__(self, base: Path, inside: str = "work/model") -> None:
        self.top, self.state_dir = base / "repo", base / "state"
        self.root = self.top / inside
        self.now = 1_700_000_000.0
        for name in EDITABLE:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(text())
        (self.root / RECIPE).chmod(0o755)
        (self.top / "README").write_text("about\n")
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "Ada")
        self.git("config", "user.email", "ada@example.org")
        self.commit("begin")

    def git(self, *words: str, code: int | None = 0) -> str:
        done = subprocess.run(
            ["git", *words], cwd=self.top, capture_output=True, text=True, env=clean_environment(), check=False
        )
        assert code is None or done.returncode == code, done.stderr
        return done.stdout.rstrip("\n")

    def commit(self, message: str) -> str:
        self.git("add", "-A")
        self.git("commit", "-qm", message)
        return self.git("rev-parse", "HEAD")

    def show(self, name: str, ref: str = "evolve/inline") -> str:
        path = (self.root / name).relative_to(self.top).as_posix()
        return self.git("show", f"{ref}:{path}") + "\n"

    def log(self, form: str = "%s") -> list[str]:
        """Of what the branch has and main has not, the newest first."""
        return self.git("log", f"--format={form}", "main..evolve/inline").splitlines()

    def seen(self) -> dict[str, str]:
        """What the person has, and what must never change: all but objects and evolve's own branch."""
        kept = {}
        for path in sorted(self.top.rglob("*")):
            name = path.relative_to(self.top).as_posix()
            if path.is_file() and not name.startswith(
                (".git/objects/", ".git/refs/heads/evolve", ".git/logs/refs/heads/evolve")
            ):
                kept[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return kept

    def campaign(self, name: str = "c", start: Candidate | None = None, **options: object) -> Campaign:
        return Campaign(self, name, start, **options)


class Campaign:
    """One campaign's journal, with the events that a promotion consists of."""

    def __init__(
        self, desk: Desk, name: str, start: Candidate | None, from_champion: bool = True, approvals: int = 1,
        config: Mapping[str, object] | None = None,
    ) -> None:  # fmt: skip
        self.desk, self.from_champion = desk, from_champion
        self.folder = files.create(desk.state_dir / "campaigns" / name, "5e" * 32)
        snapshot = Snapshot.take(desk.root, ["train"], self.folder.path / "code")
        self.texts, self.snapshot = texts(snapshot.folder, EDITABLE), snapshot
        self.recorded = git_commit(desk.root)
        self.start = start or Candidate({"x": 0.5, "mode": "a"}, "v")
        rules = Rules(gate=GateRules(approvals=approvals))
        what = subject(sources=("train",), editable=EDITABLE)
        self.add(
            CampaignStarted(name, what, "v", snapshot.version, "s", 0, rules, self.start, "the default", config or {}),
            SessionStarted(HERE, 1, "none", Budget(trials=9), 1),
        )

    def add(self, *events: Event) -> None:
        with Journal.open(self.folder.path, self._clock) as journal:
            for event in events:
                journal.append(event)

    def _clock(self) -> float:
        self.desk.now += 1
        return self.desk.now

    def patch(self, changes: Mapping[str, str]) -> str:
        return patches.make(self.texts, changes)

    def promote(
        self, changes: Mapping[str, str] | None = None, *, params: Params | None = None, rationale: str = "a better loss",
        by: tuple[str, ...] = ("ada",), **declared: Parameter,
    ) -> Candidate:  # fmt: skip
        """`changes`: editable file -> its whole new text."""
        state = self.state
        patch = self.patch(changes) if changes else None
        candidate = Candidate({"x": 0.5, "mode": "a", **(params or {})}, "v", patch, declared)
        number, previous = len(state.trials), state.champion_id
        request = ApprovalRequest(candidate.id, previous, "f" * 64, number, f"{number:064x}", "e", "none")
        yes = Approval(candidate.id, "approve", request.content_hash, "")
        self.add(
            Proposed(Proposal(candidate, "agent", rationale)),
            TrialScheduled(number, candidate.id, "gate", 1, 7),
            ApprovalRequested(request),
            *(Decided(replace(yes, by=name)) for name in by),
            Promoted(candidate.id, previous, request.content_hash, number, request.weights),
        )
        return candidate

    def roll_back(self, reason: str = "slow", by: str = "eve") -> None:
        state = self.state
        self.add(RolledBack(state.champion_id, state.previous[-1][0], reason, by))

    @property
    def state(self) -> State:
        return files.load(self.folder)

    def sync(self, **changes: object) -> list[str]:
        origin = Origin(self.desk.root, self.recorded, self.from_champion)
        return branch.sync(self.folder, self.state, replace(origin, **changes))  # type: ignore[arg-type]

    def refused(self) -> str:
        before = self.desk.git("for-each-ref", "refs/heads")
        with pytest.raises(NotCommitted) as error:
            self.sync()
        assert self.desk.git("for-each-ref", "refs/heads") == before
        assert "\n" not in str(error.value)
        assert "run `evolve sync`" in str(error.value)
        return str(error.value)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    if (made.top / ".git").is_dir():
        made.git("fsck", "--strict", "--connectivity-only")


NEW = text(step_3=33)


# ---------------------------------------------------------------- one promotion


def test_a_promoted_edit_is_one_commit_with_its_trailers_on_what_the_campaign_began_with(desk: Desk) -> None:
    campaign = desk.campaign(approvals=2)
    candidate = campaign.promote({RECIPE: NEW}, by=("ada (uid name root)", "eve"), rationale="a *better* loss\n\nmore")
    (line,) = campaign.sync(run_id="0123abcd")
    head = desk.git("rev-parse", "evolve/inline")
    assert line == f"branch evolve/inline: {head[:8]} Promote {candidate.id[:8]}: a *better* loss"
    assert desk.git("rev-parse", "evolve/inline^") == desk.git("rev-parse", "main")
    assert (
        desk.git("diff", "--stat", "--summary", "main", "evolve/inline")
        .splitlines()[0]
        .strip()
        .startswith("work/model/train/recipe.py")
    )
    assert desk.git("diff", "--name-only", "main", "evolve/inline") == "work/model/train/recipe.py"
    assert desk.git("ls-tree", "evolve/inline", "work/model/train/recipe.py").startswith("100755 ")
    assert desk.show(RECIPE) == NEW
    event = campaign.state.promotions[0]
    assert isinstance(event, Promoted)
    assert desk.git("log", "-1", "--format=%(trailers:only,unfold)", "evolve/inline").splitlines() == [
        f"Evolve-Candidate: {candidate.id}",
        "Evolve-Campaign: c",
        "Evolve-Run: 0",
        f"Evolve-Promotion: {event.content_hash}",
        "Approved-by: ada (uid name root)",
        "Approved-by: eve",
        "MLflow-Run: 0123abcd",
    ]
    assert desk.git("log", "-1", "--format=%an <%ae> %at|%cn <%ce> %ct", "evolve/inline") == (
        f"evolve <evolve@localhost> {int(desk.now)}|evolve <evolve@localhost> {int(desk.now)}"
    )
    body = desk.git("log", "-1", "--format=%b", "evolve/inline")
    assert "Claim of agent, checked by nobody:\n\n    a *better* loss more\n\n" in body
    assert "Better than the champion before by" in body


def test_a_second_sync_changes_nothing_and_a_deleted_branch_comes_back_as_the_same_commits(desk: Desk) -> None:
    campaign = desk.campaign()
    campaign.promote({RECIPE: NEW})
    campaign.promote({RECIPE: text(step_3=33, step_20=1), LOSS: text(step_0=9)})
    assert len(campaign.sync()) == 2
    head, objects = desk.git("rev-parse", "evolve/inline"), desk.git("count-objects")
    assert campaign.sync() == []
    assert (desk.git("rev-parse", "evolve/inline"), desk.git("count-objects")) == (head, objects)
    desk.git("branch", "-qD", "evolve/inline")
    assert len(campaign.sync()) == 2
    assert desk.git("rev-parse", "evolve/inline") == head


def test_the_person_notices_nothing_and_nothing_of_the_repository_is_run(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mark, run = tmp_path / "ran", tmp_path / "run"
    run.write_text(f'#!/bin/sh\necho "$0" >> {mark}\ncat\n')
    run.chmod(0o755)
    hooks = (
        "reference-transaction",
        "post-index-change",
        "pre-commit",
        "commit-msg",
        "post-commit",
        "prepare-commit-msg",
    )
    for hook in hooks:
        shutil.copy(run, desk.top / ".git" / "hooks" / hook)
    campaign = desk.campaign()
    (desk.top / "README").write_text("changed\n")
    desk.git("add", "README")
    (desk.root / LOSS).write_text("changed too\n")
    (desk.top / ".gitattributes").write_text("*.py filter=f diff=f merge=f text eol=crlf ident\n")
    for key in ("filter.f.clean", "filter.f.smudge", "filter.f.process", "diff.f.textconv", "merge.f.driver", "core.fsmonitor",
                "gpg.program", "core.pager", "core.editor", "core.askPass", "core.sshCommand"):  # fmt: skip
        desk.git("config", key, str(run))
    for key in ("commit.gpgSign", "log.showSignature", "core.splitIndex", "filter.f.required"):
        desk.git("config", key, "true")
    mark.unlink(missing_ok=True)  # of our own preparations
    candidate = campaign.promote({RECIPE: NEW})
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    before = desk.seen()
    assert campaign.sync() != []
    campaign.roll_back()
    assert campaign.sync() != []
    assert desk.seen() == before
    assert not mark.exists(), mark.read_text()
    assert not (tmp_path / "elsewhere").exists()
    assert desk.show(RECIPE, "evolve/inline^") == NEW
    assert desk.git("log", "--format=%s", "-1", "evolve/inline^").startswith(f"Promote {candidate.id[:8]}")


def test_text_of_others_forges_no_trailer_and_commands_no_server(desk: Desk) -> None:
    campaign = desk.campaign()
    evil = (
        "Approved-by: mallory\n\nfixes #7, @all, [skip ci]\x1b[31m\n---\ndiff --git a/x b/x\n\nApproved-by: mallory"
        "\r\nEvolve-Candidate: " + "0" * 64
    )
    campaign.promote({RECIPE: NEW}, rationale=evil, by=("eve\n\nApproved-by: mallory",))
    campaign.sync()
    campaign.roll_back(reason="x\n\nApproved-by: mallory\n")
    campaign.sync()
    for ref in ("evolve/inline", "evolve/inline^"):
        raw = desk.git("log", "-1", "--format=%B", ref)
        assert [line for line in raw.splitlines() if line.startswith(("Approved-by", "---", "diff "))] == (
            ["Approved-by: eve Approved-by: mallory"] if ref.endswith("^") else []
        )
        assert not any(found in raw for found in ("#7", "@all", "[skip", "\x1b"))
        parsed = subprocess.run(
            ["git", "interpret-trailers", "--parse"], input=raw, capture_output=True, text=True, check=True
        )
        names = [line.partition(":")[0] for line in parsed.stdout.splitlines()]
        assert names.count("Evolve-Candidate") == 1
        assert names.count("Approved-by") == (1 if ref.endswith("^") else 0)
    title = desk.git("log", "-1", "--format=%s", "evolve/inline^")
    assert title.endswith(": Approved-by: mallory")
    assert len(title) <= len("Promote 12345678: ") + 60


def test_a_trailer_is_of_the_last_of_several_paragraphs() -> None:
    assert Commit("0", 0, "Evolve-Campaign: c").trailers == {}
    assert Commit("0", 0, "a\n\nEvolve-Campaign: c\n\nthe end").trailers == {}
    assert Commit("0", 0, "a\n\nb\n\nEvolve-Campaign: c\nX-Y: z\n").trailers == {"Evolve-Campaign": "c", "X-Y": "z"}


# ---------------------------------------------------------------- lines of promotions


def test_a_rollback_is_one_more_commit_with_the_content_before(desk: Desk) -> None:
    campaign = desk.campaign()
    first = campaign.promote({RECIPE: NEW})
    second = campaign.promote({LOSS: text(step_9=1)})
    campaign.sync()
    assert (desk.show(RECIPE), desk.show(LOSS)) == (text(), text(step_9=1)), "the second one has no edit of the recipe"
    undone = campaign.state.promotions[-1]
    campaign.roll_back("slow in use")
    (line,) = campaign.sync()
    assert line.endswith(f"Roll back {second.id[:8]} to {first.id[:8]}")
    assert (desk.show(RECIPE), desk.show(LOSS)) == (NEW, text())
    assert isinstance(undone, Promoted)
    assert desk.git("log", "-1", "--format=%(trailers:only)", "evolve/inline").splitlines() == [
        f"Evolve-Candidate: {first.id}",
        "Evolve-Campaign: c",
        f"Evolve-Rollback: {undone.content_hash}",
        "Rolled-back-by: eve",
        "Reason: slow in use",
    ]
    campaign.roll_back()
    campaign.sync()
    assert desk.git("diff", "main", "evolve/inline") == ""
    assert len(desk.log()) == 4
    assert campaign.sync() == []


def test_parameters_alone_make_no_commit_unless_an_edit_goes_with_them(desk: Desk) -> None:
    campaign = desk.campaign()
    campaign.promote(params={"x": 0.6})
    assert campaign.sync() == []
    assert desk.git("branch", "--list", "evolve/*") == ""
    campaign.promote({RECIPE: NEW})
    campaign.promote({RECIPE: NEW}, params={"x": 0.7})
    assert len(campaign.sync()) == 1
    last = campaign.promote(params={"x": 0.8})
    (line,) = campaign.sync()
    assert f"Promote {last.id[:8]}" in line
    assert desk.show(RECIPE) == text()
    campaign.roll_back()
    campaign.roll_back()  # of parameters alone
    assert len(campaign.sync()) == 1
    assert desk.show(RECIPE) == NEW
    assert campaign.sync() == []


def test_what_was_taken_back_before_it_was_committed_leaves_no_commit(desk: Desk) -> None:
    campaign = desk.campaign()
    campaign.promote({RECIPE: NEW})
    campaign.roll_back()
    assert campaign.sync() == []
    campaign.promote({RECIPE: text(step_4=1)})
    assert len(campaign.sync()) == 1
    assert desk.show(RECIPE) == text(step_4=1)


def test_a_kill_between_any_two_steps_is_finished_as_if_nothing_had_been(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = desk.campaign()
    campaign.promote({RECIPE: NEW})
    campaign.promote({RECIPE: text(step_3=33, step_20=1)})
    campaign.sync()
    expected = desk.git("rev-parse", "evolve/inline")
    desk.git("branch", "-qD", "evolve/inline")

    class Killed(BaseException):
        pass

    run, at = Repository._run, 0

    def counted(self: Repository, *words: str, **options: object) -> bytes:
        nonlocal left
        if (left := left - 1) < 0:
            raise Killed
        return run(self, *words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Repository, "_run", counted)
    while True:
        left, at = at, at + 1
        try:
            campaign.sync()
            break
        except Killed:
            assert desk.git("branch", "--list", "evolve/*") == ""
    assert at > 10
    assert desk.git("rev-parse", "evolve/inline") == expected


# ---------------------------------------------------------------- several campaigns


def test_a_later_campaign_goes_on_from_the_branch(desk: Desk) -> None:
    campaign = desk.campaign()
    campaign.promote({RECIPE: NEW})
    campaign.sync()
    first = desk.git("rev-parse", "evolve/inline")
    start = Candidate({"x": 0.5, "mode": "a"}, "v", campaign.patch({RECIPE: NEW}))
    later = desk.campaign("d", start)
    later.promote({RECIPE: NEW}, params={"x": 0.1})
    assert later.sync() == [], "the branch has this edit"
    later.promote({RECIPE: text(step_3=33, step_29=1)})
    assert len(later.sync()) == 1
    assert desk.git("rev-parse", "evolve/inline^") == first
    assert desk.show(RECIPE) == text(step_3=33, step_29=1)
    assert campaign.sync() == [], "its champion is not the subject's any more"
    later.roll_back()
    later.roll_back()
    later.sync()
    assert desk.show(RECIPE) == NEW, "the later campaign's start had it"


def test_a_campaign_from_the_default_config_replaces_the_edits_of_another(desk: Desk) -> None:
    campaign = desk.campaign()
    campaign.promote({RECIPE: NEW})
    campaign.sync()
    other = desk.campaign("d", from_champion=False)
    last = other.promote(params={"x": 0.9})
    (line,) = other.sync()
    assert f"Promote {last.id[:8]}" in line
    assert desk.show(RECIPE) == text()
    assert other.sync() == []


def test_a_campaign_that_began_before_the_branch_replaces_its_edits_too(desk: Desk) -> None:
    early, late = desk.campaign("d"), desk.campaign("c")
    late.promote({RECIPE: NEW})
    late.sync()
    early.promote({LOSS: text(step_1=2)})
    assert len(early.sync()) == 1
    assert (desk.show(RECIPE), desk.show(LOSS)) == (text(), text(step_1=2))


@pytest.mark.parametrize("how", ["--no-ff", "--ff-only", "--squash"])
def test_after_a_merge_the_branch_shows_what_is_new_alone(desk: Desk, how: str) -> None:
    campaign = desk.campaign()
    campaign.promote({RECIPE: NEW})
    campaign.sync()
    desk.git("merge", "-q", how, "evolve/inline")
    (desk.root / RECIPE).write_text(text(step_3=33, step_15=5))
    main = desk.commit("merged, and more")
    later = desk.campaign("d")
    later.promote({RECIPE: text(step_3=33, step_15=5, step_28=8)})
    assert len(later.sync()) == 1
    assert desk.show(RECIPE) == text(step_3=33, step_15=5, step_28=8)
    if how != "--squash":
        assert desk.git("rev-parse", "evolve/inline^") == main
    assert later.sync() == []
    desk.git("merge", "-q", "--no-edit", "evolve/inline", code=None if how == "--squash" else 0)


# ---------------------------------------------------------------- others change the same files


def test_what_a_person_pushed_to_the_branch_stays(desk: Desk) -> None:
    campaign = desk.campaign()
    campaign.promote({RECIPE: NEW})
    campaign.sync()
    desk.git("checkout", "-q", "evolve/inline")
    (desk.root / RECIPE).write_text(text(step_3=33, step_12=99))
    pushed = desk.commit("a person's word")
    desk.git("checkout", "-q", "main")
    for number, changes in enumerate(({"step_3": 34}, {"step_3": 35, "step_28": 1})):
        campaign.promote({RECIPE: text(**changes)}, params={"x": 0.1 * number})
        assert len(campaign.sync()) == 1
        assert desk.show(RECIPE) == text(step_12=99, **changes)
    assert desk.git("rev-parse", "evolve/inline~2") == pushed
    campaign.promote({RECIPE: text(step_12=1)})
    line = campaign.refused()
    assert "merge cleanly" in line
    assert "take those lines back in a commit on evolve/inline" in line
    desk.git("checkout", "-q", "evolve/inline")
    (desk.root / RECIPE).write_text(text(step_3=35, step_28=1))  # the way out that the line names
    desk.commit("taken back")
    desk.git("checkout", "-q", "main")
    assert len(campaign.sync()) == 1
    assert desk.show(RECIPE) == text(step_12=1)
    assert campaign.sync() == []


def test_uncommitted_changes_at_the_start_are_merged_where_that_is_clean(desk: Desk) -> None:
    (desk.root / RECIPE).write_text(text(step_20=2))
    campaign = desk.campaign()
    assert (campaign.recorded or "").endswith("-dirty")
    campaign.promote({RECIPE: text(step_20=2, step_3=33)})
    campaign.sync()
    assert desk.show(RECIPE) == NEW, "the person's own change is not published"
    campaign.promote({RECIPE: text(step_20=3)})
    assert "merge cleanly" in campaign.refused()


def test_where_uncommitted_changes_are_in_the_way_the_line_says_how_to_go_on(desk: Desk) -> None:
    (desk.root / RECIPE).write_text(text(step_3=2))
    campaign = desk.campaign()
    campaign.promote({RECIPE: NEW})
    line = campaign.refused()
    assert f"commit the campaign's copy of it (below {campaign.snapshot.folder}) on a new branch evolve/inline" in line
    assert "with a trailer `Evolve-Campaign: c`" in line
    desk.git("checkout", "-qb", "evolve/inline")
    shutil.copyfile(campaign.snapshot.folder / RECIPE, desk.root / RECIPE)
    desk.git("commit", "-qam", "as it was at the start", "--trailer", "Evolve-Campaign: c")
    desk.git("checkout", "-q", "main")
    assert len(campaign.sync()) == 1
    assert desk.show(RECIPE) == NEW


def test_ends_of_lines_stay_as_the_repository_has_them(desk: Desk) -> None:
    (desk.root / RECIPE).write_bytes(text().replace("\n", "\r\n").encode())
    (desk.root / LOSS).write_text(text().rstrip("\n"))
    desk.commit("from elsewhere")
    campaign = desk.campaign()
    campaign.promote({RECIPE: NEW, LOSS: NEW})
    campaign.sync()
    assert desk.git("diff", "--numstat", "main", "evolve/inline").split()[:2] == [
        "2",
        "2",
    ]  # the loss: its last line too
    path = desk.git("rev-parse", "evolve/inline:work/model/train/recipe.py")
    raw = subprocess.run(["git", "cat-file", "blob", path], cwd=desk.top, capture_output=True, check=True).stdout
    assert raw == NEW.replace("\n", "\r\n").encode()


# ---------------------------------------------------------------- what is refused


def test_a_branch_of_the_same_name_that_is_somebodys_own_is_refused(desk: Desk) -> None:
    campaign = desk.campaign()
    campaign.promote({RECIPE: NEW})
    desk.git("branch", "evolve/inline")
    assert "no trailer `Evolve-Campaign`" in campaign.refused()
    desk.git("checkout", "-q", "evolve/inline")
    desk.git("commit", "-q", "--allow-empty", "-m", "mine\n\nEvolve-Campaign: c\n\nof mine")
    desk.git("checkout", "-q", "main")
    assert "git branch -m evolve/inline OTHER" in campaign.refused()
    desk.git("branch", "-m", "evolve/inline", "mine")
    assert len(campaign.sync()) == 1


def test_a_branch_that_only_stands_for_another_one_is_refused(desk: Desk) -> None:
    campaign = desk.campaign()
    campaign.promote({RECIPE: NEW})
    desk.git("symbolic-ref", "refs/heads/evolve/inline", "refs/heads/main")
    main = desk.git("rev-parse", "main")
    assert "only stands for refs/heads/main" in campaign.refused()
    assert desk.git("rev-parse", "main") == main


@pytest.mark.parametrize("where", ["the checkout", "a worktree", "a rebase"])
def test_a_branch_that_is_checked_out_does_not_move(desk: Desk, tmp_path: Path, where: str) -> None:
    campaign = desk.campaign()
    campaign.promote({RECIPE: NEW})
    campaign.sync()
    campaign.promote({RECIPE: text(step_4=1)})
    if where == "a worktree":
        desk.git("worktree", "add", "-q", str(tmp_path / "tree"), "evolve/inline")
    else:
        desk.git("checkout", "-q", "evolve/inline")
    if where == "a rebase":
        desk.git("-c", "sequence.editor=sed -i 1ibreak", "rebase", "-q", "-i", "main")
        assert desk.git("symbolic-ref", "-q", "HEAD", code=1) == ""
    place = {"the checkout": str(desk.top), "a worktree": str(tmp_path / "tree"), "a rebase": "a rebase"}[where]
    before = desk.seen()
    assert f"evolve/inline is in use by {place}" in campaign.refused()
    assert desk.seen() == before
    desk.git("rebase", "--abort", code=None)
    desk.git("worktree", "remove", str(tmp_path / "tree"), code=None)
    desk.git("checkout", "-q", "--detach", "main")
    assert len(campaign.sync()) == 1
    assert desk.git("status", "--porcelain") == ""


def test_a_locked_branch_and_one_that_moves_meanwhile_are_left_alone(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = desk.campaign()
    campaign.promote({RECIPE: NEW})
    lock = desk.top / ".git/refs/heads/evolve/inline.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    assert "git update-ref" in campaign.refused()
    lock.unlink()
    campaign.sync()
    campaign.promote({RECIPE: text(step_4=1)})
    commit = Repository.commit

    def meanwhile(self: Repository, *words: object) -> str:
        made = commit(self, *words)  # type: ignore[arg-type]
        desk.git("update-ref", "refs/heads/evolve/inline", "main")
        return made

    monkeypatch.setattr(Repository, "commit", meanwhile)
    with pytest.raises(NotCommitted, match="git update-ref"):
        campaign.sync()
    assert desk.git("rev-parse", "evolve/inline") == desk.git("rev-parse", "main")


def test_a_branch_called_evolve_is_in_the_way(desk: Desk) -> None:
    campaign = desk.campaign()
    campaign.promote({RECIPE: NEW})
    desk.git("branch", "evolve")
    assert "'refs/heads/evolve' exists" in campaign.refused()


def test_a_recorded_commit_that_is_not_there_is_fetched_by_a_person(desk: Desk) -> None:
    campaign = desk.campaign()
    campaign.promote({RECIPE: NEW})
    campaign.recorded, right = "0" * 39 + "1", campaign.recorded
    assert "has no commit 000000000000; fetch it" in campaign.refused()
    campaign.recorded = right
    campaign.sync()
    campaign.recorded = "0" * 39 + "1"
    campaign.promote({RECIPE: text(step_4=1)})
    assert len(campaign.sync()) == 1, "the branch itself is enough"


def test_a_file_that_became_a_link_is_not_written(desk: Desk) -> None:
    campaign = desk.campaign()
    campaign.promote({RECIPE: NEW})
    (desk.root / RECIPE).unlink()
    (desk.root / RECIPE).symlink_to("loss.py")
    campaign.recorded = desk.commit("a link")
    assert "train/recipe.py: is no regular file in commit" in campaign.refused()


def test_without_a_repository_there_is_no_branch_and_that_is_no_failure(desk: Desk, tmp_path: Path) -> None:
    campaign = desk.campaign()
    campaign.promote({RECIPE: NEW})
    with pytest.raises(NoRepository, match="began outside of git"):
        campaign.sync(commit=None)
    with pytest.raises(NoRepository, match="no git repository holds"):
        campaign.sync(root=tmp_path / "gone")
    (desk.top / ".gitignore").write_text("venv/\n")
    shutil.copytree(desk.root, desk.top / "venv/lib", symlinks=True)
    with pytest.raises(NoRepository, match="does not hold train/recipe.py"):
        campaign.sync(root=desk.top / "venv/lib")
    desk.git("config", "core.bare", "true")
    with pytest.raises(NoRepository, match="no git repository holds"):
        campaign.sync()
    desk.git("config", "core.bare", "false")
    shutil.rmtree(desk.top / ".git")
    with pytest.raises(NoRepository, match="no git repository holds"):
        campaign.sync()


def test_git_that_is_not_installed_is_said(desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    campaign = desk.campaign()
    campaign.promote({RECIPE: NEW})
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(tmp_path))
        with pytest.raises(NotCommitted, match="needs git, but it is not installed"):
            campaign.sync()


def test_a_git_that_hangs_is_given_up(desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    campaign = desk.campaign()
    campaign.promote({RECIPE: NEW})
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
        patched.setattr("evolve.git._SECONDS", 0.2)
        with pytest.raises(NotCommitted, match="Git must answer"):
            campaign.sync()


def test_a_copy_of_the_sources_that_was_changed_reaches_no_branch(desk: Desk) -> None:
    campaign = desk.campaign()
    campaign.promote({RECIPE: NEW})
    file = campaign.snapshot.folder / LOSS
    file.chmod(0o644)
    file.write_text("evil\n")
    with pytest.raises(NotCommitted, match="must stay as it was taken"):
        campaign.sync()


def test_a_repository_whose_names_are_strange(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 'übung "1"\t[a]*')
    campaign = desk.campaign()
    campaign.promote({RECIPE: NEW})
    campaign.sync()
    assert desk.show(RECIPE) == NEW
    assert len(desk.git("diff", "--name-only", "main", "evolve/inline").splitlines()) == 1


def test_merging() -> None:
    old = text()
    assert merged(old, old, NEW) == NEW
    assert merged(NEW, old, NEW) == NEW
    assert merged(text(step_20=1), old, NEW) == text(step_20=1, step_3=33)
    assert merged(text(step_3=1), old, NEW) is None


# ---------------------------------------------------------------- a start from a champion with a patch


def test_the_champions_file_holds_the_patch_and_comes_back_from_it(desk: Desk) -> None:
    campaign = desk.campaign()
    extra = Parameter("float", 0.0, "regularizer", low=0.0, high=1.0)
    candidate = campaign.promote({RECIPE: NEW}, params={"decay": 0.25}, decay=extra)
    assert champion.sync_file(campaign.folder, campaign.state) != []
    champion.mark(campaign.folder, "file", champion.last_change(campaign.folder).seq)  # type: ignore[union-attr]
    path = champion.path_of(desk.state_dir, "inline")
    assert "patch: |2+\n  --- a/train/recipe.py\n" in path.read_text()
    assert champion.sync_file(campaign.folder, campaign.state) == []
    start = champion.starting_point(desk.state_dir, "inline")
    assert start is not None and start.candidate == candidate and start.snapshot is not None
    right = path.read_text()
    for was, now, words in (
        ("step_3 = 33", "step_3 = 34", "another patch"),
        ("high: 1.0", "high: 2.0", "declares other"),
    ):
        path.write_text(right.replace(was, now))
        with pytest.raises(BadInput, match=words):
            champion.starting_point(desk.state_dir, "inline")
    shutil.move(campaign.folder.path, desk.state_dir / "away")
    for was, now in (("step_3 = 33", "step_3 = 34"), ("high: 1.0", "high: 2.0")):
        path.write_text(right.replace(was, now))
        with pytest.raises(BadInput, match="params or patch"):
            champion.starting_point(desk.state_dir, "inline")
    path.write_text(right)
    start = champion.starting_point(desk.state_dir, "inline")
    assert start is not None and start.candidate == candidate and start.snapshot is None


@pytest.mark.parametrize("patch", ["", " \n", "a\n\n\n", "\tb", "x: [\r\n", "\x07", "é\u2028\n", "--- a\n \n+x  \n"])
def test_any_patch_comes_back_from_yaml(patch: str) -> None:
    import yaml

    assert yaml.safe_load("a: 1\n" + champion._patch_text(patch)) == {"a": 1, "patch": patch}


@pytest.mark.parametrize("journal", [True, False], ids=["its journal is here", "brought from elsewhere"])
def test_a_start_carries_the_patch_over_to_the_sources_of_today(desk: Desk, journal: bool) -> None:
    campaign = desk.campaign()
    patch = campaign.patch({RECIPE: NEW})
    snapshot = campaign.snapshot if journal else None

    def carry(now: str) -> str | None:
        (desk.root / RECIPE).write_text(now)
        return carried(patch, EDITABLE, desk.root, snapshot)

    assert carry(text()) == patch
    assert carry(NEW) is None, "merged"
    assert carry("# first\n" + NEW + "more = 1\n") is None
    moved = "# first\n" + text(step_20=1)
    new = carry(moved)
    assert new is not None
    assert patches.apply({RECIPE: moved, LOSS: text()}, new) == {RECIPE: "# first\n" + text(step_20=1, step_3=33)}
    with pytest.raises(BadInput, match="start=default"):
        carry(text(step_3=5))
    (desk.root / RECIPE).unlink()
    with pytest.raises(BadInput, match="start=default"):
        carried(patch, EDITABLE, desk.root, snapshot)


def test_a_diff_that_is_taken_back_gives_the_old_files() -> None:
    before = {"a": text(), "b": text(step_1=7)}
    after = {"a": "first\n" + text(step_3=1, step_25=2) + "last\n", "b": "".join(text().splitlines(True)[5:])}
    back = patches.reverse(patches.make(before, after))
    assert patches.from_diff(after, back) == before


def test_two_syncs_at_once_make_the_same_branch(desk: Desk) -> None:
    campaign = desk.campaign()
    campaign.promote({RECIPE: NEW})

    def body() -> None:
        with contextlib.suppress(NotCommitted):
            campaign.sync()

    threads = [threading.Thread(target=body) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(desk.log()) == 1
    assert campaign.sync() == []


def test_folders_are_sorted_by_their_beginning(desk: Desk) -> None:
    made = [desk.campaign(name).folder for name in ("b", "a")]
    assert files.campaigns(desk.state_dir) == made
    assert files.begun(made[0]) < files.begun(made[1])
    assert files.begun(Folder(desk.state_dir / "nothing")) == 0.0


def loaded(desk: Desk, **changes: object) -> Config:
    """A config of the subject of these tests, in the desk's folders."""
    config = load(["subject=quadratic", "tracking=none", f"state_dir={desk.state_dir}"])
    what = subject(sources=("train",), editable=EDITABLE)
    return replace(config, subject=what, root=str(desk.root), **changes)  # type: ignore[arg-type]


def test_a_new_campaign_starts_with_the_champions_patch_until_it_is_merged(desk: Desk) -> None:
    config, extra = loaded(desk), Parameter("float", 0.0, low=0.0, high=1.0)
    assert compose.start_point(config) == (Candidate({"x": 0.5, "mode": "a"}, ""), "the subject's default config")
    campaign = desk.campaign()
    champion_ = campaign.promote({RECIPE: NEW}, params={"decay": 0.25}, decay=extra)
    start, origin = compose.start_point(config)
    assert origin == f"champion {champion_.id[:8]} of campaign c, with its patch"
    assert start == replace(champion_, subject_version="")

    (desk.root / RECIPE).write_text("# first\n" + text())
    moved, _ = compose.start_point(config)
    assert moved.patch is not None and "@@ -2,7 +2,7 @@" in moved.patch
    folder = files.create(desk.state_dir / "campaigns" / "d", "5e" * 32)
    snapshot = Snapshot.take(desk.root, ["train"], folder.path / "code")
    event = files.started_event(folder, config.subject, snapshot, "s", moved, origin, seed=0, rules=Rules(), config={})
    assert event.start == replace(moved, subject_version=event.subject_version)
    assert list(event.start.declared) == ["decay"]

    (desk.root / RECIPE).write_text(NEW)
    start, origin = compose.start_point(config)
    assert origin.endswith(", whose patch the sources have")
    assert (start.patch, start.params["decay"], list(start.declared)) == (None, 0.25, ["decay"])
    own = replace(config, subject=replace(config.subject, space={**config.subject.space, "decay": extra}))
    start, _ = compose.start_point(own)
    assert (start.patch, start.params["decay"], start.declared) == (None, 0.25, {})

    (desk.root / RECIPE).write_text(text(step_3=5))
    with pytest.raises(BadInput, match=r"train/recipe.py has changed where the patch changes it.*start=default"):
        compose.start_point(config)
    assert compose.start_point(replace(config, start="default"))[1] == "the subject's default config"


def test_the_branch_is_a_projection_that_is_behind_until_it_is_made(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    config = loaded(desk, commit=desk.git("rev-parse", "main"))
    campaign = desk.campaign(config=msgspec.to_builtins(config))
    first = campaign.promote({RECIPE: NEW})
    folder = campaign.folder
    assert champion.behind(folder) == ["file", "branch", "registry"]
    lines, missing = cli._project(folder)
    assert (lines[1].split(" ", 3)[3], missing) == (f"Promote {first.id[:8]}: a better loss", "")
    assert champion.behind(folder) == []

    desk.git("checkout", "-q", "evolve/inline")
    campaign.promote({RECIPE: text(step_4=1)})
    assert cli._project(folder)[1] == "the branch is behind"
    assert capsys.readouterr().err.startswith("evolve: A branch that is checked out must not move")
    assert cli._left_behind(folder) == "behind     the branch: `evolve sync` finishes it"
    desk.git("checkout", "-q", "main")
    assert len(cli._finish_left_behind(folder)) == 1
    assert cli._left_behind(folder) is None

    head = desk.git("rev-parse", "evolve/inline")
    desk.git("branch", "-qD", "evolve/inline")
    assert cli._project(folder) == ([], "")
    assert desk.git("branch", "--list", "evolve/*") == "", "deleted by a person, who may have merged it"
    assert len(cli._project(folder, check=True)[0]) == 2
    assert desk.git("rev-parse", "evolve/inline") == head

    campaign.promote({RECIPE: text(step_5=1)})
    shutil.rmtree(desk.top / ".git")
    lines, missing = cli._project(folder)
    assert (lines[1:], missing) == ([f"no branch has the promoted edit, since no git repository holds {desk.root}"], "")
    assert cli._project(folder, check=True) == ([], "")


def test_what_is_behind_is_named() -> None:
    assert cli._names([]) == ""
    assert cli._names(["branch"]) == "the branch"
    assert cli._names(["file", "registry"]) == "the champion's file and the registry"
    assert cli._names(["file", "branch", "registry"]) == "the champion's file, the branch and the registry"
