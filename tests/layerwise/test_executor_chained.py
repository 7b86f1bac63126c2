"""The CUDA device's logic with streams and events of threads in the place of torch's: chained engines, late binding, an
arena that is not mirrored. What a GPU does with it is not shown here."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from batchwright_worker.backends.base import Host
from batchwright_worker.backends.torch import load
from batchwright_worker.host.memory import EmulatedMemory
from batchwright_worker.ipc.messages import ModelSource
from batchwright_worker.layerwise.execution.cuda import CudaAccelerator
from batchwright_worker.layerwise.execution.planner import UnitPlans
from batchwright_worker.layerwise.networks.torch import TorchUnits, open_torch
from batchwright_worker.layerwise.profiling.profiler import Effort, example_inputs
from batchwright_worker.layerwise.tools.comparison import TrialRequest, policy_named, run_streamed
from tests.layerwise.splits import ConvNet, Encoder, export

pytestmark = pytest.mark.slow

HOST = Host(kind="cpu", threads=1, emulated_memory=EmulatedMemory(0))


class Stream:
    """Work in order on a thread of its own."""

    def __init__(self, _device: Any = None) -> None:
        self._work: queue.Queue[Callable[[], None]] = queue.Queue()
        threading.Thread(target=self._run, daemon=True).start()

    def do(self, work: Callable[[], None]) -> None:
        self._work.put(work)

    def wait_event(self, event: Event) -> None:
        self.do(event.done.wait)

    def _run(self) -> None:
        while True:
            self._work.get()()


class Event:
    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.done = threading.Event()
        self.at_s = 0.0

    def record(self, stream: Stream) -> None:
        def happen() -> None:
            self.at_s = time.monotonic()
            self.done.set()

        stream.do(happen)

    def synchronize(self) -> None:
        assert self.done.wait(20)

    def elapsed_time(self, later: Event) -> float:
        self.synchronize()
        later.synchronize()
        return (later.at_s - self.at_s) * 1e3


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def on(_stream: Stream) -> Iterator[None]:
        yield

    for name, stand_in in {
        "Stream": Stream,
        "Event": Event,
        "stream": on,
        "synchronize": lambda _device=None: None,
        "empty_cache": lambda: None,
        "get_device_name": lambda _device=None: "stand-in",
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)


@pytest.fixture
def networks(tmp_path: Path) -> dict[str, tuple[TorchUnits, ModelSource]]:
    found = {}
    for name, module, examples in (
        ("conv", ConvNet(), (torch.randn(2, 3, 8, 8),)),
        ("encoder", Encoder(), (torch.zeros(2, 5, dtype=torch.int64), torch.ones(2, 5))),
    ):
        path = export(module, examples, tmp_path / f"{name}.pt2")
        source = ModelSource(name=name, format="torch-export", path=str(path), inputs=[], outputs=[])
        found[name] = (open_torch(source, HOST, lambda digest: tmp_path / digest, 1 << 20), source)
    return found


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_streamed_through_a_small_arena_answers_are_those_of_the_whole_models(
    ahead: int, networks: dict[str, tuple[TorchUnits, ModelSource]]
) -> None:
    largest = max(network.index.largest_bytes for network, _ in networks.values())
    device, plans = CudaAccelerator(2 * largest, device="cpu", ahead=ahead), UnitPlans()
    requests = []
    for name, (network, _) in networks.items():
        device.add(name, network)
        device.keep(name, frozenset({0}))
        plans.add(name, [device.measured(name, 2, Effort(runs=2, least=2))])
        plans.keep(name, frozenset({0}))
        requests += [TrialRequest(model=name, rows=2, inputs=example_inputs(network.inputs, 2))] * 3
    assert sum(network.index.weight_bytes for network, _ in networks.values()) > device.ring.capacity
    run = run_streamed(device, plans, requests, policy_named("balanced", plans, requests, device.ring.capacity, None))
    assert 0 < run.peak_bytes <= device.ring.capacity
    for request, outputs in zip(requests, run.outputs, strict=True):
        expected = load(networks[request.model][1], HOST).run(request.inputs, 2)
        for name, array in outputs.items():
            np.testing.assert_array_equal(array, expected[name])
    device.close()
