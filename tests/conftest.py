"""How the suite is shared between processes (`pytest -n`): by file, but for what must not run side by side.

Tests that need nodes measure CPU quotas and start the machine's cgroups and links: one process has them all, and first,
since they take longest. Tests behind the fault proxy wait more than they work: each is on its own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

_TESTS = Path(__file__).parent
_NODES = {"e2e", "cluster"}
_APART = {"faults"}


def _area(item: pytest.Item) -> str:
    return Path(item.path).relative_to(_TESTS).parts[0]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Groups for xdist; without it nothing changes."""
    if not config.pluginmanager.hasplugin("dsession") and not hasattr(config, "workerinput"):
        return
    for item in items:
        area = _area(item)
        if area in _NODES:
            item.add_marker(pytest.mark.xdist_group("nodes"))
        elif area not in _APART:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
    items.sort(key=lambda item: _area(item) not in _NODES)
