"""The worked example of docs/how-to-add.md: a new vendor is a row, a host entry, a reader and an engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house.additions import Copy

ROW = """\
    Vendor(
        name="Example",
        prefix="example.com/",
        kind="example.com/npu",
        product_labels=("example.com/npu.product",),
        exporter=Exporter(
            busy=(BusyMetric(name="example_npu_busy_percent", full=100),),
            memory=(MemoryMetrics(used="example_npu_used_bytes", total="example_npu_total_bytes"),),
            device=("npu",),
        ),
        agent_source="example",
        benchmark_engine="example",
    ),
"""
HOST_ENTRY = """\
    "example.com/npu": HostAccelerator(meter=lambda _: HostMeter(1 << 40)),
"""
READER = '''
"""Example's NPUs. A real reader asks the driver; None without one."""

from __future__ import annotations

import time
from collections.abc import Sequence

from batchwright_worker.agent.readings import DeviceReading


class ExampleSource:
    """Implements ReadingSource."""

    def read(self) -> Sequence[DeviceReading]:
        """One device, half busy."""
        return [
            DeviceReading(
                kind="example.com/npu", device="0", utilization=0.5, memory_utilization=0.25, taken_at=time.time()
            )
        ]


def find_source() -> ExampleSource | None:
    """The source, or None without a driver."""
    return ExampleSource()
'''
ENGINE = '''
"""The reference model on Example's NPUs: here the emulated engine; a real one runs `reference_model`."""

from __future__ import annotations

from batchwright_worker.api.messages import EmulatedDevice
from batchwright_worker.benchmark.engines.emulated import EmulatedEngine


def engine() -> EmulatedEngine:
    """On the first visible NPU. Raises BenchmarkError."""
    return EmulatedEngine(EmulatedDevice(fixed_microseconds=100, per_row_microseconds=10))
'''


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """With the new vendor."""
    product = Copy(tmp_path_factory.mktemp("product") / "copy")
    product.add_row("api/accelerators.py", "VENDORS", ROW)
    product.add_row("host/accelerators.py", "ACCELERATORS", HOST_ENTRY)
    product.write("agent/example.py", READER)
    product.write("benchmark/engines/example.py", ENGINE)
    return product


PROCESSOR = """
from batchwright_operator.processors.benchmark_jobs import digest, job
from batchwright_operator.processors.processor import kinds_on
from batchwright_operator.settings import Settings
from batchwright_operator.telemetry.exporters import METRICS, Series, samples_of

def node(product):
    labels = {"example.com/npu.product": product}
    return {
        "metadata": {"name": "n", "uid": "u", "labels": labels},
        "status": {"allocatable": {"cpu": "8", "example.com/npu": "2", "example.org/nic": "1"}},
    }

def series(name, value):
    return Series(name=name, labels={"node": "n", "npu": "0"}, value=value, age_s=1.0)

kinds = kinds_on(node("one"))
assert kinds == ("cpu", "example.com/npu"), kinds
digests = [digest(node(each), "example.com/npu", None, Settings()) for each in ("one", "two")]
assert digests[0] != digests[1], "another product asks for another benchmark"
measures = job(node("one"), "example.com/npu", digests[0], Settings())["spec"]["template"]["spec"]["containers"][0]
assert measures["resources"]["limits"] == {"example.com/npu": "1"}, measures

scraped = [
    series("example_npu_busy_percent", 75.0),
    series("example_npu_used_bytes", 2.0),
    series("example_npu_total_bytes", 8.0),
]
assert {each.name for each in scraped} <= METRICS
sample = samples_of(scraped, {"n": "n"}, {"n": kinds}, 10.0)["n", "example.com/npu"]
assert (sample.utilization, sample.memory_utilization, sample.taken_at) == (0.75, 0.25, 9.0), sample
"""


def test_a_node_with_the_resource_has_a_processor_that_exporters_tell_about(product: Copy) -> None:
    product.run("-c", PROCESSOR)


DEVICE = """
from batchwright_operator.telemetry.agents import parse
from batchwright_worker.agent.command import vendor_sources
from batchwright_worker.agent.exposition import exposition, text
from batchwright_worker.benchmark.command import measure

source = vendor_sources()["Example"]
sample = parse(text(exposition("n", [source])).decode(), "", 10.0)["example.com/npu"]
assert (sample.utilization, sample.memory_utilization) == (0.5, 0.25), sample

result = measure("example.com/npu", 0.2, lambda line: None)
assert result.kind == "example.com/npu" and not result.error and result.load_table, result
"""


def test_the_agent_reads_it_and_the_benchmark_measures_it(product: Copy) -> None:
    product.run("-c", DEVICE)


RUNTIME = """
import asyncio, sys
from pathlib import Path

import numpy as np
from tests.runtime.rig import emulated, running

async def main(folder):
    async with running(folder, "example.com/npu") as rig:
        await rig.client.load("m", emulated())
        result = await rig.client.run("m", [{"x": np.eye(3, dtype=np.float32)}], 3)
        assert result.outputs["argmax"].ravel().tolist() == [0, 1, 2], result
        memory = await rig.client.memory()
        assert 1 << 39 < memory.total_bytes <= 1 << 40, memory

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_runtime_serves_on_it_within_its_memory(product: Copy, tmp_path: Path) -> None:
    product.run("-c", RUNTIME, str(tmp_path))
