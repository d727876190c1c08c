from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.deploy.many_loads import Loaded


@pytest.fixture(scope="session")
def loads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Loaded]:
    """Every good and wrong draft as vLLM loaded it, by name: one process for all of them."""
    from tests.deploy.many_loads import load_all

    return load_all(tmp_path_factory.mktemp("loads"))
