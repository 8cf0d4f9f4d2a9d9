"""What commands that only look at a campaign do not import: each of these libraries costs a tenth of a second and more."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .cli import Evolve

SLOW = {
    "torch", "mlflow", "litellm", "optuna", "sklearn", "scipy", "numpy", "pandas", "matplotlib", "hydra", "omegaconf",
    "pydantic", "sqlalchemy",
}  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [["--help"], ["status"], ["status", "--json"], ["review"], ["review", "--json"], ["log"], ["log", "--decisions"],
     ["memory"], ["stop"]],
)  # fmt: skip
def test_a_command_that_looks_at_a_campaign_imports_no_heavy_library(words: list[str], finished: Evolve) -> None:
    code = (
        "import sys; from evolve.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit: pass\n"
        f"print('LOADED', sorted({SLOW | {'rich'}!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=finished.cwd, env=finished.env, check=False
    )
    assert "LOADED []" in done.stdout, done.stdout + done.stderr
