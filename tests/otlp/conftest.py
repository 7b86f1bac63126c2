"""A receiver of OTLP, and the variables that name it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sidecar.collector import Collector


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture
def variables(collector: Collector) -> dict[str, str]:
    """As a user sets them."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}", "OTEL_BSP_SCHEDULE_DELAY": "50"}


@pytest.fixture
def environ(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The same, in this process."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables
