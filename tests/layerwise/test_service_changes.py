"""Models that come, go and are loaded anew while batches of them and of others run; budgets that change; one file
under two names."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from batchwright_worker.api.names import KIND_CPU, KIND_EMULATED
from batchwright_worker.backends.base import Host, LoadError, LoadRefusedError
from batchwright_worker.host.memory import EmulatedMemory
from batchwright_worker.inference.requests import Array
from batchwright_worker.ipc.messages import EmulatedSource, ModelSource
from batchwright_worker.layerwise.execution.jobs import LayerwiseBatch
from batchwright_worker.layerwise.profiling.profiles import ENV_CACHE
from batchwright_worker.layerwise.serving.service import Service
from batchwright_worker.layerwise.serving.settings import LayerwiseSettings
from tests.layerwise.test_split_onnx import alone, conv_net

MODES = ("Balanced", "Literal", "Rollout", "Auto")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_CACHE, str(tmp_path / "cache"))


@pytest.fixture
def services() -> Iterator[Callable[..., Service]]:
    made: list[Service] = []

    def service(kind: str, budget: int, mode: str = "Balanced", models: int = 2) -> Service:
        host = Host(kind=kind, threads=1, emulated_memory=EmulatedMemory(1 << 20))
        settings = LayerwiseSettings(mode=mode, memory_budget_bytes=budget, models=models)  # type: ignore[arg-type]
        made.append(Service(kind, settings, host, lambda error: pytest.fail(str(error))))
        return made[-1]

    yield service
    for each in made:
        each.close()


def emulated(name: str, weights: int = 8000) -> ModelSource:
    source = EmulatedSource(
        bytes_per_row=0, fixed_microseconds=400, per_row_microseconds=0, weights_bytes=weights, load_milliseconds=1
    )
    return ModelSource(name=name, format="emulated", path="", inputs=[], outputs=[], emulated=source)


def onnx(name: str, path: Path) -> ModelSource:
    return ModelSource(name=name, format="onnx", path=str(path), inputs=[], outputs=[])


class Caller:
    """Submits one batch after the other of models in turn, on a thread of its own, as a runtime does."""

    def __init__(self, service: Service, models: str) -> None:
        self.submitted = self.refused = 0
        self.settled: list[LayerwiseBatch] = []
        self.models = models
        self._service, self._stop = service, threading.Event()
        self._thread = threading.Thread(target=self._call)
        self._thread.start()

    def _call(self) -> None:
        inputs: dict[str, Array] = {"x": np.zeros((1, 2), np.float32)}
        while not self._stop.is_set():
            for model in self.models:
                ended = threading.Event()
                try:
                    self._service.submit(model, inputs, 1, lambda batch, ended=ended: self._end(batch, ended))  # type: ignore[misc]
                    self.submitted += 1
                except LoadError:
                    self.refused += 1
                    continue
                if self.submitted % 3 == 0:  # up to three are on their way
                    ended.wait(20)

    def _end(self, batch: LayerwiseBatch, ended: threading.Event) -> None:
        self.settled.append(batch)
        ended.set()

    def more(self, count: int) -> None:
        """Until so many more are settled."""
        wanted = len(self.settled) + count
        for _ in range(4000):
            if len(self.settled) >= wanted:
                return
            threading.Event().wait(0.005)
        raise AssertionError("nothing is settled any more")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._service.wait_idle()


@pytest.mark.parametrize("mode", MODES)
def test_models_that_come_and_go_under_load_fail_no_batch(mode: str, services: Callable[..., Service]) -> None:
    """Memory for one and a half of the three, so that in mode Auto what there is changes how all are served."""
    service = services(KIND_EMULATED, 12_000, mode, models=3)
    for name in "abc":
        service.add(emulated(name))
    caller = Caller(service, "abc")
    try:
        for turn in range(6):
            caller.more(4)
            name = "abc"[turn % 3]
            if turn % 2:
                service.add(emulated(name, 8000 + 800 * turn))  # in its place, of another size
            else:
                service.remove(name)
                caller.more(4)
                service.add(emulated(name))
    finally:
        caller.stop()
    assert len(caller.settled) == caller.submitted
    assert [batch.error for batch in caller.settled if batch.error is not None] == []
    assert caller.refused > 0, "some came while their model was not there"
    assert service.streams().peak_bytes <= service.streams().capacity_bytes


def run(service: Service, model: str, x: np.ndarray) -> np.ndarray:
    batches, ended = list[LayerwiseBatch](), threading.Event()
    service.submit(model, {"x": x}, len(x), lambda batch: (batches.append(batch), ended.set())[1])
    assert ended.wait(20)
    if batches[0].error is not None:
        raise batches[0].error
    return np.asarray(batches[0].outputs["y"])


def test_one_file_under_two_names_and_with_other_budgets_answers_the_same(
    tmp_path: Path, cache: None, services: Callable[..., Service]
) -> None:
    """Two names share what is prepared; each budget has units of its own size, and one that cannot hold the largest
    operation is refused with the figure that is needed."""
    path = conv_net(tmp_path / "net.onnx")
    x = np.random.default_rng(2).standard_normal((3, 3, 16, 16)).astype(np.float32)
    expected = alone(path, {"x": x})[0]
    for budget in (240_000, 120_000, 1_000_000):
        service = services(KIND_CPU, budget)
        for name in "ab":
            service.add(onnx(name, path))
        for name in "ab":
            np.testing.assert_array_equal(run(service, name, x), expected)
        service.remove("a")
        np.testing.assert_array_equal(run(service, "b", x), expected)
    small = services(KIND_CPU, 50_000)
    with pytest.raises(LoadRefusedError, match="raise memoryBudgetBytes to") as refused:
        small.add(onnx("a", path))
    [wanted] = re.findall(r"raise memoryBudgetBytes to (\d+) or more", str(refused.value))
    enough = services(KIND_CPU, int(wanted))
    enough.add(onnx("a", path))
    np.testing.assert_array_equal(run(enough, "a", x), expected)


def test_no_more_stays_than_has_room_with_more_models_than_were_announced(
    tmp_path: Path, cache: None, services: Callable[..., Service]
) -> None:
    path = conv_net(tmp_path / "net.onnx")
    service = services(KIND_CPU, 1_000_000, models=1)
    for number, name in enumerate("abc"):
        added = service.add(onnx(name, path))
        stays = sum(added.profiles[0].bytes[position] for position in added.resident)
        assert 0 < stays <= 250_000 // (number + 1)
