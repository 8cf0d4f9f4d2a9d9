"""The command line: arguments, one function a command. Heavy libraries are imported inside the commands that need them."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from evolve import __version__
from evolve.errors import BadInput, CampaignBusy, EvolveError, InvalidCandidate, OtherVersion

if TYPE_CHECKING:
    from evolve.campaign import Folder
    from evolve.state import State
    from evolve.types import Budget, Command, Parameter, Value

_ANSWER_SECONDS = 15.0  # how long a command waits for the running controller to take it up
_FLUSH_SECONDS = 60.0  # how long the end of a run waits for the tracker


class _Parser(argparse.ArgumentParser):
    """argparse, whose own errors are two lines or more, with one line for each mistake."""

    def error(self, message: str) -> NoReturn:
        command = self.prog.partition(" ")[2]
        where = f"{command}: " if command else ""
        print(f"evolve: {where}{message}; see `{self.prog} --help`", file=sys.stderr)
        raise SystemExit(2)


def build_parser() -> argparse.ArgumentParser:
    """All commands and their arguments; also what shell completion is made from."""
    from evolve.config import groups

    options = "\n".join(f"  {group}={'|'.join(names)}" for group, names in groups().items())
    parser = _Parser(
        prog="evolve",
        description="Agentic hyperparameter tuning for post-training, whose promotions can be trusted.",
        epilog=f"`run` takes Hydra overrides, KEY=VALUE:\n{options}\n"
        "  budget.trials=24  seed=0  executor.workers=1  agent.model=PROVIDER/MODEL  state_dir=.evolve\n"
        "every command takes state_dir=PATH; most take --campaign NAME (default: the latest).",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"evolve {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str, campaign: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=text, epilog=parser.epilog if name == "run" else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        if campaign:
            sub.add_argument("--campaign", metavar="NAME", help="default: the latest")
        return sub

    init = add("init", "write a subject's YAML for a training project of yours", campaign=False)
    init.add_argument("folder", nargs="?", default=".", metavar="FOLDER", help="of the project (default: this one)")
    init.add_argument(
        "--train", metavar="COMMAND", help="such as 'python train.py {params:--key value} --seed {seed} --out {out}'"
    )
    init.add_argument(
        "--score", metavar="COMMAND", help="such as 'python score.py --model {weights}/model.pt --data {data}'"
    )
    init.add_argument("--metric", metavar="NAME", help="what the scorer calls its number")
    init.add_argument("--direction", choices=["maximize", "minimize"])
    init.add_argument(
        "--weights", action="append", default=[], metavar="PATTERN", help="what of {out} is kept; may be repeated"
    )
    init.add_argument(
        "--editable", action="append", default=[], metavar="FILE", help="that may be edited; may be repeated"
    )
    init.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="SPLIT=PATH",
        help="train, search, gate or vault; may be repeated",
    )
    init.add_argument("--infer", metavar="FILE", help="a script (argparse, dataclass) or YAML to draft the space from")
    init.add_argument("--seconds", type=float, metavar="N", help="that a training may take")
    init.add_argument("--force", action="store_true", help="overwrite the file that is there")
    ready = add("check", "run one baseline trial of a subject through the whole chain, and tell what is missing", False)
    ready.add_argument("subject", metavar="SUBJECT", help="a YAML file, or the name of a subject of ours")
    ready.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides")
    run = add("run", "start a campaign", campaign=False)
    run.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides")
    run.add_argument("--dry-run", action="store_true", help="show what would run, with hours, trials and dollars")
    resume = add("resume", "go on with an interrupted campaign", campaign=False)
    resume.add_argument("campaign", nargs="?", metavar="CAMPAIGN", help="default: the latest")
    resume.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="budget.* and executor.workers may change")
    add("stop", "ask a running campaign to stop; it can be resumed")
    attempt = add("try", "queue your own candidate: the incumbent with these changes")
    attempt.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    attempt.add_argument(
        "--patch", metavar="FILE", help="an edit of the harness: a unified diff, or the file as a whole"
    )
    attempt.add_argument("--declare", metavar="JSON", help="hyperparameters that the edit adds, as in subject.space")
    attempt.add_argument("--why", default="", help="the rationale that is recorded")
    status = add("status", "where a campaign stands")
    status.add_argument("--json", action="store_true")
    review = add("review", "show what waits for approval, the oldest first, and ask")
    review.add_argument("--json", action="store_true", help="print all that waits, ask nothing")
    approve = add("approve", "show one candidate, and ask")
    approve.add_argument("id", metavar="ID", help="the first digits are enough")
    approve.add_argument("--yes", metavar="HASH", help="approve without asking: the whole content hash, 64 hex digits")
    reject = add("reject", "reject a candidate that waits")
    reject.add_argument("id", metavar="ID")
    reject.add_argument("--reason", required=True, help="goes into the memory")
    for command in (review, approve, reject):
        command.add_argument(
            "--by", metavar="NAME", help="who decides (default: approval.by, or the system's user name)"
        )
    for command in (review, approve):
        command.add_argument("--sign", metavar="KEY", help="sign approvals with this key of OpenSSH's")
    rollback = add("rollback", "make the champion before the champion again")
    rollback.add_argument("--reason", default="")
    add("sync", "carry over to MLflow, registry, champion file and branch what a crash or an outage left behind")
    compare = add("compare", "two candidates side by side")
    compare.add_argument("a", metavar="A")
    compare.add_argument("b", metavar="B")
    diff = add("diff", "a candidate's edit of the harness, also of one that failed or was rejected")
    diff.add_argument("id", metavar="ID")
    diff.add_argument("--raw", action="store_true", help="exactly as it is stored, for `git apply` (not on a terminal)")
    log = add("log", "the journal: who proposed, what came out, who approved what")
    log.add_argument("--decisions", action="store_true",
                     help="who decided what on which evidence, in all campaigns of the subject")  # fmt: skip
    log.add_argument("--json", action="store_true", help="the events themselves (the decisions), one a line")
    log.add_argument("--stable", action="store_true", help="with --json: without what differs between equal runs")
    cost = add("cost", "what a campaign cost and who did what; what a model costs a year round the clock", False)
    cost.add_argument("campaign", nargs="?", metavar="CAMPAIGN", help="default: the latest, where there is one")
    cost.add_argument("--json", action="store_true")
    cost.add_argument("--year", action="store_true", help="the year alone, without a campaign")
    cost.add_argument("--model", action="append", default=[], metavar="NAME[@TOKENS_PER_SECOND]",
                      help="of litellm's price map, for the year; may be repeated")  # fmt: skip
    cost.add_argument(
        "--input-ratio", type=float, metavar="N", help="tokens read for each written (else measured, or 20)"
    )
    cost.add_argument("--cached", type=float, metavar="SHARE", help="of what is read (else measured, or 0.8)")
    cost.add_argument(
        "--hardware", metavar="PRICE,WATTS,TOKENS_PER_SECOND", help="adds a row for a machine of your own"
    )
    cost.add_argument("--kwh", type=float, default=0.30, metavar="USD", help="of the hardware's electricity")
    cost.add_argument("--years", type=float, default=4.0, help="of the hardware's life")
    plan = add("plan", "how many agents a server carries, and what memory a model needs", False)
    plan.add_argument("topic", nargs="?", choices=["capacity", "memory"], help="default: both")
    plan.add_argument("--json", action="store_true")
    plan.add_argument("--points", metavar="FILE", help="CSV, YAML or JSON: tokens/s per user, tokens/s in all, megawatts"
                      " (default: invented ones)")  # fmt: skip
    plan.add_argument("--interactivity", type=float, action="append", default=[], metavar="TOKENS_PER_SECOND",
                      help="that each agent must get; may be repeated")  # fmt: skip
    plan.add_argument("--context", type=int, action="append", default=[], metavar="TOKENS", help="may be repeated")
    plan.add_argument("--dimensions", metavar="FILE", help="YAML or JSON: one model's dimensions, or a list of them")
    reproduce = add("reproduce", "train and score a candidate again on its recorded seed, and compare")
    reproduce.add_argument("id", metavar="ID")
    prompt = add("prompt", "exactly what would be sent to the language model now")
    prompt.add_argument("--style", choices=["tools", "single"], help="default: the campaign's")
    prompt.add_argument("--tool", metavar="NAME", help="what this tool would answer")
    prompt.add_argument("--arguments", metavar="JSON", default="{}", help="with --tool")
    prompt.add_argument("--json", action="store_true", help="the request's messages, tools and schema as JSON")
    remember = add("memory", "the lessons that the agent reads, as Markdown")
    change = remember.add_mutually_exclusive_group()
    change.add_argument("--edit", action="store_true", help="open them in $EDITOR")
    change.add_argument("--add", metavar="TEXT", help="write a lesson of your own")
    change.add_argument("--remove", metavar="N", type=int, help="strike out lesson N")
    repair = add("repair", "cut off a journal that does not hold together, before the place where it does not", False)
    repair.add_argument("campaign", nargs="?", metavar="CAMPAIGN", help="default: the latest")
    repair.add_argument("--yes", action="store_true", help="without asking")
    add("gc", "delete weights that nothing needs any more")
    export = add(
        "export-study", "write the search as an Optuna study, for optuna-dashboard and optuna.visualization", False
    )
    export.add_argument("campaign", nargs="?", metavar="CAMPAIGN", help="default: the latest")
    export.add_argument("--storage", metavar="URL_OR_FILE", help="default: study.db in the campaign's folder")
    export.add_argument("--name", metavar="NAME", help="of the study; default: the campaign's")
    export = add(
        "export-champion", "write the champion as a plain folder: its files, what makes it again, a model card"
    )
    export.add_argument("--out", metavar="FOLDER", help="default: NAME-champion in this folder")
    report = add("report", "write a campaign as one HTML file that can be sent to a colleague", False)
    report.add_argument("campaign", nargs="?", metavar="CAMPAIGN", help="default: the latest")
    report.add_argument("--out", metavar="FILE", help="default: report.html in the campaign's folder")
    ui = add("ui", "start the MLflow UI on this machine and print the link")
    ui.add_argument("--port", type=int, default=5000)
    add("doctor", "check this machine and installation", campaign=False)
    completion = add("completion", "print a completion script", campaign=False)
    completion.add_argument("shell", choices=["bash", "zsh"])
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Exit codes: 0 done, 1 failed or refused, 2 bad input, 130 interrupted."""
    # Read where numpy is imported. The sampler's matrices are small: threads of BLAS cost a third of the controller's
    # CPU time and made it no faster.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    if words and not words[0].startswith("-"):
        _check_command(parser, words[0])
    if words[:1] != ["run"]:
        words, state_dir = _take_state_dir(words)
    else:
        state_dir = Path(".evolve")
    arguments, unknown = parser.parse_known_args(words)
    if arguments.command in ("run", "resume"):  # argparse takes no positional argument behind an option
        arguments.overrides += [word for word in unknown if not word.startswith("-")]
        unknown = [word for word in unknown if word.startswith("-")]
    if unknown:
        _refuse_argument(parser, arguments.command, unknown[0])
    arguments.state_dir = state_dir
    try:
        code: int = globals()[f"_{arguments.command.replace('-', '_')}"](arguments)
        _leave_calls_behind(code)
        return code
    except EvolveError as error:
        from evolve.tracking_page import plain

        print(f"evolve: {plain(str(error), 4000)}", file=sys.stderr)  # it may quote names and reasons of others
        return 2 if isinstance(error, BadInput) else 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(
            f"evolve: files and devices must be usable, but {error}; mend that, nothing else is lost", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        print("evolve: interrupted", file=sys.stderr)
        return 130


def _leave_calls_behind(code: int) -> None:
    """Ends the process here where a model's call is still under way (`loop.ADVISOR_THREAD`); all else is written by now.

    An orderly end of Python would wait for helper threads of the call, and can abort where its thread is inside C code.
    """
    if any(thread.name == "advisor" for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices


def _refuse_argument(parser: argparse.ArgumentParser, command: str, word: str) -> NoReturn:
    from evolve.errors import did_you_mean

    sub, name = _commands(parser)[command], word.partition("=")[0]
    if name.startswith("-"):
        sub.error(f"{name!r} is not an option{did_you_mean(name, sub._option_string_actions)}")
    sub.error(f"{word!r} is one argument too many")


def _check_command(parser: argparse.ArgumentParser, word: str) -> None:
    from evolve.errors import did_you_mean

    known = _commands(parser)
    if word not in known:
        print(f"evolve: {word!r} is not a command{did_you_mean(word, list(known))}", file=sys.stderr)
        raise SystemExit(2)


def _take_state_dir(words: list[str]) -> tuple[list[str], Path]:
    rest = [w for w in words if not w.startswith("state_dir=")]
    given = [w.removeprefix("state_dir=") for w in words if w.startswith("state_dir=")]
    return rest, Path(given[-1] if given else ".evolve")


# ---------------------------------------------------------------- run, resume


def _run(arguments: argparse.Namespace) -> int:
    from evolve import config as configuration

    config = configuration.load(arguments.overrides)
    from evolve import compose
    from evolve.show import folded

    if Path("evolve.yaml").is_file() and not any(word.startswith("subject=") for word in arguments.overrides):
        print(
            folded(
                f"note: evolve.yaml is not used, but the subject {config.subject.name}; for yours: evolve run subject=evolve.yaml"
            )
        )

    if arguments.dry_run:
        config = compose.with_suite(config)
        from evolve.show import imported_lines, plan_text

        imported = imported_lines(compose.imported_history(config))
        _, origin = compose.start_point(config)
        compose.proposers(config, compose.language_model(config))  # what would be refused is refused here too
        who, dollars, edits = compose.proposer_text(config), compose.dollars(config), compose.edits_text(config)
        print(folded(plan_text(config.subject, config.rules, origin, who, dollars, edits)))
        for line in imported:
            print(line)
        compose.pruner(config, print)  # a wrong one is refused here as well
        print(f"pruner     {config.pruner.get('_target_') or 'none'}")
        return 0
    folder, journal, state = compose.create(config)
    with journal:
        return _session(folder, journal, state, config.budget, config.executor.workers)


def _resume(arguments: argparse.Namespace) -> int:
    from evolve import campaign as files
    from evolve import compose

    if arguments.campaign and "=" in arguments.campaign:
        arguments.overrides.insert(0, arguments.campaign)
        arguments.campaign = None
    folder = files.find(arguments.state_dir, arguments.campaign)
    journal, state = files.open_journal(folder, time.time)
    with journal:
        if journal.torn:
            print(f"a torn last line was cut off and kept as {journal.torn}")
        if state.started is None:
            raise EvolveError(f"{folder.name} was ended before its first event; start a new campaign.")
        budget, workers = compose.changed_limits(state, arguments.overrides)
        finished = state.stopped is not None and state.stopped.kind == "finished"
        if (
            finished
            and budget == state.budget
            and not list(folder.inbox.glob("*.json"))
            and not (state.queue or state.evidence)
        ):
            assert state.stopped is not None
            print(f"{folder.name} is finished ({state.stopped.reason}); to go on, raise a limit: "
                  f"{_going_on(folder, state, budget)}")  # fmt: skip
            return 0
        return _session(folder, journal, state, budget, workers)


def _going_on(folder: Folder, state: State, budget: Budget) -> str:
    """The command that goes on with a finished campaign: the limit that ended it, raised."""
    assert state.stopped is not None
    limit, _, _ = state.stopped.reason.partition(":")
    more = f"budget.trials={(budget.trials or 0) + 20}"
    if limit != "budget.trials" and limit.startswith("budget."):
        more = f"{limit}={2 * getattr(budget, limit.removeprefix('budget.')):g}"
    return f"evolve resume {folder.name} {more}"


def _session(folder: Folder, journal: Any, state: State, budget: Budget, workers: int) -> int:
    """One session of the loop, from the lock to the last line that a person reads."""
    from evolve import compose, watch
    from evolve.show import folded, gate_lines, imported_lines, status_text

    print(f"campaign {folder.name} in {os.path.relpath(folder.path)}", flush=True)
    config = compose.stored_config(state)
    print(folded(f"proposer: {compose.proposer_text(config)}"), flush=True)
    if not state.trials:
        for line in gate_lines(state.campaign.subject, state.campaign.rules):
            print(folded(line), flush=True)
    for line in imported_lines(state.imported)[:1]:
        print(folded(line), flush=True)
    if found := state.campaign.subject.suite:
        print(f"suite: version {len(found)}: {', '.join(m.metric for m in found)}", flush=True)
    if config.pruner.get("_target_") is not None:
        print(f"pruner: {config.pruner['_target_']}", flush=True)
    for line in _finish_left_behind(folder):
        print(line, flush=True)
    watcher = watch.make()
    track, prune = compose.tracker(config, folder, watcher.warn, apart=True), compose.pruner(config, watcher.warn)
    for record in journal.records:
        track.record(record)
        prune.record(record.event)
    journal.records.clear()
    interrupts, notifier = watch.Interrupts(), compose.notifier(config, folder, watcher, watcher.warn)
    loop = compose.make_loop(
        folder, journal, state,
        budget=budget, workers=workers, track=track, watcher=notifier or watcher, prune=prune, interrupted=interrupts,
        warn=watcher.warn,
    )  # fmt: skip
    try:
        with watcher, interrupts:
            stopped = loop.run()
            if notifier is not None:
                notifier.close()
    except KeyboardInterrupt:
        print(f"evolve: stopped at once; resume with: evolve resume {folder.name}", file=sys.stderr, flush=True)
        os._exit(130)  # nothing waits for a thread any more: the journal is written, and every training has been ended
    behind = track.flush(_FLUSH_SECONDS)
    track.close()
    for line in _project(folder, reachable=not behind, apart=True)[0]:
        print(line)
    print(folded(status_text(state, alive=False)), flush=True)
    if stopped.kind == "failed":
        print(f"evolve: {stopped.reason}", file=sys.stderr)
    if behind:
        print(f"tracking   {behind} event(s) not in MLflow yet: `evolve sync`")
    if stopped.kind == "stopped":
        print(f"resume with: evolve resume {folder.name}")
    if state.pending or any(e.request for e in state.evals.values()):
        print("decide with: evolve review")
    elif stopped.kind == "finished":
        print(folded(f"nothing waits for approval; to go on, raise a limit: {_going_on(folder, state, budget)}"))
    return {"finished": 0, "stopped": 130 if interrupts() else 0, "failed": 1}[stopped.kind]


# ---------------------------------------------------------------- commands to the one writer


def _find(arguments: argparse.Namespace) -> tuple[Folder, State]:
    from evolve import campaign as files

    folder = files.find(arguments.state_dir, arguments.campaign)
    return folder, files.load(folder)


def _carry_out(folder: Folder, command: Command, *, running: bool = False) -> str:
    """Leaves the command in the inbox and waits until the one writer has taken it up: a controller, or else we.

    Raises `BadInput` with the reason where it was refused.
    """
    from evolve import campaign as files
    from evolve.budget import exhausted
    from evolve.journal import check_version
    from evolve.loop import leave_command

    check_version(files.load(folder).campaign)
    try:
        leave_command(folder.inbox, command, time.time())
    except OSError as error:
        raise EvolveError(f"The campaign's inbox must be writable, but {error}; nothing was changed.") from error
    deadline = time.monotonic() + _ANSWER_SECONDS
    while True:
        try:
            state, lines, _ = _take_inbox(folder)
        except CampaignBusy:
            running, state, lines = True, files.load(folder), []
        refused = state.commands.get(command.id)
        if refused:
            raise BadInput(refused)
        if refused is not None:
            if running:  # the controller has promoted it; what that leads to is not left until the end of its session
                lines = _project(folder)[0]
            spent = exhausted(state.budget, state.committed, state.training_ahead)
            return "\n".join([*lines, _done(folder, state, command, running=running, spent=spent)])
        if time.monotonic() > deadline:
            return "left in the inbox: the running controller has not taken it up yet (`evolve status`)"
        time.sleep(0.1)


def _take_inbox(folder: Folder, *, check: bool = False) -> tuple[State, list[str], str]:
    """Does what the inbox asks and what a crash left undone, where no controller runs; brings the projections up to date.

    Returns the state, what changed in the projections, and what is still missing in them ("" for nothing; said by then).
    Raises `CampaignBusy` where a controller runs.
    """
    from evolve import campaign as files
    from evolve import compose
    from evolve.loop import read_inbox

    journal, state = files.open_journal(folder, time.time)
    with journal:
        if state.started is None:
            raise EvolveError(f"{folder.name} was ended before its first event; start a new campaign.")
        track = compose.tracker(compose.stored_config(state), folder, lambda line: print(line, file=sys.stderr))
        for record in journal.records:
            track.record(record)
        for event in read_inbox(folder.inbox, state, compose.approval_check(folder)):
            compose.perform_directly(journal, state, event, track)
        started, behind = time.monotonic(), track.flush(_FLUSH_SECONDS)
        # `evolve sync`, of a long backlog: on as long as the time was too short, and not the store at fault.
        while check and behind and time.monotonic() >= started + _FLUSH_SECONDS:
            print(f"{behind} event(s) to go", file=sys.stderr)
            started, behind = time.monotonic(), track.flush(_FLUSH_SECONDS)
        track.close()
    lines, missing = _project(folder, reachable=not behind, check=check)
    return state, lines, f"{behind} event(s) not in MLflow yet" if behind else missing


def _finish_left_behind(folder: Folder) -> list[str]:
    """What a crash or an outage has left to do, before anything else is shown; quick where there is nothing."""
    from evolve import champion

    return _project(folder, apart=True)[0] if champion.behind(folder) else []


def _left_behind(folder: Folder) -> str | None:
    """A line about a promotion that is not everywhere yet."""
    from evolve import champion

    missing = _names(champion.behind(folder))
    return f"behind     {missing}: `evolve sync` finishes it" if missing else None


def _names(projections: Sequence[str]) -> str:
    """Of projections, for people; "" for none."""
    names = {
        "file": "the champion's file", "branch": "the branch", "registry": "the registry", "suite": "the suite's file",
    }  # fmt: skip
    *first, last = [names[p] for p in projections] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def _done(folder: Folder, state: State, command: Command, *, running: bool, spent: str | None) -> str:
    from evolve import champion, log_text
    from evolve.types import short

    yeses, needed = len(state.yeses.get(command.candidate_id, ())), state.campaign.rules.gate.approvals
    if command.kind == "approve" and yeses:
        return f"approved, {yeses} of {needed}: {short(command.candidate_id)} waits for somebody else's approval"
    if command.kind == "approve" and command.candidate_id in state.evals:
        return log_text.adopted(state, command.candidate_id)
    if command.kind in ("approve", "rollback"):
        first = champion.owner(folder.state_dir, state.campaign.subject.name)
        elsewhere = first.name if first is not None and first.name != folder.name else None
        return log_text.outcome(state, command, elsewhere)
    name = short(command.candidate_id)
    later = "" if running else "; `evolve resume` trains it"
    if spent is not None:
        later = f"; but {spent}: `evolve resume` with a larger budget trains it"
    stopping = "stopping: running trainings are ended and will be run again by `evolve resume`"
    return {
        "reject": f"rejected: {name}",
        "evidence": f"more evidence for {name} is asked for{later}",
        "try": f"queued{later}",
        "remember": "remembered",
        "forget": f"lesson {command.lesson} removed",
        "stop": stopping if running else "nothing is running",
    }[command.kind]


def _project(
    folder: Folder, *, reachable: bool = True, check: bool = False, apart: bool = False
) -> tuple[list[str], str]:
    """Champion file, branch and registry as the journal says by now. What fails is said and left for `evolve sync`.

    `reachable`: MLflow has just answered; where it has not, that is said already. `apart`: mlflow is not imported here, since
    this is a controller. Returns what changed, and what is still missing.
    """
    from evolve import campaign as files
    from evolve import champion, compose
    from evolve.errors import NotCommitted, TrackingFailed

    subject, missing = files.subject_of(folder), list[champion.Projection]()
    lines = _project_suite(folder, check=check)
    if champion.last_change(folder) is None:
        return lines, ""
    with champion.projecting(folder.state_dir, subject):
        change, state = champion.last_change(folder), files.load(folder)
        assert change is not None
        lines += champion.sync_file(folder, state)
        champion.mark(folder, "file", change.seq)
        config = compose.stored_config(state)
        if check or "branch" in champion.behind(folder):  # a branch that somebody deleted comes back by `sync` alone
            try:
                lines += compose.sync_branch(config, folder, state)
                champion.mark(folder, "branch", change.seq)
            except NotCommitted as error:
                print(f"evolve: {error}", file=sys.stderr)
                missing.append("branch")
        try:
            if config.tracking.kind != "none":
                if reachable:
                    lines += compose.registry(config, folder, apart=apart).sync(state, check=check)
                else:
                    missing.append("registry")
        except TrackingFailed as error:
            print(f"evolve: {error}", file=sys.stderr)
            missing.append("registry")
        if "registry" not in missing:
            champion.mark(folder, "registry", change.seq)
    return lines, f"{_names(missing)} {'are' if len(missing) > 1 else 'is'} behind" if missing else ""


def _project_suite(folder: Folder, *, check: bool) -> list[str]:
    """The suite's file as the journals of the subject say by now; looked at where this one has changed it, or on request."""
    from evolve import campaign as files
    from evolve import champion, suite_file

    change = champion.last_change(folder, "SuiteChanged")
    if change is None and not check:
        return []
    if not check and suite_file.PROJECTION not in champion.behind(folder):
        return []
    with champion.projecting(folder.state_dir, files.subject_of(folder)):
        lines = suite_file.sync(folder)
        if change is not None:
            champion.mark(folder, suite_file.PROJECTION, change.seq)
    return lines


def _stop(arguments: argparse.Namespace) -> int:
    from evolve.review import new_command

    folder, _ = _find(arguments)
    if not _alive(folder):
        print(f"{folder.name} is not running")
        return 0
    print(_carry_out(folder, new_command("stop"), running=True))
    return 0


def _try(arguments: argparse.Namespace) -> int:
    from evolve.review import new_command

    folder, state = _find(arguments)
    if not arguments.changes and not arguments.patch:
        raise BadInput("A candidate needs a change, but got none; give KEY=VALUE or --patch FILE.")
    params: dict[str, Value] = {}
    for word in arguments.changes:
        name, equals, value = word.partition("=")
        if not equals:
            raise BadInput(f"A change must be KEY=VALUE, but got {word!r}; write it with an equals sign.")
        params[name] = _value(name, value)
    patch, declared = _patch_of(arguments, folder, state)
    print(_carry_out(folder, new_command("try", params=params, reason=arguments.why, patch=patch, declared=declared)))
    return 0


def _patch_of(arguments: argparse.Namespace, folder: Folder, state: State) -> tuple[str, dict[str, Parameter]]:
    """The canonical patch of `--patch` on top of the incumbent's, and what `--declare` adds. Raises `BadInput`."""
    import json

    from evolve.edits import Harness, declarations

    if not arguments.patch:
        return "", {}
    editable = state.campaign.subject.editable
    harness = Harness(folder.snapshot(state).texts(editable))
    try:
        text = Path(arguments.patch).read_text(encoding="utf-8")
        declared = declarations(json.loads(arguments.declare or "{}"))
        # A whole file where it is no diff; of several editable files only a diff can say which.
        whole = len(editable) == 1 and not any(line.startswith("@@ ") for line in text.split("\n"))
        form = {"files": {editable[0]: text}} if whole else {"diff": text}
        patch, _ = harness.read(form, state.candidate(state.incumbent_id).patch)
    except (OSError, ValueError, InvalidCandidate) as error:
        raise BadInput(
            f"--patch and --declare must be an edit of {', '.join(editable) or 'nothing'}, but: {error}"
        ) from error
    return patch, declared


def _value(name: str, text: str) -> Value:
    """A typed value as YAML reads it; its 1.1 takes 1e-3 for text, where people mean a number. Raises `BadInput`."""
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    if not isinstance(value, bool | int | float | str) or (isinstance(value, float) and not math.isfinite(value)):
        raise BadInput(f"{name} must be a finite number, a word or true/false, but got {text!r}; correct it.")
    return value


def _alive(folder: Folder) -> bool:
    """Whether a controller holds the campaign's lock."""
    import filelock

    lock = filelock.FileLock(folder.path / "lock", is_singleton=False)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    except OSError:
        return False
    lock.release()
    return False


def _review(arguments: argparse.Namespace, only: str | None = None) -> int:
    from evolve import campaign as files
    from evolve import compose, review

    folder = files.find(arguments.state_dir, arguments.campaign)
    reader = files.Reader(folder)
    state = reader.load()
    if state.approved is not None or any(folder.inbox.glob("*.json")):  # a crash came between
        with contextlib.suppress(CampaignBusy):
            _take_inbox(folder)
    if not (only is None and arguments.json):
        for line in _finish_left_behind(folder):
            print(line)
    if only is None and arguments.json:
        return _print_waiting(folder, state)
    config = compose.stored_config(state)
    desk = review.Desk(
        load=reader.load,
        carry_out=lambda command: _carry_out(folder, command),
        link=lambda state, request: compose.candidate_link(folder, request),
        reviewer=review.Reviewer(
            review.approver(arguments.by or config.approval.by),
            Path(arguments.sign).expanduser() if arguments.sign else None,
        ),
        problem=lambda request: compose.missing_weights(folder, request),
        since=state.asked_at.get,
        signed=bool(config.approval.allowed_signers_text),
    )
    approved = review.review_all(desk, only)
    return 0 if only is None or approved else 1


def _print_waiting(folder: Folder, state: State) -> int:
    """All that waits as one JSON document; escaped to ASCII, so that it draws nothing on a terminal either."""
    import json

    from evolve import compose, waiting

    found = [
        waiting.describe(state, r, compose.candidate_link(folder, r), state.asked_at.get(r.candidate_id))
        | {"problem": compose.missing_weights(folder, r)}
        for r in waiting.requests(state)
    ]
    print(json.dumps({"campaign": folder.name, "waiting": found}, allow_nan=False))
    return 0


def _candidate(arguments: argparse.Namespace, folder: Folder, state: State) -> str:
    """The full id of the candidate (or the proposed evaluation) that was named. Raises `BadInput`, which says so where it is
    another campaign's."""
    from evolve import campaign as files
    from evolve.show import find_candidate

    named = [i for i in state.evals if arguments.id and i.startswith(arguments.id)]
    if len(named) == 1 and not any(c.startswith(arguments.id) for c in state.entries):
        return named[0]
    try:
        return find_candidate(state, arguments.id)
    except BadInput:
        prefix = arguments.id
        if len(prefix) >= 4 and all(c in "0123456789abcdef" for c in prefix):
            for other in reversed(files.campaigns(arguments.state_dir)):
                # A look at the bytes: to fold every journal there is would take minutes.
                if other.name != folder.name and f'"candidate_id":"{prefix}'.encode() in other.journal.read_bytes():
                    raise BadInput(
                        f"An ID must be of campaign {folder.name}, but {prefix} is of {other.name};"
                        f" use --campaign {other.name}."
                    ) from None
        raise


def _approve(arguments: argparse.Namespace) -> int:
    from evolve import compose, policy, review, waiting
    from evolve.types import short

    folder, state = _find(arguments)
    candidate = _candidate(arguments, folder, state)
    request, name = waiting.request_of(state, candidate), short(candidate)
    if request is None:
        now = policy.standing(state, candidate)
        raise BadInput(f"Only a pending candidate can be approved, but {name}: {now}; see `evolve review`.")
    if arguments.yes is None:
        return _review(arguments, candidate)
    given = arguments.yes.strip().lower()
    if len(given) != 64 or any(c not in "0123456789abcdef" for c in given):
        raise BadInput(
            f"--yes needs the whole content hash, 64 hex digits, but got {arguments.yes!r}; `evolve review --json` prints it."
        )
    if request.kind == "eval":
        raise BadInput(
            f"A change of the evaluation needs two separate confirmations at the prompt, but --yes is one; `evolve approve {name}`."
        )
    if given != request.content_hash:
        raise BadInput(
            f"--yes must be the hash of what waits now, but {name} has content {short(request.content_hash)} and not"
            f" {short(given)}: look at it again with `evolve review`."
        )
    by = review.approver(arguments.by or compose.stored_config(state).approval.by)
    command = review.new_command("approve", by=by, candidate_id=candidate, content_hash=given)
    key = Path(arguments.sign).expanduser() if arguments.sign else None
    print(_carry_out(folder, review.signed(command, key, state)))
    return 0


def _reject(arguments: argparse.Namespace) -> int:
    from evolve import compose, review, waiting

    folder, state = _find(arguments)
    candidate = _candidate(arguments, folder, state)
    request = waiting.request_of(state, candidate)
    content = request.content_hash if request else ""
    if not arguments.reason.strip():
        raise BadInput("A rejection needs a reason, but --reason is empty; say why, the agent will read it.")
    by = review.approver(arguments.by or compose.stored_config(state).approval.by)
    command = review.new_command(
        "reject", by=by, candidate_id=candidate, content_hash=content, reason=arguments.reason[:1000]
    )
    print(_carry_out(folder, command))
    return 0


def _rollback(arguments: argparse.Namespace) -> int:
    from evolve.review import new_command

    folder, state = _find(arguments)
    command = new_command("rollback", candidate_id=state.champion_id, reason=arguments.reason)
    print(_carry_out(folder, command))
    return 0


def _sync(arguments: argparse.Namespace) -> int:
    from evolve import campaign as files

    folders = [files.find(arguments.state_dir, arguments.campaign)]
    if arguments.campaign is None:  # also what a crash left in another one
        folders = [f for f in files.campaigns(arguments.state_dir)[:-1] if _is_unfinished(f)] + folders
    failed = False
    for folder in folders:
        try:
            _, lines, missing = _take_inbox(folder, check=True)
        except CampaignBusy:
            lines, missing = _project(folder, check=True)
            lines.append("a controller runs, and carries its events to MLflow itself")
        except OtherVersion as error:  # one that cannot go on must not keep the others from it
            lines, missing = [], str(error)
        name = f"{folder.name}: " if len(folders) > 1 else ""
        print("\n".join(name + line for line in [*lines, missing or "all projections are up to date"]))
        failed |= bool(missing)
    return 1 if failed else 0


def _is_unfinished(folder: Folder) -> bool:
    from evolve import champion

    return bool(champion.behind(folder)) or any(folder.inbox.glob("*.json"))


# ---------------------------------------------------------------- looking


def _status(arguments: argparse.Namespace) -> int:
    from evolve import show

    folder, state = _find(arguments)
    if arguments.json:
        import json

        print(json.dumps(show.status(state, alive=_alive(folder))))
    else:
        print(show.folded(show.status_text(state, alive=_alive(folder))))
        if line := _left_behind(folder):
            print(line)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from evolve import show

    _, state = _find(arguments)
    print(show.compare_text(state, show.find_candidate(state, arguments.a), show.find_candidate(state, arguments.b)))
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    from evolve import show

    _, state = _find(arguments)
    name = show.find_candidate(state, arguments.id)
    candidate = state.candidate(name)
    if candidate.patch is None:
        raise BadInput(
            f"Only a candidate with an edit has a diff, but {name[:8]} has parameters alone; see `evolve compare`."
        )
    if arguments.raw:
        if sys.stdout.isatty():
            raise BadInput("What a model wrote must not reach a terminal as it is, but this is one; use --raw > FILE.")
        sys.stdout.write(candidate.patch)
        return 0
    from evolve import screen
    from evolve.tracking_page import plain

    screen.show_page(screen.patch_pages(candidate.patch, screen.console().width, 10**6)[0])
    if error := state.entries[name].check_error:
        print(f"not trained: {plain(error, 2000)}")
    return 0


def _log(arguments: argparse.Namespace) -> int:
    from evolve import campaign as files
    from evolve import log_text
    from evolve.journal import read, stable

    folder = files.find(arguments.state_dir, arguments.campaign)
    if arguments.decisions:
        return _log_decisions(arguments, files.subject_of(folder))
    records = (record for record, _ in read(folder.journal))
    if arguments.json and arguments.stable:
        import json

        for line in stable(records):
            print(json.dumps(line, sort_keys=True))
    elif arguments.json:
        for _, raw in read(folder.journal):
            sys.stdout.write(raw.decode())
    else:
        for text in log_text.log_lines(records):
            print(text)
    return 0


def _log_decisions(arguments: argparse.Namespace, subject: str) -> int:
    """A journal that cannot be read is said on stderr, and makes the log incomplete: exit code 1."""
    from evolve import campaign as files
    from evolve import champion, log_text
    from evolve.journal import read

    made, failed = list[log_text.Decision](), False
    for folder in files.campaigns(arguments.state_dir):
        if files.subject_of(folder) != subject or champion.last_change(folder, *log_text.KINDS) is None:
            continue
        try:
            made += log_text.decisions(record for record, _ in read(folder.journal))
        except EvolveError as error:
            print(f"evolve: the decisions of {folder.name} are left out: {error}", file=sys.stderr)
            failed = True
    made.sort(key=lambda decision: decision.time)
    if arguments.json:
        import json
        from dataclasses import asdict

        for decision in made:
            print(json.dumps(asdict(decision)))
    else:
        print("\n\n".join(log_text.decision_text(d) for d in made) or f"nobody has decided anything on {subject} yet")
    return 1 if failed else 0


def _cost(arguments: argparse.Namespace) -> int:
    from evolve import campaign as files
    from evolve import costs, llm, tables
    from evolve.journal import read

    prices = llm.price_map()
    known = files.campaigns(arguments.state_dir) if not arguments.year else []
    folder = files.find(arguments.state_dir, arguments.campaign) if arguments.campaign or known else None
    found = costs.campaign_costs(record for record, _ in read(folder.journal)) if folder else None
    reading = (found.reading if found else None) or costs.Reading()
    for name, value in (("tokens_in_per_out", arguments.input_ratio), ("cached", arguments.cached)):
        if value is not None:
            reading = replace(reading, **{name: value, "source": "as given"})
    hardware = None
    if arguments.hardware is not None:
        try:
            price, watts, speed = map(float, arguments.hardware.split(","))
        except ValueError as error:
            raise BadInput(
                f"--hardware must be PRICE,WATTS,TOKENS_PER_SECOND, but got {arguments.hardware!r}."
            ) from error
        hardware = costs.Hardware(price, watts, speed, arguments.kwh, arguments.years)
    models = [_model_speed(word) for word in arguments.model] or list(costs.MODELS)
    year = costs.year_table(prices, models, reading, hardware)
    if arguments.json:
        import json

        campaign = {"campaign": tables.campaign_data(folder.name, found, prices)} if folder and found else {}
        print(json.dumps({**campaign, "year": tables.year_data(year, reading)}))
        return 0
    if folder and found:
        tables.show_campaign(folder.name, found, prices)
    tables.show_year(year, reading)
    return 0


def _model_speed(word: str) -> tuple[str, float]:
    from evolve.costs import TOKENS_PER_SECOND

    name, at, speed = word.rpartition("@")
    try:
        return (name, float(speed)) if at else (word, TOKENS_PER_SECOND)
    except ValueError as error:
        raise BadInput(f"--model must be NAME or NAME@TOKENS_PER_SECOND, but got {word!r}; correct it.") from error


def _plan(arguments: argparse.Namespace) -> int:
    from evolve import capacity, config, tables

    data: dict[str, Any] = {}
    if arguments.topic in (None, "capacity"):
        points, source = capacity.EXAMPLE_POINTS, "an invented example"
        if arguments.points is not None:
            points, source = tuple(config.load_rows(Path(arguments.points), capacity.Point)), arguments.points
        speeds = arguments.interactivity or sorted({p.tokens_per_second_user for p in capacity.frontier(points)})
        carried = [capacity.capacity(points, speed) for speed in speeds]
        data["capacity"] = tables.capacity_data(carried)
        if not arguments.json:
            tables.show_capacity(points, carried, source)
    if arguments.topic in (None, "memory"):
        models = capacity.EXAMPLES
        if arguments.dimensions is not None:
            models = tuple(config.load_rows(Path(arguments.dimensions), capacity.Model))
        contexts = sorted(arguments.context) or capacity.CONTEXTS
        table = [(model, [capacity.memory(model, context) for context in contexts]) for model in models]
        data["memory"] = tables.memory_data(table)
        if not arguments.json:
            tables.show_memory(table)
    if arguments.json:
        import json

        print(json.dumps(data))
    return 0


def _reproduce(arguments: argparse.Namespace) -> int:
    from evolve import compose, show
    from evolve.journal import check_version

    folder, state = _find(arguments)
    check_version(state.campaign)
    lines, same = compose.reproduce(folder, state, show.find_candidate(state, arguments.id))
    print("\n".join(lines))
    return 0 if same else 1


def _prompt(arguments: argparse.Namespace) -> int:
    from evolve import compose, recollect

    folder, state = _find(arguments)
    config = compose.stored_config(state)
    files = folder.snapshot(state).texts(state.campaign.subject.editable)
    agent = compose.agent_prompt(config, files, arguments.style)
    if arguments.tool:
        print(recollect.tool_text(agent, state, arguments.tool, arguments.arguments))
    else:
        print(recollect.prompt_text(agent, state, as_json=arguments.json))
    return 0


def _memory(arguments: argparse.Namespace) -> int:
    from evolve import recollect

    folder, state = _find(arguments)
    text = recollect.memory_text(state)
    if arguments.add is not None:
        wanted = recollect.added(arguments.add)
    elif arguments.remove is not None:
        wanted = recollect.removed(state, arguments.remove)
    elif arguments.edit:
        wanted = recollect.edited(state, recollect.open_editor(text))
    else:
        print(text)
        return 0
    for command in wanted:
        print(_carry_out(folder, command))
    if not wanted:
        print("nothing was changed")
    return 0


def _repair(arguments: argparse.Namespace) -> int:
    from evolve import campaign as files
    from evolve import repair
    from evolve.review import person
    from evolve.tracking_page import plain

    folder = files.find(arguments.state_dir, arguments.campaign)
    damage = repair.find(folder)
    if damage is None:
        print(f"the journal of {folder.name} holds together: nothing to repair")
        return 0
    for line in damage.lines_of_text():
        print(plain(line[:11], 11).ljust(11) + plain(line[11:], 400))
    if _alive(folder):
        raise CampaignBusy(f"Nobody may write while a journal is repaired, but {folder.name} runs; `evolve stop` it.")
    if not arguments.yes:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise BadInput(
                f"Cutting off a journal needs a yes, but nobody can be asked here; `evolve repair {folder.name} --yes`."
            )
        if input("cut off? [y/N] > ").strip().lower() not in ("y", "yes"):
            print("nothing was changed")
            return 1
    aside = repair.carry_out(folder, damage, person(), time.time)
    print(f"repaired   all of it as it was is in {os.path.relpath(aside)}; go on with: evolve resume {folder.name}")
    return 0


def _gc(arguments: argparse.Namespace) -> int:
    from evolve import campaign as files
    from evolve.policy import weights_to_keep
    from evolve.weights import WeightStore

    folder = files.find(arguments.state_dir, arguments.campaign)
    journal, state = files.open_journal(folder, time.time)
    with journal:
        if state.started is None:
            raise EvolveError(f"{folder.name} has no campaign yet; nothing to collect.")
        freed = WeightStore(folder.weights).collect(weights_to_keep(state, state.campaign.rules))
    print(f"{freed / 1e6:.1f} MB freed")
    return 0


def _export_study(arguments: argparse.Namespace) -> int:
    from evolve import campaign as files
    from evolve import study, tables
    from evolve.journal import read
    from evolve.tracking import shown_uri

    folder = files.find(arguments.state_dir, arguments.campaign)
    told = study.tell(record for record, _ in read(folder.journal))
    place = arguments.storage or os.path.relpath(folder.path / "study.db")
    name = arguments.name or folder.name
    counts = study.export(told, place, name, tables.followed)
    shown = shown_uri(study.storage_url(place)).removeprefix("journal:")
    print(f"study      {name}: " + ", ".join(f"{n} {what}" for what, n in counts.items()))
    print(f"storage    {shown}")
    print(f"dashboard  optuna-dashboard {shown}")
    return 0


def _export_champion(arguments: argparse.Namespace) -> int:
    from evolve import export
    from evolve.weights import WeightStore

    folder, state = _find(arguments)
    out = Path(arguments.out or f"{state.campaign.subject.name}-champion")
    print("\n".join(export.champion(state, WeightStore(folder.weights), out)))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from evolve import campaign as files
    from evolve import report
    from evolve.journal import read

    folder = files.find(arguments.state_dir, arguments.campaign)
    told = report.tell(record for record, _ in read(folder.journal))
    path = Path(arguments.out) if arguments.out else folder.path / "report.html"
    size = report.write(told, path, alive=_alive(folder))
    print(f"report     {os.path.relpath(path)} ({size / 1e3:.0f} kB, one file, nothing is loaded from elsewhere)")
    return 0


def _ui(arguments: argparse.Namespace) -> int:
    from evolve import compose

    folder, state = _find(arguments)
    return compose.serve_ui(compose.stored_config(state), folder, state, arguments.port)


def _init(arguments: argparse.Namespace) -> int:
    from evolve import starter

    pairs = [word.partition("=") for word in arguments.data]
    if wrong := [split for split, _, path in pairs if not path]:
        raise BadInput(f"--data must be SPLIT=PATH, but got {wrong[0]!r}; such as --data vault=data/test.")
    answers = starter.Answers(
        arguments.train, arguments.score, arguments.metric, arguments.direction, arguments.weights, arguments.editable,
        {split: path for split, _, path in pairs}, arguments.infer, arguments.seconds,
    )  # fmt: skip
    if starter.at_terminal():
        starter.ask(answers, input)
    path, notes = starter.write(Path(arguments.folder), answers, force=arguments.force)
    shown = os.path.relpath(path)
    print("\n".join([f"written    {shown}", *notes, f"next       evolve check {shown}"]))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from evolve import readiness
    from evolve.show import folded

    failed = 0
    for finding in readiness.findings(arguments.subject, arguments.overrides):
        print(folded(str(finding), indent=readiness.INDENT), flush=True)
        failed += finding.level == "FAIL"
    if failed:
        print(f"not ready: mend the {failed} line(s) marked FAIL, then check again")
        return 1
    print(f"ready: evolve run subject={arguments.subject}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from evolve import doctor

    return doctor.report(arguments.state_dir)


def _completion(arguments: argparse.Namespace) -> int:
    import shtab

    print(shtab.complete(build_parser(), arguments.shell))
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
