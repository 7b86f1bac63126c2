"""A job in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runner.bench import Bench
from tests.runner.serving_rig import names

__all__ = ["bench", "names"]


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    """Makes a bench; keyword arguments as its fields."""

    def make(*tasks: dict[str, Any], **fields: Any) -> Bench:
        return Bench(tmp_path, tasks, **fields)

    return make
