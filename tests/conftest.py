"""The order of the suite when several processes share it (`pytest -n`, by file): the demo takes longest, so first."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the order within a file."""
    items.sort(key=lambda item: item.path.parent.name != "e2e")
