from __future__ import annotations

import pytest

from attacks.scene import Stage


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.getbasetemp())
