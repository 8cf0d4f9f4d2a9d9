"""Early checks of an edited harness: `python -I check.py REQUEST.json` writes one JSON object to stdout.

Runs inside the sandbox, on the standard library alone, and imports nothing of what it checks. The request holds
`files` and `before` (name of a file of the harness -> where its new and its pristine text lie, relative to the working
directory), `imports` (further modules that the subject allows) and `ruff` (its path, or null). The answer is
`{"stage": "", "error": ""}` where all is well, else the stage (`parse`, `imports` or `ruff`, cheapest first) and up to
five messages, a line or two each, for whoever wrote the code. `skipped` says why ruff was not asked, where it was not.

They save the time of a training that could not have worked, and tell an author early what the harness is not for. They
protect nothing: Python can hide an import in a hundred ways, and what the sandbox allows is decided by the sandbox.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MOST_BYTES = 500_000  # of one file
MOST_MESSAGES = 5
RUFF_RULES = "E9,F63,F7,F82"  # what stops a program: cannot be read, misplaced statements, undefined names
RUFF_SECONDS = 30
# PEP 263: what Python takes for a declaration of a file's encoding, in its first two lines.
_CODING = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_UTF8 = {b"utf-8", b"utf8", b"utf_8", b"utf-8-sig", b"ascii", b"us-ascii"}
# Of the standard library: what computes. What reaches files, processes, the network or the interpreter is not here.
# fmt: off
HARMLESS = frozenset({
    "__future__", "abc", "array", "bisect", "calendar", "cmath", "collections", "colorsys", "contextlib",
    "contextvars", "copy", "dataclasses", "datetime", "decimal", "difflib", "enum", "fractions", "functools",
    "gc", "graphlib", "hashlib", "heapq", "hmac", "itertools", "json", "keyword", "logging", "math", "numbers",
    "operator", "pprint", "queue", "random", "re", "reprlib", "statistics", "string", "struct", "textwrap",
    "time", "traceback", "types", "typing", "unicodedata", "uuid", "warnings", "weakref", "zlib", "zoneinfo",
})
# fmt: on


class Refused(Exception):
    """The first stage that the code does not pass, with its messages."""

    def __init__(self, stage: str, messages: list[str]) -> None:
        more = len(messages) - MOST_MESSAGES
        shown = messages[:MOST_MESSAGES] + ([f"and {more} more"] if more > 0 else [])
        super().__init__("\n".join(shown))
        self.stage = stage


def shown(text: str, most: int = 120) -> str:
    """A piece of somebody's code as safe text on one line."""
    clean = "".join(c if c.isprintable() else " " for c in text.strip())
    return clean if len(clean) <= most else clean[:most] + "..."


# ---------------------------------------------------------------- parse


def parse(name: str, path: Path) -> ast.Module:
    """The syntax tree of a file that Python can compile. Raises `Refused`."""

    def refuse(line: int | None, rule: str, step: str) -> Refused:
        where = name if line is None else f"{name}:{line}"
        return Refused("parse", [f"{where}: {rule}; {step}."])

    data = read(name, path)
    if len(data) > MOST_BYTES:
        raise refuse(None, f"a file has at most {MOST_BYTES} bytes, but this one has {len(data)}", "write less")
    if (zero := data.find(b"\0")) >= 0:
        raise refuse(1 + data.count(b"\n", 0, zero), "source code holds no null byte, but there is one", "remove it")
    for number, line in enumerate(data.splitlines()[:2], 1):
        found = _CODING.match(line)
        if found and found[1].lower() not in _UTF8:
            declared = shown(found[1].decode(errors="replace"))
            raise refuse(number, f"source code is UTF-8, but this declares {declared}", "remove the declaration")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        at, byte = 1 + data.count(b"\n", 0, error.start), data[error.start]
        raise refuse(at, f"source code is UTF-8, but byte 0x{byte:02x} is not", "save it as UTF-8") from error
    try:
        tree = ast.parse(data, name)
        compile(data, name, "exec", dont_inherit=True)
    except SyntaxError as error:
        text = f": `{shown(error.text)}`" if error.text and error.text.strip() else ""
        raise refuse(error.lineno, f"{type(error).__name__}: {shown(error.msg)}{text}", "correct it") from error
    except (RecursionError, MemoryError) as error:
        raise refuse(None, "an expression or a block is nested too deeply for Python", "nest less") from error
    except ValueError as error:
        raise refuse(None, f"Python cannot read it: {shown(str(error))}", "correct it") from error
    return tree


def read(name: str, path: Path) -> bytes:
    """At most one byte more than a file may have."""
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        raise Refused("parse", [f"{name}: the file must be readable, but {shown(str(error))}."]) from error


# ---------------------------------------------------------------- imports


def imported(tree: ast.Module) -> Iterator[tuple[int, str | None]]:
    """(line, full dotted name) of each import, function-local ones too; None for a name that is computed.

    Relative imports stay in the harness' own package, and what stands under `if TYPE_CHECKING:` is never executed.
    """
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module
        elif isinstance(node, ast.Call) and _is_import_call(node.func):
            first = node.args[0] if node.args else None
            if not isinstance(first, ast.Constant) or not isinstance(first.value, str):
                yield node.lineno, None
            elif not first.value.startswith("."):
                yield node.lineno, first.value
        waiting += ast.iter_child_nodes(node)


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


def _is_import_call(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
    return name in {"__import__", "import_module"}


def allowed(name: str, before: ast.Module | None, extra: list[str], files: list[str]) -> set[str]:
    """Modules that the file `name` may import, with all that lies below them."""
    found = set(extra) | HARMLESS
    found |= {module.split(".")[0] for _, module in (imported(before) if before else ()) if module}
    for file in files:  # the harness' own packages
        parts = PurePosixPath(file).parts
        found.add(PurePosixPath(parts[0]).stem)
        found.add(PurePosixPath(file).stem)
    folder = Path(PurePosixPath(name).parent)
    if not (folder / "__init__.py").exists():  # a script's folder is on its path
        found |= {path.stem for path in folder.glob("*.py")}
    return found


def check_imports(name: str, tree: ast.Module, before: ast.Module | None, extra: list[str], files: list[str]) -> None:
    """Raises `Refused` where a file imports what neither it imported before nor anybody has allowed."""
    permitted = allowed(name, before, extra, files)
    computed_before = before is not None and any(module is None for _, module in imported(before))
    messages = []
    for line, module in sorted(imported(tree), key=lambda found: found[0]):
        if module is None:
            if not computed_before:
                rule = "an import must name its module as a literal text, but this name is computed"
                messages.append(f"{name}:{line}: {rule}; write `import NAME`.")
        elif not any(module == p or module.startswith(p + ".") for p in permitted):
            rule = f"an edit may not import `{shown(module, 60)}`"
            own = sorted(permitted - HARMLESS)
            step = f"use {', '.join(own[:12])} or what only computes in the standard library (math, random, copy, ...)"
            messages.append(f"{name}:{line}: {rule}; {step}, or leave it out.")
    if messages:
        raise Refused("imports", messages)


# ---------------------------------------------------------------- ruff


def ruff_findings(ruff: str, name: str, path: Path) -> list[tuple[str, str]]:
    """(place, rule and text) of each fatal finding. Raises `OSError` or `subprocess.SubprocessError` where ruff cannot run."""
    version = f"py{sys.version_info.major}{sys.version_info.minor}"  # else newer syntax would be an error
    command = [ruff, "check", "--isolated", "--no-cache", "--quiet", "--select", RUFF_RULES]
    command += ["--target-version", version, "--output-format", "concise", "--stdin-filename", name, "-"]
    done = subprocess.run(command, input=path.read_bytes(), capture_output=True, timeout=RUFF_SECONDS, check=False)
    if done.returncode not in (0, 1):
        raise subprocess.SubprocessError(f"it ended with exit code {done.returncode}: {done.stderr[-300:].decode()}")
    found = []
    for line in done.stdout.decode(errors="replace").splitlines():
        place = re.match(r"(.*?:\d+):\d+: (.+)", line)
        if place:
            found.append((place[1], place[2]))
    return found


def check_with_ruff(ruff: str, name: str, path: Path, before: Path | None) -> None:
    """Raises `Refused` for a fatal finding that the pristine file does not have as well."""
    found = ruff_findings(ruff, name, path)
    known = {text for _, text in ruff_findings(ruff, name, before)} if found and before else set()
    messages = [f"{place}: {shown(text)}; correct it." for place, text in found if text not in known]
    if messages:
        raise Refused("ruff", messages)


# ---------------------------------------------------------------- all of it


def check(request: dict[str, object]) -> dict[str, str]:
    """The answer to one request, see the module's docstring. Raises `KeyError` or `TypeError` where it is malformed."""
    files = {str(name): Path(str(path)) for name, path in dict(request["files"]).items()}  # type: ignore[call-overload]
    before = {str(name): Path(str(path)) for name, path in dict(request["before"]).items()}  # type: ignore[call-overload]
    extra = [str(name) for name in request["imports"]]  # type: ignore[attr-defined]
    answer = {"stage": "", "error": ""}
    try:
        trees = {name: parse(name, path) for name, path in files.items()}
        pristine = {name: parse(f"the pristine {name}", path) for name, path in before.items()}
        for name, tree in trees.items():
            check_imports(name, tree, pristine.get(name), extra, list(files | before))
        if request["ruff"] is None:
            return answer | {"skipped": "ruff is not there"}
        try:
            for name, path in files.items():
                check_with_ruff(str(request["ruff"]), name, path, before.get(name))
        except (OSError, subprocess.SubprocessError) as error:
            return answer | {"skipped": f"ruff did not run: {shown(str(error), 300)}"}
    except Refused as refused:
        return {"stage": refused.stage, "error": str(refused)}
    return answer


def main() -> None:
    warnings.simplefilter("ignore")  # a SyntaxWarning of the code is no business of stdout's reader
    with open(sys.argv[1], encoding="utf-8") as file:
        request = json.load(file)
    json.dump(check(request), sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
