"""The arrows of the architecture: who may import whom. Reads the sources, function-local imports too."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PURE = {
    "types",
    "errors",
    "space",
    "gate",
    "sequential",
    "budget",
    "state",
    "memory",
    "policy",
    "pareto",
    "costs",
    "capacity",
    "agent_text",
    "agent_tools",
    "curves",
    "scales",
    "acceptance",
    "patches",
    "edits",
    "suite",
    "commands",
}
PORTS = {"ports"}
LOOP = {"loop"}
CLI = {
    "log_text",
    "cli",
    "compose",
    "config",
    "review",
    "show",
    "screen",
    "watch",
    "doctor",
    "proof",
    "tables",
    "recollect",
    "report",
    "suite_screen",
    "projects",
    "readiness",
    "starter",
    "infer",
    "export",
}
BOTH_SIDES = "pack"  # of the jail's wall: what it writes is taken apart by the same rules
HEAVY = {"torch", "mlflow", "litellm", "optuna", "hydra", "omegaconf", "sklearn", "pandas", "rich", "matplotlib", "ray",
         "huggingface_hub"}  # fmt: skip
# Each heavy library has its own modules; everything else may not name it.
HOME = {
    "optuna": {"search", "pruning", "sampler", "compose", "study", "history"},
    "litellm": {"llm", "local_model"},
    "mlflow": {"tracking", "tracking_runs", "registry", "compose", "history"},
    "matplotlib": {"pictures", "staircase", "canvas"},
    "sklearn": {"sampler"},
    "ray": {"ray_executor"},
    "huggingface_hub": {"outside"},
    "hydra": {"config"},
    "omegaconf": {"config", "projects"},
    "rich": {"watch", "tables", "screen", "suite_screen"},
}


def imports(path: Path) -> Iterator[str]:
    """Full dotted names of everything that a file imports, `from a import b` as both `a` and `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules() -> dict[str, Path]:
    return {p.stem: p for p in sorted((ROOT / "evolve").glob("*.py")) if p.stem != "__init__"}


def evolve_imports(path: Path) -> set[str]:
    names = {name.split(".")[1] for name in imports(path) if name.startswith("evolve.")}
    return names & set(modules())


def test_the_reader_sees_function_local_imports(tmp_path: Path) -> None:
    source = tmp_path / "a.py"
    source.write_text("def f():\n    from evolve import loop\n    import torch.nn\n")
    assert set(imports(source)) == {"evolve", "evolve.loop", "torch.nn"}


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_import_pure_modules_alone(name: str) -> None:
    allowed_libraries = {"gate": {"scipy"}, "sequential": {"numpy", "scipy"}}.get(name, set())
    for imported in imports(modules()[name]):
        top = imported.split(".")[0]
        if top == "evolve":
            continue
        assert top in sys.stdlib_module_names | allowed_libraries | {""}, f"{name} imports {imported}"
        assert top not in {"time", "random", "os", "pathlib", "io", "subprocess", "datetime", "secrets", "uuid"}, (
            imported
        )
    assert evolve_imports(modules()[name]) <= PURE


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_neither_print_nor_open_files(name: str) -> None:
    calls = [n for n in ast.walk(ast.parse(modules()[name].read_text())) if isinstance(n, ast.Call)]
    assert not [
        c for c in calls if isinstance(c.func, ast.Name) and c.func.id in {"print", "open", "input", "eval", "exec"}
    ]


def test_types_imports_the_standard_library_alone() -> None:
    assert not [n for n in imports(modules()["types"]) if n.split(".")[0] not in sys.stdlib_module_names]


def test_ports_know_the_pure_core_alone() -> None:
    assert evolve_imports(modules()["ports"]) <= PURE


def test_what_runs_in_a_jail_imports_the_standard_library_alone() -> None:
    """It starts under `python -I -S`, where nothing else is to be found."""
    for path in (ROOT / "evolve" / "inside").glob("*.py"):
        assert {name.split(".")[0] for name in imports(path)} <= sys.stdlib_module_names | {BOTH_SIDES}, path


def test_the_sandbox_knows_the_pure_core_alone() -> None:
    assert evolve_imports(modules()["sandbox"]) <= PURE
    assert {n.split(".")[0] for n in imports(modules()["sandbox"])} <= sys.stdlib_module_names | {"evolve", ""}


def test_the_loop_knows_ports_and_the_pure_core_and_where_events_and_weights_are_kept() -> None:
    assert evolve_imports(modules()["loop"]) <= PURE | PORTS | {"journal", "ledger", "weights"}


def test_only_the_composition_root_names_concrete_implementations() -> None:
    concrete = {
        "sampler",
        "search",
        "pruning",
        "proposers",
        "playbook",
        "playbook_rules",
        "agent",
        "insight",
        "llm",
        "local_model",
        "fallbacks",
        "executors",
        "tracking",
        "tracker",
        "registry",
        "branch",
        "carry",
        "git",
        "study",
        "history",
        "pictures",
        "staircase",
        "canvas",
        "notify",
        "processes",
        "sandbox",
        "accounts",
        "suite_runs",
        "ray_executor",
        "ray_node",
    }
    for name, path in modules().items():
        if name in CLI | concrete or name.startswith("tracking"):
            continue
        assert not evolve_imports(path) & concrete, name


def test_nothing_below_the_cli_imports_the_cli() -> None:
    for name, path in modules().items():
        if name not in CLI:
            assert not evolve_imports(path) & CLI, name


def test_heavy_libraries_are_imported_in_their_own_modules_alone() -> None:
    for name, path in modules().items():
        for imported in imports(path):
            top = imported.split(".")[0]
            if top in HEAVY:
                assert name in HOME.get(top, set()), f"{name} imports {imported}"


def test_evolve_imports_neither_torch_nor_train_nor_evals() -> None:
    for name, path in modules().items():
        assert not {i.split(".")[0] for i in imports(path)} & {"torch", "train", "evals"}, name


TRL = {
    "datasets",
    "peft",
    "reasoning_gym",
    "tokenizers",
    "transformers",
    "trl",
}  # of the extra `trl`, for its subject alone


def test_train_imports_torch_safetensors_and_the_standard_library_alone() -> None:
    for path in (ROOT / "train").rglob("*.py"):
        tops = {i.split(".")[0] for i in imports(path)}
        allowed = {"torch", "safetensors", "train", "recipe"} | (TRL if path.parent.name == "trl" else set())
        assert tops <= sys.stdlib_module_names | allowed, path


def test_what_runs_inside_the_sandbox_imports_the_standard_library_alone() -> None:
    paths = sorted((ROOT / "evolve/inside").glob("*.py"))
    assert {"audit", "check"} <= {path.stem for path in paths}
    for path in paths:
        assert {i.split(".")[0] for i in imports(path)} <= sys.stdlib_module_names | {BOTH_SIDES}, path


def test_nothing_imports_what_runs_inside_the_sandbox_for_it_is_data() -> None:
    for name, path in modules().items():
        inside = {i for i in imports(path) if i.startswith("evolve.inside")}
        assert inside <= ({"evolve.inside", f"evolve.inside.{BOTH_SIDES}"} if name == "weights" else set()), name


def test_what_watches_from_outside_knows_the_pure_core_alone() -> None:
    assert evolve_imports(modules()["integrity"]) <= PURE | PORTS | {"processes"}


def test_evals_imports_nothing_of_evolve_and_of_train_only_model_tokenizer_and_tasks() -> None:
    allowed = {"train", "train.model", "train.tokenizer", "train.tasks", "train.trl"}
    for path in (ROOT / "evals").rglob("*.py"):
        names = set(imports(path))
        assert {n.split(".")[0] for n in names} <= sys.stdlib_module_names | {"torch", "safetensors", "train", "evals"}
        assert {".".join(n.split(".")[:2]) for n in names if n.startswith("train")} <= allowed, path
        of_trl = {n.split(".")[2] for n in names if n.startswith("train.trl.")}
        assert of_trl <= {"model", "tasks"} and (not of_trl or path.parent.name == "trl"), path


@pytest.mark.parametrize("words", [["--help"], ["status"]])
def test_help_and_status_import_no_heavy_library(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from evolve.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit: pass\n"
        f"print('LOADED', sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "LOADED []" in done.stdout, done.stdout + done.stderr


def test_importing_the_composition_root_loads_neither_torch_nor_mlflow_nor_litellm() -> None:
    code = f"import sys, evolve.compose; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
