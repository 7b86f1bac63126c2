"""The policy of a running service follows the batches that come: their size, and what they took."""

from __future__ import annotations

import threading

import pytest

from batchwright_worker.api.names import KIND_EMULATED
from batchwright_worker.backends.base import Host
from batchwright_worker.host.memory import EmulatedMemory
from batchwright_worker.inference.requests import Array
from batchwright_worker.ipc.messages import EmulatedSource, ModelSource
from batchwright_worker.layerwise.core.policy import Balanced, Fifo, Policy
from batchwright_worker.layerwise.core.rollout import Rollout
from batchwright_worker.layerwise.core.values import Prefetch
from batchwright_worker.layerwise.serving import policy_plans
from batchwright_worker.layerwise.serving import service as serving
from batchwright_worker.layerwise.serving.service import Service
from batchwright_worker.layerwise.serving.settings import LayerwiseSettings

HOST = Host(kind=KIND_EMULATED, threads=1, emulated_memory=EmulatedMemory(1 << 20))


def source(name: str, weights: int = 8000) -> ModelSource:
    """200 us and 100 us a row to compute; 16 ms to fetch in 8 units."""
    emulated = EmulatedSource(
        bytes_per_row=0, fixed_microseconds=200, per_row_microseconds=100, weights_bytes=weights, load_milliseconds=16
    )
    return ModelSource(name=name, format="emulated", path="", inputs=[], outputs=[], emulated=emulated)


def skip_limit(service: Service) -> int:
    policy, _ = service.planned()
    assert isinstance(policy, Balanced)
    return policy.skip_limit


def run(service: Service, model: str, rows: int) -> None:
    import numpy as np

    done = threading.Event()
    inputs: dict[str, Array] = {"x": np.zeros((rows, 2), np.float32)}
    service.submit(model, inputs, rows, lambda _batch: done.set())
    assert done.wait(60)


@pytest.fixture
def service() -> Service:
    settings = LayerwiseSettings(mode="Balanced", memory_budget_bytes=16_000, models=2)
    return Service(KIND_EMULATED, settings, HOST, lambda error: pytest.fail(str(error)))


def test_the_skip_limit_falls_when_batches_grow_and_rises_when_they_shrink(service: Service) -> None:
    for name in "ab":
        service.add(source(name))
    alone = skip_limit(service)
    for name in "ab":
        run(service, name, 32)
    large = skip_limit(service)
    for name in "ab":
        run(service, name, 1)
    assert large < alone
    assert skip_limit(service) > large
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
    assert service.planned()[1] is Prefetch.FLUID
    run(service, "b", 16)
    service.close()


@pytest.mark.parametrize(("load_ms", "decided_by"), [(400, Rollout), (16, Balanced)])
def test_auto_decides_by_rollout_where_units_take_long_enough(load_ms: int, decided_by: type[Policy]) -> None:
    """8 units: of 50 ms, of which a decision of 200 us is nothing, or of 2 ms."""
    settings = LayerwiseSettings(mode="Auto", memory_budget_bytes=4_000, models=2)
    service = Service(KIND_EMULATED, settings, HOST, lambda error: pytest.fail(str(error)))
    for name, (fetch_ms, compute_us) in {"a": (load_ms, 1_000), "b": (1, load_ms * 1_000)}.items():
        emulated = EmulatedSource(
            bytes_per_row=0,
            fixed_microseconds=compute_us,
            per_row_microseconds=0,
            weights_bytes=8_000,
            load_milliseconds=fetch_ms,
        )
        service.add(ModelSource(name=name, format="emulated", path="", inputs=[], outputs=[], emulated=emulated))
    assert isinstance(service.planned()[0], decided_by)
    service.close()


class SlowPlans:
    """Plans that take until they are let, and who made them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.let = threading.Event()
        self.threads: list[str] = []
        monkeypatch.setattr(serving, "better_prefetch", self.plan)

    def plan(self, *_: object) -> Prefetch:
        self.threads.append(threading.current_thread().name)
        assert self.let.wait(60)
        return Prefetch.WHOLE


def test_no_batch_waits_for_a_plan_and_sizes_that_come_again_have_theirs(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.add(source("a"))
    service.planned()
    plans = SlowPlans(monkeypatch)
    for rows in (16, 1, 16):
        run(service, "a", rows)  # answered although nothing is planned for it
    plans.let.set()
    large, small = skip_limit(service), skip_limit_at(service, 1)
    assert large < small
    made = len(plans.threads)
    for rows, limit in ((16, large), (1, small)) * 10:
        run(service, "a", rows)
        assert skip_limit(service) == limit
    assert len(plans.threads) == made
    assert set(plans.threads) == {"layerwise plans"}
    service.close()


def skip_limit_at(service: Service, rows: int) -> int:
    run(service, "a", rows)
    return skip_limit(service)


def test_a_plan_is_made_anew_once_it_is_old(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.add(source("a"))
    skip_limit_at(service, 16)
    plans = SlowPlans(monkeypatch)
    monkeypatch.setattr(policy_plans, "MOST_AGE_S", 0.0)
    run(service, "a", 1)
    run(service, "a", 16)
    plans.let.set()
    service.planned()
    assert plans.threads
    service.close()


def test_a_model_that_goes_while_it_is_planned_for_leaves_the_others_their_plan(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        service.add(source(name))
    plans = SlowPlans(monkeypatch)
    run(service, "a", 16)
    service.remove("b")
    plans.let.set()
    assert skip_limit(service) >= 1
    run(service, "a", 1)
    service.remove("a")
    assert isinstance(service.planned()[0], Fifo)
    service.close()
