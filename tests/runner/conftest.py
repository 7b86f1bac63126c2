"""A job in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runner.bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    """Makes a bench; keyword arguments as its fields."""

    def make(*tasks: dict[str, Any], **fields: Any) -> Bench:
        return Bench(tmp_path, tasks, **fields)

    return make
