"""A review as people and their tools do it: two of them at once, names and signatures, what is told to whom, what is gone."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .cli import COMMAND, QUADRATIC, Evolve, Terminal, digits, wait_for
from .conftest import BETTER, GOOD, made_once

FIRST = "[a]pprove  [r]eject  [m]ore evidence  [l]ater  [q]uit > "
SECOND = "type the first 6 digits of its content > "
EVIL = "[red]a[/red]\x1b[31mb\x1b]0;owned\x07c\u202ed\r\ne"
KNOWN = {"campaign", "candidate", "content_hash", "kind", "stale", "since", "champion", "champion_now", "parameters", "patch",
         "patch_sha256", "metric", "direction", "interval", "interval_text", "verdict", "vault", "gate", "promise", "guards",
         "compute", "integrity", "integrity_report", "sandbox", "cost", "claims", "lineage", "link", "approvals", "approvals_needed",
         "confirmations_needed", "problem"}  # fmt: skip


def waiting_now(evolve: Evolve, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(evolve("review", "--json", *words))["waiting"]
    return found


def decisions(evolve: Evolve, campaign: str) -> list[dict[str, Any]]:
    return [d["approval"] for d in evolve.seen(campaign, "Decided")]


# ---------------------------------------------------------------- what waits, for tools


def test_all_that_waits_is_one_json_document_the_oldest_first(waiting: Evolve) -> None:
    good, better = waiting_now(waiting)
    assert set(good) == KNOWN
    assert [good["candidate"], better["candidate"]] == waiting.status()["pending"]
    assert good["since"] < better["since"]
    assert better["parameters"]["x"] == {"champion": 0.0003, "candidate": 0.01}
    assert better["interval"]["estimate"] > good["interval"]["estimate"] > 0
    assert better["vault"]["passed"] is True
    assert (better["gate"], better["approvals"], better["approvals_needed"]) == ("custom", [], 1)
    assert better["promise"].startswith("at most 5% that a campaign of 50")
    assert better["claims"]["rationale"] == "a word from a person"
    assert better["integrity"] == "parameters only: no edited code ran; sandbox none"
    assert [better["stale"], better["problem"], better["patch"], better["link"]] == [False, "", None, None]


def test_a_campaign_goes_on_while_a_candidate_waits(waiting: Evolve) -> None:
    """The asynchronous default: the second was proposed, trained and judged while the first waited."""
    kinds = [line["type"] for line in waiting.lines("c")]
    first = kinds.index("ApprovalRequested")
    assert "TrialScheduled" in kinds[first:] and kinds.count("ApprovalRequested") == 2
    assert "Decided" not in kinds


# ---------------------------------------------------------------- what may be wrong with an ID


def test_ids_that_are_unknown_shared_or_of_another_campaign_are_said_so(waiting: Evolve) -> None:
    good, _ = waiting.status()["pending"]
    waiting("run", *QUADRATIC, "campaign=other", "proposer=default", "budget.trials=1", "start=default")
    line = waiting.refuses("approve", good[:8])
    assert f"must be of campaign other, but {good[:8]} is of c; use --campaign c" in line
    assert "'ffffffff' is no candidate of c" in waiting.refuses("approve", "ffffffff", "--campaign", "c")
    for some in ("", "zz"):
        assert "is no candidate of c" in waiting.refuses("approve", some, "--campaign", "c")


def test_what_was_decided_already_says_by_whom(waiting: Evolve) -> None:
    good, better = waiting_now(waiting)
    waiting("reject", good["candidate"][:8], "--reason", "too slow", "--by", "bob")
    line = waiting.refuses("approve", good["candidate"], "--yes", good["content_hash"])
    assert "it is declined (rejected by bob (uid name " in line and ": too slow); see `evolve review`" in line
    waiting("approve", better["candidate"], "--yes", better["content_hash"], "--by", "ada")
    assert "it is promoted (approved by ada (uid name " in waiting.refuses("approve", better["candidate"])
    assert "it is promoted (approved by ada" in waiting.refuses("reject", better["candidate"], "--reason", "no")


def test_two_prompts_on_one_candidate_decide_once_and_the_slower_is_told(waiting: Evolve) -> None:
    _, better = waiting.status()["pending"]
    slow, quick = (Terminal(waiting, [*COMMAND, "approve", better[:8], "--by", name]) for name in ("ada", "bob"))
    slow.answer(FIRST, "a")
    slow.expect(SECOND)
    quick.answer(FIRST, "a")
    quick.answer(SECOND, digits(quick.screen))
    assert f"approved and promoted: {better[:8]}" in quick.close()
    slow.type(digits(slow.screen) + "\n")
    assert "it is promoted (approved by bob (uid name" in slow.close(code=1)
    assert len(waiting.seen("c", "Promoted")) == 1
    assert [d["by"].split()[0] for d in decisions(waiting, "c")] == ["bob"]


def test_further_seeds_are_asked_for_at_the_prompt_and_trained_by_the_next_session(waiting: Evolve) -> None:
    good, _ = waiting_now(waiting)
    person = Terminal(waiting, [*COMMAND, "approve", good["candidate"][:8]])
    person.answer(FIRST, "m")
    person.answer("(each: 1 training, ", "2")
    person.expect("2 further: 2 trainings, ")
    person.answer("ask for it? (yes / no) > ", "yes")
    assert f"more evidence for {good['candidate'][:8]} is asked for" in person.close(code=1)
    waiting("resume", "budget.trials=60")
    now = {w["candidate"]: w for w in waiting_now(waiting)}[good["candidate"]]
    assert now["verdict"]["numbers"]["n"] == good["verdict"]["numbers"]["n"] + 2
    assert now["content_hash"] != good["content_hash"]
    line = waiting.refuses("approve", good["candidate"], "--yes", good["content_hash"])
    assert "must be the hash of what waits now" in line


def test_colour_is_for_terminals_that_have_it(waiting: Evolve) -> None:
    person = Terminal(waiting, [*COMMAND, "review"], TERM="xterm-256color")
    person.answer("[q]uit > ", "q")
    assert "\x1b[1;32mbetter by" in person.close()


# ---------------------------------------------------------------- what is gone


def test_weights_that_are_gone_or_changed_cannot_be_approved_and_are_made_again(waiting: Evolve) -> None:
    _, better = waiting_now(waiting)
    (request,) = [r["request"] for r in waiting.seen("c", "ApprovalRequested")][1:]
    weights = waiting.folder("c") / "weights" / f"{request['weights']}.safetensors"
    before = weights.read_bytes()
    who = better["candidate"]
    for spoil in (weights.unlink, lambda: weights.write_bytes(before + b"x")):
        spoil()
        rule = "Only the weights that were judged can be promoted"
        assert rule in waiting.refuses("approve", who, "--yes", better["content_hash"]), "the writer refuses"
        person = Terminal(waiting, [*COMMAND, "approve", who[:8]])
        person.answer(FIRST, "a")
        screen = person.close(code=1)
        assert f"cannot be approved: {rule}" in " ".join(screen.split())
        assert f"evolve reproduce {who[:8]}" in screen
        assert waiting_now(waiting)[1]["problem"].startswith(rule)
        assert "restored" in waiting("reproduce", who[:8])
        assert weights.read_bytes() == before
    assert decisions(waiting, "c") == []
    waiting("approve", who, "--yes", better["content_hash"])


def test_an_approval_while_mlflow_is_down_is_in_the_journal_and_carried_out_later(evolve: Evolve) -> None:
    store = evolve.cwd / "later"
    evolve("run", *QUADRATIC, "tracking=mlflow", f"tracking.uri=sqlite:///{store}/mlflow.db", "campaign=m",
           "proposer=default", "budget.trials=14")  # fmt: skip
    evolve("try", *GOOD)
    evolve("resume")
    (good,) = waiting_now(evolve)
    done = evolve.raw("approve", good["candidate"], "--yes", good["content_hash"])
    assert done.returncode == 0 and "approved and promoted" in done.stdout
    assert "`evolve sync` carries the rest over" in done.stderr
    assert evolve.status()["champion"] == good["candidate"]
    store.mkdir()
    assert "champion is version 2" in evolve("sync")


# ---------------------------------------------------------------- what others wrote


def test_evil_text_draws_on_no_terminal(waiting: Evolve) -> None:
    waiting("try", "x=0.011", "y=0.5", "z=0.25", "size=32", "mode=curved", "--why", EVIL)
    waiting("resume")
    waiting("reject", waiting.status()["pending"][0][:8], "--reason", EVIL)
    rejected = waiting.seen("c", "Decided")[0]["approval"]["candidate_id"]
    assert "[red]a[/red][31mb]0;ownedcd e" in waiting.refuses("approve", rejected)
    person = Terminal(waiting, [*COMMAND, "review"])
    while "[l]ater" not in person.screen:
        person.expect("claims")
        person.expect("[q]uit > ")
    person.type("q\n")
    for shown in (person.close(), waiting("review", "--json"), waiting("log"), waiting.refuses("approve", "\x1b[31mx")):
        assert not set(shown) & {"\x1b", "\x07", "\u202e"}


# ---------------------------------------------------------------- who approves


@pytest.fixture(scope="session")
def _guarded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "guarded", make_guarded)


@pytest.fixture
def guarded(_guarded: Path, evolve: Evolve) -> Evolve:
    """A campaign `g` that asks for two signed approvals, by ada and bob, whose keys are there as mallory's is; one waits.

    What it tells is in the file `told`.
    """
    shutil.copytree(_guarded, evolve.cwd, dirs_exist_ok=True)
    return evolve


def make_guarded(evolve: Evolve) -> None:
    for name in ("ada", "bob", "mallory"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(evolve.cwd / name)], check=True)
    signers = "".join(f"{name} {(evolve.cwd / f'{name}.pub').read_text()}" for name in ("ada", "bob"))
    (evolve.cwd / "signers").write_text(signers)
    tell = evolve.cwd / "tell.py"
    tell.write_text("import sys; open('told', 'a').write(sys.stdin.read() + chr(10))")
    evolve("run", *QUADRATIC, "campaign=g", "proposer=default", "budget.trials=14", "gate.approvals=2",
           "approval.allowed_signers=signers", f"notify={sys.executable} {tell}")  # fmt: skip
    evolve("try", *BETTER, "size=32", "mode=curved", "--why", EVIL)
    evolve("resume")
    assert len(evolve.status()["pending"]) == 1


def test_two_signed_approvals_promote_and_nothing_less(guarded: Evolve) -> None:
    (one,) = waiting_now(guarded)
    approve = ("approve", one["candidate"][:8], "--yes", one["content_hash"])
    (guarded.cwd / "signers").write_text(f"mallory {(guarded.cwd / 'mallory.pub').read_text()}")  # fixed at the start
    assert "must be signed" in guarded.refuses(*approve, "--by", "ada")
    assert "an allowed signer called 'ada'" in guarded.refuses(*approve, "--by", "ada", "--sign", "mallory")
    assert "an allowed signer called 'mallory'" in guarded.refuses(*approve, "--by", "mallory", "--sign", "mallory")
    assert "--sign must name a private key" in guarded.refuses(*approve, "--by", "ada", "--sign", "nowhere")
    assert "An approver's name" in guarded.refuses(*approve, "--by", "ada,bob", "--sign", "ada")
    assert decisions(guarded, "g") == []

    assert "approved, 1 of 2" in guarded(*approve, "--by", "ada", "--sign", "ada")
    assert "2 different persons must approve" in guarded.refuses(*approve, "--by", "ada", "--sign", "ada")
    (now,) = waiting_now(guarded)
    assert now["approvals_needed"] == 2 and now["approvals"][0].startswith("ada (uid name ")
    told = Terminal(guarded, [*COMMAND, "approve", one["candidate"][:8], "--by", "ada", "--sign", "ada"])
    told.answer(FIRST, "a")
    assert "have approved it already" in told.close(code=1)

    bob = Terminal(guarded, [*COMMAND, "review", "--by", "bob", "--sign", "bob"])
    bob.expect("1 of 2: ada (uid name ")
    bob.answer(FIRST, "a")
    bob.answer(SECOND, digits(bob.screen))
    screen = bob.close()
    assert "approved and promoted" in screen
    assert "\x1b" not in screen, "the rationale draws nothing"
    first, second = decisions(guarded, "g")
    assert first["signature"].startswith("-----BEGIN SSH SIGNATURE-----")
    assert [first["by"].split()[0], second["by"].split()[0]] == ["ada", "bob"]
    assert guarded.status()["champion"] == one["candidate"]


def test_what_begins_to_wait_is_told_once_to_the_command(guarded: Evolve) -> None:
    lines = (guarded.cwd / "told").read_text().splitlines()
    assert len(lines) == 1
    told = json.loads(lines[0])
    (one,) = waiting_now(guarded)
    assert (told["event"], told["content_hash"]) == ("waiting", one["content_hash"])
    assert told["interval_text"] == one["interval_text"] and told["promise"] == one["promise"]
    assert told["claims"]["rationale"] == "[red]a[/red][31mb]0;ownedcd e"
    guarded("resume", "budget.trials=15")
    assert len((guarded.cwd / "told").read_text().splitlines()) == 1, "a restart tells nothing again"


# ---------------------------------------------------------------- a campaign that waits


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook on loopback, and what it gets."""
    got: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/hook?a=b&token=hush", got
    server.shutdown()
    server.server_close()


def test_with_gate_wait_the_campaign_waits_reminds_and_goes_on_after_the_decision(
    evolve: Evolve, hook: tuple[str, list[dict[str, Any]]]
) -> None:
    url, got = hook
    evolve("run", *QUADRATIC, "campaign=w", "proposer=default", "budget.trials=14", "gate.wait=true",
           f"notify={url}", "notify.every_hours=0.0002")  # fmt: skip
    evolve("try", *GOOD)
    controller = evolve.start("resume")
    wait_for(lambda: len(got) >= 3, "a message and two reminders")
    assert [m["event"] for m in got[:3]] == ["waiting", "reminder", "reminder"]
    assert "it approves nothing" in got[1]["text"]
    assert controller.poll() is None and evolve.status()["state"] == "running"
    assert evolve.seen("w", "Decided") == [], "no reminder decides"
    (one,) = waiting_now(evolve)
    assert "rejected" in evolve("reject", one["candidate"][:8], "--reason", "not now")
    output, _ = controller.communicate(timeout=60)
    assert controller.returncode == 0, output
    assert "hush" not in output


def test_a_webhook_that_is_down_is_one_warning_and_changes_nothing(evolve: Evolve) -> None:
    evolve("run", *QUADRATIC, "campaign=n", "proposer=default", "budget.trials=14",
           "notify=http://127.0.0.1:9/hook?token=hush")  # fmt: skip
    evolve("try", *GOOD)
    output = evolve("resume")
    assert output.count("warning: notify") == 1 and "hush" not in output
    assert len(evolve.status()["pending"]) == 1
