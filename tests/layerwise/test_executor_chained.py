"""The CUDA device on a stand-in with FIFO streams, events and one copy engine per direction, which runs work when a GPU
would: what is overwritten too early gives wrong answers here, what waits for the wrong thing shows in its log."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from batchwright_worker.backends.base import Host
from batchwright_worker.backends.torch import load
from batchwright_worker.host.memory import EmulatedMemory
from batchwright_worker.inference.requests import Array
from batchwright_worker.ipc.messages import ModelSource
from batchwright_worker.layerwise.core.policy import Fifo
from batchwright_worker.layerwise.core.values import Prefetch
from batchwright_worker.layerwise.execution.cuda import CudaAccelerator
from batchwright_worker.layerwise.execution.cuda_driver import DeviceEngineName
from batchwright_worker.layerwise.execution.executor import Executor
from batchwright_worker.layerwise.execution.jobs import LayerwiseBatch
from batchwright_worker.layerwise.execution.planner import UnitPlans
from batchwright_worker.layerwise.networks.torch import TorchUnits, open_torch
from batchwright_worker.layerwise.profiling.profiler import Effort, example_inputs
from batchwright_worker.layerwise.tools.comparison import TrialRequest, policy_named, run_streamed
from e2e.bench.gpu.stand_in import StandIn, Work
from tests.layerwise.splits import ConvNet, Encoder, Sentences, export
from tests.undisturbed import undisturbed

pytestmark = pytest.mark.slow

HOST = Host(kind="cpu", threads=1, emulated_memory=EmulatedMemory(0))
PAGE = 4096
QUICK = Effort(runs=2, least=2)

Networks = dict[str, tuple[TorchUnits, ModelSource]]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSource]:
    folder, found = tmp_path_factory.mktemp("networks"), {}
    for name, module, examples in (
        ("conv", ConvNet(), (torch.randn(2, 3, 8, 8),)),
        ("encoder", Encoder(), (torch.zeros(2, 5, dtype=torch.int64), torch.ones(2, 5))),
    ):
        path = export(module, examples, folder / f"{name}.pt2")
        found[name] = ModelSource(name=name, format="torch-export", path=str(path), inputs=[], outputs=[])
    return found


@pytest.fixture
def networks(sources: dict[str, ModelSource]) -> Networks:
    """Opened anew: a device closes those that it was given."""

    def folder(digest: str) -> Path:
        return Path(sources["conv"].path).parent / digest

    return {name: (open_torch(source, HOST, folder, 1 << 20), source) for name, source in sources.items()}


class Rig:
    """A device of two (by default) of the largest units, with the networks on it."""

    def __init__(
        self,
        networks: Networks,
        driver: StandIn,
        *,
        units: float = 2,
        resident: Sequence[int] = (),
        ahead: int = 1,
        piece_bytes: int = PAGE,
    ) -> None:
        self.networks, self.driver, self.plans = networks, driver, UnitPlans()
        largest = max(network.index.largest_bytes for network, _ in networks.values())
        capacity = int(units * largest) // PAGE * PAGE
        self.device = CudaAccelerator(capacity, driver, ahead=ahead, piece_bytes=piece_bytes)
        for name in networks:
            self.add(name, frozenset(resident))

    def add(self, name: str, resident: frozenset[int] = frozenset()) -> None:
        network, _ = self.networks[name]
        self.device.add(name, network)
        self.device.keep(name, resident)
        self.plans.add(name, [self.device.measured(name, 2, QUICK)])
        self.plans.keep(name, resident)

    def requests(self, each: int) -> list[TrialRequest]:
        one = [
            TrialRequest(model=name, rows=2, inputs=example_inputs(network.inputs, 2))
            for name, (network, _) in self.networks.items()
        ]
        return one * each

    def batch(self, name: str, ended: threading.Event) -> LayerwiseBatch:
        inputs = example_inputs(self.networks[name][0].inputs, 2)
        layers = self.plans.layers(name, 2)
        return LayerwiseBatch(model=name, inputs=inputs, rows=2, layers=layers, settled=lambda _batch: ended.set())

    def expected(self, request: TrialRequest) -> Mapping[str, Array]:
        found: Mapping[str, Array] = load(self.networks[request.model][1], HOST).run(request.inputs, request.rows)
        return found

    def work(self, engine: DeviceEngineName) -> list[Work]:
        return [each for each in self.driver.log if each.engine == engine]


def jittery() -> StandIn:
    random = np.random.default_rng(5)
    return StandIn(lambda _engine: float(random.uniform(0, 5e-4)))


@pytest.mark.parametrize("prefetch", list(Prefetch))
@pytest.mark.parametrize(("mirrored", "ahead"), [(False, 0), (False, 1), (True, 1), (True, 2)])
def test_streamed_through_a_small_arena_answers_are_those_of_the_whole_models(
    mirrored: bool, ahead: int, prefetch: Prefetch, networks: Networks
) -> None:
    driver = jittery()
    driver._mirrored = mirrored
    rig = Rig(networks, driver, ahead=ahead, resident=[0], units=1.3)
    requests = rig.requests(3)
    assert sum(network.index.weight_bytes for network, _ in networks.values()) > rig.device.ring.capacity
    policy = policy_named("balanced", rig.plans, requests, rig.device.ring.capacity, None)
    run = run_streamed(rig.device, rig.plans, requests, policy, prefetch)
    assert 0 < run.peak_bytes <= rig.device.ring.capacity
    for request, outputs in zip(requests, run.outputs, strict=True):
        for name, array in rig.expected(request).items():
            np.testing.assert_array_equal(outputs[name], array)
    rig.device.close()


def test_a_model_is_loaded_and_measured_while_another_runs(networks: Networks) -> None:
    """C1: what is measured has memory of its own; weights in flight are not overwritten."""
    conv = {"conv": networks["conv"]}
    rig = Rig(conv, StandIn(lambda engine: 2e-3 if engine == "compute" else 0.0))
    executor, ended = Executor(rig.device, Fifo()), threading.Event()
    batch = rig.batch("conv", ended)
    executor.submit(batch)
    rig.networks = networks
    rig.add("encoder")
    assert ended.wait(60)
    expected = rig.expected(TrialRequest(model="conv", rows=2, inputs=batch.inputs))
    for name, array in expected.items():
        np.testing.assert_array_equal(batch.outputs[name], array)
    executor.close()


def test_an_answer_waits_for_its_own_last_unit_and_compute_goes_on_meanwhile(networks: Networks) -> None:
    """C2: the copy of the outputs is behind the last unit, not behind the next batch's units that are queued already;
    while it is on its way the compute engine runs those."""
    assert undisturbed(lambda: computes_while_answers_are_copied(networks)), "compute stood still"


def computes_while_answers_are_copied(networks: Networks) -> bool:
    rig = Rig(networks, StandIn(lambda engine: 5e-2 if engine == "copy out" else 1e-3), units=4)
    requests = rig.requests(3)
    run_streamed(rig.device, rig.plans, requests, Fifo())
    rig.device.close()
    computed = rig.work("compute")[-sum(len(rig.networks[each.model][0].index.units) for each in requests) :]
    ends, position = [], -1
    for request in requests:
        position += len(rig.networks[request.model][0].index.units)
        ends.append((computed[position], computed[position + 1 : position + 2]))
    answers = list(zip(rig.work("copy out"), ends, strict=True))
    assert all(answer.start > last.end for answer, (last, _) in answers)
    return all(unit.start < answer.end for answer, (_, following) in answers for unit in following)


def test_inputs_wait_for_a_piece_of_the_weights_at_most(networks: Networks) -> None:
    """C3: the copy engine takes the streams in turn; a unit of many pieces does not hold the inputs up."""
    conv = {"conv": networks["conv"]}
    rig = Rig(conv, StandIn(lambda engine: 2e-3 if engine == "copy in" else 0.0), piece_bytes=PAGE // 4)
    assert max(unit.size for unit in conv["conv"][0].index.units) >= 3 * PAGE
    executor = Executor(rig.device, Fifo())
    # One that runs, and what the stand-in's threads are late.
    waited = undisturbed(lambda: pieces_before_inputs(rig, executor), lambda most: most <= 4)
    assert waited <= 4, "inputs waited for a unit of twelve pieces"
    executor.close()


def pieces_before_inputs(rig: Rig, executor: Executor) -> int:
    """The most pieces of weights that began between the asking for inputs and their copy."""
    first, second, before = threading.Event(), threading.Event(), len(rig.work("copy in"))
    weights, inputs = rig.device.copy_stream.number, rig.device._input_stream.number
    executor.submit(rig.batch("conv", first))
    executor.submit(rig.batch("conv", second))
    assert first.wait(60)
    assert second.wait(60)
    copies = rig.work("copy in")[before:]
    return max(
        sum(work.stream == weights and brought.queued < work.start < brought.start for work in copies)
        for brought in copies
        if brought.stream == inputs
    )


def test_rows_of_a_table_are_gathered_on_the_host_and_come_with_the_inputs(tmp_path: Path) -> None:
    """The device never sees the table; answers are those of the whole model."""
    examples = (torch.zeros(2, 6, dtype=torch.int64), torch.ones(2, 6, dtype=torch.int64))
    path = export(Sentences(), examples, tmp_path / "net.pt2")
    source = ModelSource(name="net", format="torch-export", path=str(path), inputs=[], outputs=[])
    network = open_torch(source, HOST, lambda digest: tmp_path / digest, 1 << 20)
    rig = Rig({"net": (network, source)}, jittery(), units=1.5)
    assert rig.driver.pinned_bytes < network.index.table_bytes
    assert not any(
        node.target is torch.ops.aten.embedding.default for g in network.graphs for node in g.module.graph.nodes
    )
    random = np.random.default_rng(4)
    requests = [
        TrialRequest(
            model="net", rows=2, inputs={"ids": random.integers(0, 9_400, (2, 6)), "mask": np.ones((2, 6), int)}
        )
        for _ in range(3)
    ]
    run = run_streamed(rig.device, rig.plans, requests, Fifo())
    for request, outputs in zip(requests, run.outputs, strict=True):
        for name, array in rig.expected(request).items():
            np.testing.assert_array_equal(outputs[name], array)
    rig.device.close()


def test_nothing_is_pinned_any_more_once_batches_have_run(networks: Networks) -> None:
    """C4: pinning can stop the device; buffers are kept from batch to batch, and all is given back in the end."""
    driver = StandIn()
    rig = Rig(networks, driver)
    weights = sum(network.index.weight_bytes for network, _ in networks.values())
    run_streamed(rig.device, rig.plans, rig.requests(3), Fifo())
    pinned = []
    for _ in range(10):  # which batches are there at once, and with it how many buffers, the threads decide
        before = driver.pinned_ever
        run_streamed(rig.device, rig.plans, rig.requests(3), Fifo())
        pinned.append(driver.pinned_ever - before)
    assert 0 in pinned
    # Finding 14: of the weights not a byte more than they have.
    assert weights < driver.pinned_bytes <= weights + driver.pinned_ever * PAGE
    rig.device.close()
    assert driver.pinned_bytes == 0


class SlowToSee(StandIn):
    """The host sees no end of compute before it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Event()


def test_a_copy_into_a_place_that_is_freed_waits_on_the_device_and_not_for_the_host(
    networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C5: with the arena full, the next unit's copy ends although the host has seen no end of any compute."""
    conv = {"conv": networks["conv"]}
    rig = Rig(conv, SlowToSee(), units=1)
    driver = rig.driver
    assert isinstance(driver, SlowToSee)
    before, finish = len(rig.work("copy in")), rig.device.compute.finish
    monkeypatch.setattr(rig.device.compute, "finish", lambda job: (driver.let.wait(60), finish(job))[1])
    executor, ended = Executor(rig.device, Fifo()), threading.Event()
    batch = rig.batch("conv", ended)
    sizes = [unit.size for unit in conv["conv"][0].index.units]
    assert sizes[0] + sizes[1] > rig.device.ring.capacity
    executor.submit(batch)
    wanted = before + 1 + (sizes[0] + sizes[1]) // PAGE
    end = time.monotonic() + 60
    while len(rig.work("copy in")) < wanted and time.monotonic() < end:
        threading.Event().wait(0.01)
    assert len(rig.work("copy in")) >= wanted
    assert not ended.is_set()
    driver.let.set()
    assert ended.wait(60)
    expected = rig.expected(TrialRequest(model="conv", rows=2, inputs=batch.inputs))
    for name, array in expected.items():
        np.testing.assert_array_equal(batch.outputs[name], array)
    executor.close()


def test_streaming_launches_no_operation_that_the_whole_model_does_not(networks: Networks) -> None:
    """C6: a unit's graph has the program's own operations, each once in the whole network."""
    for name, (network, source) in networks.items():
        program = torch.export.load(source.path)
        whole = [node for node in program.graph.nodes if node.op == "call_function" and node.users]
        units = [node for graph in network.graphs for node in graph.module.graph.nodes if node.op == "call_function"]
        work = {node.name for node in whole}
        assert {node.name for node in units} <= work, name
        # Only what depends on weights alone is worked out again, in each unit that uses it.
        assert len(units) <= len(whole) + len(network.graphs), name
