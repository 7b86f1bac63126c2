"""The demo, told once a session on a cluster of its own; the scenarios run on what it leaves standing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster import Cluster
from e2e.demo.story import Story
from e2e.demo.targets import Embedded
from tests.e2e.stage import Stage

NAME = os.environ.get("BATCHWRIGHT_E2E_CLUSTER", f"e2e-{os.getpid()}")
"""A name, and BATCHWRIGHT_E2E_KEEP=1, run the scenarios again and again on one standing cluster."""


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """The embedded cluster with the demo's whole story told on it."""
    target = Embedded(name=NAME, why="tests")
    try:
        ready = target.up(print)
        story = Story(kubectl=ready.kubectl, overlay=target.overlay(), build=ready.build)
        yield Stage(story=story, report=story.tell(), cluster=Cluster.attach(NAME))
    finally:
        if not os.environ.get("BATCHWRIGHT_E2E_KEEP"):
            target.down()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs the demo; a session that tells it takes minutes, so no test's own time-out counts it."""
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.demo)
            item.add_marker(pytest.mark.timeout(1800))
