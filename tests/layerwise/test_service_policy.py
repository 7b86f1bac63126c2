"""The policy of a running service follows the batches that come: their size, and what they took."""

from __future__ import annotations

import threading

import pytest

from batchwright_worker.api.names import KIND_EMULATED
from batchwright_worker.backends.base import Host
from batchwright_worker.host.memory import EmulatedMemory
from batchwright_worker.inference.requests import Array
from batchwright_worker.ipc.messages import EmulatedSource, ModelSource
from batchwright_worker.layerwise.core.policy import Balanced, Policy
from batchwright_worker.layerwise.core.values import Prefetch
from batchwright_worker.layerwise.serving.service import Service
from batchwright_worker.layerwise.serving.settings import LayerwiseSettings

HOST = Host(kind=KIND_EMULATED, threads=1, emulated_memory=EmulatedMemory(1 << 20))


def source(name: str, weights: int = 8000) -> ModelSource:
    """200 us and 100 us a row to compute; 16 ms to fetch in 8 units."""
    emulated = EmulatedSource(
        bytes_per_row=0, fixed_microseconds=200, per_row_microseconds=100, weights_bytes=weights, load_milliseconds=16
    )
    return ModelSource(name=name, format="emulated", path="", inputs=[], outputs=[], emulated=emulated)


def skip_limit(policy: Policy) -> int:
    assert isinstance(policy, Balanced)
    return policy.skip_limit


def run(service: Service, model: str, rows: int) -> None:
    import numpy as np

    done = threading.Event()
    inputs: dict[str, Array] = {"x": np.zeros((rows, 2), np.float32)}
    service.submit(model, inputs, rows, lambda _batch: done.set())
    assert done.wait(20)


@pytest.fixture
def service() -> Service:
    settings = LayerwiseSettings(mode="Balanced", memory_budget_bytes=16_000, models=2)
    return Service(KIND_EMULATED, settings, HOST, lambda error: pytest.fail(str(error)))


def test_the_skip_limit_falls_when_batches_grow_and_rises_when_they_shrink(service: Service) -> None:
    for name in "ab":
        service.add(source(name))
    alone = skip_limit(service.policy())
    for name in "ab":
        run(service, name, 32)
    large = skip_limit(service.policy())
    for name in "ab":
        run(service, name, 1)
    assert large < alone
    assert skip_limit(service.policy()) > large
    service.close()


def test_what_a_model_took_is_gone_with_it(service: Service) -> None:
    service.add(source("a"))
    run(service, "a", 8)
    service.remove("a")
    service.add(source("a"))
    run(service, "a", 1)
    service.close()


def test_fetches_are_fluid_where_the_plan_gains_by_it(service: Service) -> None:
    """Of units of 7,000 bytes one has room in 12,000: most of the next one is fetched while it computes."""
    for name in "ab":
        service.add(source(name, weights=56_000))
    run(service, "a", 16)
    assert service.prefetch() is Prefetch.FLUID
    assert service._executor._scheduler.timeline.prefetch is Prefetch.FLUID
    run(service, "b", 16)
    service.close()
