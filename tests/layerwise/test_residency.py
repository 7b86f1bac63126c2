"""What stays in memory by demand, and how mode Auto serves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.api.names import KIND_EMULATED
from batchwright_worker.backends.base import Host
from batchwright_worker.host.memory import EmulatedMemory
from batchwright_worker.inference.requests import Array
from batchwright_worker.ipc.messages import EmulatedSource, ModelSource
from batchwright_worker.layerwise.core.policy import Balanced, Fifo
from batchwright_worker.layerwise.core.residency import best_residents, makespan, resident, total_bytes
from batchwright_worker.layerwise.core.values import Layer
from batchwright_worker.layerwise.serving.residency import better_in_turn
from batchwright_worker.layerwise.serving.service import Service
from batchwright_worker.layerwise.serving.settings import LayerwiseSettings

HOST = Host(kind=KIND_EMULATED, threads=1, emulated_memory=EmulatedMemory(1 << 20))


def units(count: int, compute: int, fetch: int, size: int) -> tuple[Layer, ...]:
    return (Layer(compute=compute, fetch=fetch, bytes=size),) * count


THREE = {name: units(4, 2, 10, 10) for name in "abc"}


def test_the_model_in_demand_stays_whole_and_moves_when_the_demand_does() -> None:
    for hot in "abc":
        demand = {name: 20.0 if name == hot else 1.0 for name in THREE}
        found = best_residents(THREE, demand, 40, 30)
        assert found[hot] == frozenset(range(4))
        assert not any(found[name] for name in THREE if name != hot)
        shares = {name: frozenset({0}) for name in THREE}
        assert makespan(resident(THREE, found), demand, 30) < 0.8 * makespan(resident(THREE, shares), demand, 30)


def test_what_stays_is_left_alone_where_a_change_gains_little() -> None:
    now = {"a": frozenset(range(4)), "b": frozenset[int](), "c": frozenset[int]()}
    assert best_residents(THREE, {"a": 1.0, "b": 1.02, "c": 1.0}, 40, 30, now) is now


def test_all_stays_where_all_fits() -> None:
    assert best_residents(THREE, {}, 120, 30) == {name: frozenset(range(4)) for name in THREE}


@given(
    models=st.dictionaries(
        st.sampled_from("abcd"),
        st.lists(st.builds(Layer, compute=st.integers(0, 9), fetch=st.integers(0, 9), bytes=st.integers(0, 20))).filter(
            bool
        ),
        min_size=1,
    ),
    demand=st.dictionaries(st.sampled_from("abcd"), st.floats(0, 100)),
    room=st.integers(0, 100),
)
def test_no_more_stays_than_has_room(models: Mapping[str, list[Layer]], demand: Mapping[str, float], room: int) -> None:
    found = best_residents(models, demand, room, 20)
    assert found.keys() == models.keys()
    assert sum(models[name][position].bytes for name, kept in found.items() for position in kept) <= room
    assert total_bytes(resident(models, found)) == total_bytes(models) - sum(
        models[name][position].bytes for name, kept in found.items() for position in kept
    )


class Rig:
    def __init__(self, mode: str, budget: int) -> None:
        settings = LayerwiseSettings(mode=mode, memory_budget_bytes=budget, models=2)  # type: ignore[arg-type]
        self.service = Service(KIND_EMULATED, settings, HOST, lambda error: pytest.fail(str(error)))

    def add(self, name: str, weights: int, *, load_ms: int = 8, fixed_us: int = 400) -> None:
        emulated = EmulatedSource(
            bytes_per_row=0,
            fixed_microseconds=fixed_us,
            per_row_microseconds=0,
            weights_bytes=weights,
            load_milliseconds=load_ms,
        )
        self.service.add(ModelSource(name=name, format="emulated", path="", inputs=[], outputs=[], emulated=emulated))

    def run(self, model: str) -> None:
        done = threading.Event()
        inputs: dict[str, Array] = {"x": np.zeros((1, 2), np.float32)}
        self.service.submit(model, inputs, 1, lambda _batch: done.set())
        assert done.wait(60)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            threading.Event().wait(0.01)

    def way(self) -> str:
        return self.service.streams().way

    def kept(self, name: str) -> int:
        return sum(layer.bytes == 0 for layer in self.service._plans.layers(name, 1))


@pytest.fixture
def rigs() -> Iterator[Callable[[str, int], Rig]]:
    made: list[Rig] = []

    def rig(mode: str, budget: int) -> Rig:
        made.append(Rig(mode, budget))
        return made[-1]

    yield rig
    for each in made:
        each.service.close()


def test_auto_serves_whole_models_while_all_fit_and_layers_when_another_comes(rigs: Callable[[str, int], Rig]) -> None:
    rig = rigs("Auto", 16_000)
    rig.add("a", 8000)
    rig.add("b", 8000, load_ms=1, fixed_us=8000)
    rig.until(lambda: rig.way().startswith("whole:"))
    before = rig.service.streams().bytes
    rig.run("a")
    rig.run("b")
    assert rig.service.streams().bytes == before, "nothing is fetched"
    assert rig.service.reserved_bytes == 0
    rig.add("c", 8000, load_ms=16)
    rig.until(lambda: rig.way().startswith("layer by layer:"))
    assert rig.kept("a") < 8
    for name in "abc":
        rig.run(name)
    assert rig.service.streams().bytes > before
    assert isinstance(rig.service.planned()[0], Balanced)
    rig.service.remove("c")
    rig.until(lambda: rig.way().startswith("whole:"))


def test_auto_runs_whole_models_in_turn_where_layers_gain_nothing(rigs: Callable[[str, int], Rig]) -> None:
    """Both are bound by their weights, which every order fetches one after the other."""
    rig = rigs("Auto", 4000)
    for name in "ab":
        rig.add(name, 8000, load_ms=80, fixed_us=80)
    rig.until(lambda: rig.way().startswith("whole models in turn:"))
    rig.until(lambda: isinstance(rig.service.planned()[0], Fifo))
    rig.run("a")


def test_while_one_model_is_read_to_stay_whole_the_others_are_served_and_its_batches_wait_for_it_alone(
    rigs: Callable[[str, int], Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, reading, let = rigs("Auto", 24_000), threading.Event(), threading.Event()
    keep = rig.service._adapter.keep

    def slowly(name: str, positions: frozenset[int]) -> None:
        if name == "b" and len(positions) == 8 and not reading.is_set():
            reading.set()
            assert let.wait(20)
        keep(name, positions)

    for name in "abc":
        rig.add(name, 12_000)
    rig.until(lambda: rig.way() != "" and not rig.way().startswith("whole:"))
    monkeypatch.setattr(rig.service._adapter, "keep", slowly)
    rig.service.remove("c")  # what is left fits
    assert reading.wait(20)
    answers: list[str] = []
    for name in "ab":
        inputs: dict[str, Array] = {"x": np.zeros((1, 2), np.float32)}
        rig.service.submit(name, inputs, 1, lambda batch: answers.append(batch.model))
    rig.until(lambda: "a" in answers)
    assert answers == ["a"]
    let.set()
    rig.service.wait_idle()
    assert answers == ["a", "b"]
    rig.until(lambda: rig.way().startswith("whole:"))
    assert [rig.kept(name) for name in "ab"] == [8, 8]


def test_a_model_that_cannot_be_read_as_a_whole_is_served_layer_by_layer(
    rigs: Callable[[str, int], Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is gone, say: what was read before it is given up, so that there is room for weights in flight."""
    rig, tried = rigs("Auto", 24_000), threading.Event()
    keep = rig.service._adapter.keep

    def failing(name: str, positions: frozenset[int]) -> None:
        if name == "b" and len(positions) == 8:
            tried.set()
            raise OSError("gone")
        keep(name, positions)

    for name in "abc":
        rig.add(name, 12_000)
    rig.until(lambda: rig.way() != "" and not rig.way().startswith("whole:"))
    monkeypatch.setattr(rig.service._adapter, "keep", failing)
    rig.service.remove("c")
    assert tried.wait(20)
    for name in "ab":
        rig.run(name)
    assert rig.kept("a") < 8
    assert rig.service.reserved_bytes > 0


def test_nothing_is_read_of_models_that_are_closed(
    rigs: Callable[[str, int], Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, reading, let = rigs("Auto", 24_000), threading.Event(), threading.Event()
    order: list[str] = []

    def slowly(_: str, positions: frozenset[int]) -> None:
        if len(positions) == 8:
            reading.set()
            assert let.wait(20)
            order.append("read")

    close = rig.service._adapter.close
    for name in "abc":
        rig.add(name, 12_000)
    rig.until(lambda: rig.way() != "" and not rig.way().startswith("whole:"))
    monkeypatch.setattr(rig.service._adapter, "keep", slowly)
    monkeypatch.setattr(rig.service._adapter, "close", lambda: (order.append("closed"), close()))
    rig.service.remove("c")  # what is left fits, and is read
    assert reading.wait(20)
    closing = threading.Thread(target=rig.service.close)
    closing.start()
    closing.join(0.3)  # nothing shows that it waits
    let.set()
    closing.join(60)
    assert order[-1] == "closed"
    assert "read" in order


@pytest.mark.parametrize(
    ("gains", "ways"),
    [
        ((0.5, 0.03, 0.01, 0.03, 0.05), "layers layers turn turn layers"),
        ((0.019, 0.021, 0.019, 0.039, 0.021), "turn turn turn turn turn"),
        ((0.041, 0.021, 0.039, 0.02), "layers layers layers layers"),
    ],
)
def test_a_gain_that_moves_a_little_about_the_bound_switches_nothing(gains: tuple[float, ...], ways: str) -> None:
    found, now = [], False
    for gain in gains:
        now = better_in_turn(gain, now=now)
        found.append("turn" if now else "layers")
    assert found == ways.split()


def test_what_stays_follows_the_demand_in_the_runtime(
    rigs: Callable[[str, int], Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchwright_worker.layerwise.serving.service._RESIDENTS_EVERY_S", 0.0)
    rig = rigs("Balanced", 32_000)
    for name in "ab":
        rig.add(name, 8000 if name == "a" else 32_000, load_ms=16)
    for _ in range(70):
        rig.run("a")
    rig.until(lambda: rig.kept("a") == 8)
    before = rig.service.streams().bytes
    rig.run("a")
    assert rig.service.streams().bytes == before
