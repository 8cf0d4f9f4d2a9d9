"""Carries out one command again and again, killed by SIGKILL at its first, second, third, ... step until it survives.

    python tests/e2e/killed.py STATE_DIR approve|rollback sync|review|both coarse|fine

After each kill the other command (`both`: in turns) has to finish what was begun. Prints a JSON list with what was there each time. A step is
every durable write (`os.write`, also half done, `os.fsync`, `os.replace`), every removal of a file and every call of the
registry's client; `fine`: every commit of MLflow's database as well. Each attempt is a process of its own, forked from this
one, which has imported all that is slow and opened nothing.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import pathlib
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}

import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
import sqlalchemy
from mlflow.tracking import MlflowClient

from evolve import campaign as files
from evolve import cli
from evolve.journal import read
from evolve.review import new_command
from evolve.tracking import connect

CALLS = ("create_registered_model", "create_model_version", "set_registered_model_alias", "log_artifacts",
         "delete_registered_model_alias", "set_model_version_tag")  # fmt: skip


def arm(at: int, fine: bool) -> None:
    """From here on the process dies at its step number `at`, from 1."""
    steps = itertools.count(1)

    def step() -> None:
        if next(steps) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            step()
            return original(*arguments, **options)

        return wrapped

    write = os.write

    def half(fd: int, data: bytes) -> int:
        step()
        if next(steps) == at:
            write(fd, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(fd, data)

    os.write = half
    os.replace, os.fsync = before(os.replace), before(os.fsync)
    pathlib.Path.unlink = before(pathlib.Path.unlink)  # type: ignore[method-assign]
    for name in CALLS:
        setattr(MlflowClient, name, before(getattr(MlflowClient, name)))
    if fine:
        sqlalchemy.event.listen(sqlalchemy.engine.Engine, "commit", lambda connection: step())


def in_a_process(body: Callable[[], Any]) -> tuple[int, Any]:
    """(signal that ended it, what it returned and printed)."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        printed, result = io.StringIO(), None
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                result = body()
        except BaseException as error:  # noqa: BLE001
            result = repr(error)
        with os.fdopen(writing, "w") as pipe:
            json.dump([result, printed.getvalue()], pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, json.loads(text) if text else None


def command(state_dir: Path, what: str) -> Any:
    folder = files.find(state_dir, "c")
    if what == "approve":
        request = next(iter(files.load(folder).pending.values()))
        wanted = {"candidate_id": request.candidate_id, "content_hash": request.content_hash}
        return cli._carry_out(folder, new_command("approve", **wanted))
    return cli.main([what, f"state_dir={state_dir}"])


def given(state_dir: Path, what: str) -> bool:
    """Whether the command has got further than its own process."""
    folder = files.find(state_dir, "c")
    kinds = [type(r.event).__name__ for r, _ in read(folder.journal)]
    return any(folder.inbox.glob("*.json")) or kinds[-1] in (
        ("Decided", "Promoted") if what == "approve" else ("RolledBack",)
    )


def found(state_dir: Path) -> dict[str, Any]:
    """All that a promotion leads to."""
    folder = files.find(state_dir, "c")
    client = connect(f"sqlite:///{state_dir}/mlflow.db")
    models = client.search_registered_models()
    versions = client.search_model_versions(max_results=1000)
    yaml = state_dir / "champions" / "quadratic.yaml"
    kinds = [type(r.event).__name__ for r, _ in read(folder.journal)]
    return {
        "journal": [k for k in kinds if k in ("Decided", "Promoted", "RolledBack", "CommandRefused")],
        "yaml": yaml.read_text() if yaml.exists() else None,
        "models": [(m.name, {alias: int(v) for alias, v in dict(m.aliases).items()}) for m in models],
        "versions": sorted((int(v.version), v.tags["evolve.promotion"], v.tags["evolve.weights"]) for v in versions),
        "inbox": [p.name for p in folder.inbox.glob("*.json")],
    }


def main() -> None:
    state_dir, what, finish, grain = Path(sys.argv[1]), *sys.argv[2:5]
    backup = state_dir.with_suffix(".backup")
    shutil.copytree(state_dir, backup)
    told = []
    for at in itertools.count(1):
        shutil.rmtree(state_dir)
        shutil.copytree(backup, state_dir)

        def attempt(at: int = at) -> Any:
            arm(at, grain == "fine")
            return command(state_dir, what)

        def look() -> Any:
            return [command(state_dir, "sync"), found(state_dir)]

        ended_by, said = in_a_process(attempt)
        began = given(state_dir, what)
        by = finish if finish != "both" else ("sync", "review")[at % 2]
        _, finished = in_a_process(lambda by=by: command(state_dir, by))
        _, ((again, there), printed) = in_a_process(look)
        told.append(
            {
                "at": at,
                "signal": ended_by,
                "said": said,
                "given": began,
                "finished": [by, finished],
                "again": [again, printed],
                "found": there,
            }
        )
        if not ended_by:
            break
    print(json.dumps(told))


if __name__ == "__main__":
    main()
