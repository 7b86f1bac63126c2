"""The emulated device: its time is real, its memory is counted, its answers show wrong routing."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from batchwright_worker.api.messages import EmulatedDevice
from batchwright_worker.inference.runtime import BatchFailed, OutOfMemory, RuntimeLost
from tests.runtime.rig import KIND_EMULATED, emulated, file_source, running, spec, write_script

DEVICE = EmulatedDevice(memory_bytes=1000)
SAYS_WHEN_IT_RUNS = """
import time
from pathlib import Path

class Model:
    def __init__(self, path):
        self.path = path

    def infer(self, inputs):
        Path(self.path).touch()
        time.sleep(0.2)
        return {"y": inputs["x"]}
"""


async def test_a_batch_takes_its_time_and_answers_each_rows_argmax(tmp_path: Path) -> None:
    async with running(tmp_path, KIND_EMULATED, device=DEVICE) as rig:
        await rig.client.load("m", emulated())
        for rows in (1, 7, 32):
            x = np.random.default_rng(rows).normal(size=(rows, 3, 5)).astype(np.float32)
            began = time.monotonic()
            result = await rig.client.run("m", [{"x": x[:1]}, {"x": x[1:]}], rows)
            took = time.monotonic() - began
            np.testing.assert_array_equal(result.outputs["argmax"], x.reshape(rows, -1).argmax(1)[:, None])
            assert (0.005 + rows * 0.001) <= result.device_seconds <= took


async def test_two_batches_never_overlap(tmp_path: Path) -> None:
    async with running(tmp_path, KIND_EMULATED, device=DEVICE) as rig:
        await rig.client.load("m", emulated())
        x = np.zeros((5, 2), np.float32)
        began = time.monotonic()
        await asyncio.gather(*(rig.client.run("m", [{"x": x}], 5) for _ in range(4)))
        assert time.monotonic() - began >= 4 * 0.010


async def test_weights_and_rows_take_memory_and_give_it_back(tmp_path: Path) -> None:
    async with running(tmp_path, KIND_EMULATED, device=DEVICE) as rig:
        report = await rig.client.load("a", emulated(weights_bytes=600, bytes_per_row=100))
        assert (report.memory_bytes, report.bytes_per_row) == (600, 100)
        with pytest.raises(OutOfMemory, match="'b' needs 500 bytes; 600 of 1000 are used"):
            await rig.client.load("b", emulated(weights_bytes=500))
        result = await rig.client.run("a", [{"x": np.zeros((4, 1))}], 4)
        assert result.batch_bytes == 400
        with pytest.raises(OutOfMemory, match="5 rows need 500 bytes"):
            await rig.client.run("a", [{"x": np.zeros((5, 1))}], 5)
        await rig.client.unload("a")
        memory = await rig.client.memory()
        assert (memory.total_bytes, memory.used_bytes, memory.free_bytes) == (1000, 0, 1000)
        await rig.client.load("b", emulated(weights_bytes=500))


async def test_a_bad_row_is_named_and_the_others_are_answered(tmp_path: Path) -> None:
    async with running(tmp_path, KIND_EMULATED, device=DEVICE) as rig:
        await rig.client.load("m", emulated())
        x = np.eye(4, dtype=np.float32)
        x[2] = np.nan
        result = await rig.client.run("m", [{"x": x}], 4)
        assert list(result.row_errors) == [2]
        assert "NaN" in result.row_errors[2]
        assert result.outputs["argmax"][[0, 1, 3]].ravel().tolist() == [0, 1, 3]


async def test_a_load_that_overlaps_leaves_the_device_free(tmp_path: Path) -> None:
    async with running(tmp_path, KIND_EMULATED, device=DEVICE, overlaps_loads=True) as rig:
        await rig.client.load("m", emulated())
        loading = asyncio.ensure_future(
            rig.client.load("n", emulated(load_milliseconds=600_000, load_overlaps=True, weights_bytes=1))
        )
        await asyncio.sleep(0)
        await rig.client.run("m", [{"x": np.zeros((1, 1))}], 1)
        assert not loading.done()
        await rig.kill()  # nobody waits for its end
        with pytest.raises(RuntimeLost):
            await loading


async def test_a_load_that_blocks_holds_the_device(tmp_path: Path) -> None:
    async with running(tmp_path, KIND_EMULATED, device=DEVICE) as rig:
        await rig.client.load("m", emulated())
        loading = asyncio.ensure_future(rig.client.load("n", emulated(load_milliseconds=200)))
        await asyncio.sleep(0)
        await rig.client.run("m", [{"x": np.zeros((1, 1))}], 1)
        assert loading.done()
        assert loading.result().seconds >= 0.2


async def test_killed_in_mid_batch_it_is_lost_at_once_and_back_empty(tmp_path: Path) -> None:
    async with running(tmp_path, KIND_EMULATED, device=DEVICE) as rig:
        await rig.client.load("m", emulated(per_row_microseconds=100_000))
        batch = asyncio.ensure_future(rig.client.run("m", [{"x": np.zeros((6000, 1))}], 6000))  # ten minutes
        await asyncio.sleep(0.05)  # it has begun, or has not: it is lost anyway
        before = rig.client.pid
        await rig.kill()
        with pytest.raises(RuntimeLost):
            await batch
        assert rig.client.pid != before
        with pytest.raises(BatchFailed, match="not loaded"):
            await rig.client.run("m", [{"x": np.zeros((1, 1))}], 1)
        await rig.client.load("m", emulated())
        assert (await rig.client.run("m", [{"x": np.ones((2, 2))}], 2)).outputs["argmax"].shape == (2, 1)


async def test_it_comes_back_as_often_as_it_dies(tmp_path: Path) -> None:
    async with running(tmp_path, KIND_EMULATED, device=DEVICE) as rig:
        for _ in range(4):
            await rig.client.load("m", emulated())
            await rig.kill()
        await rig.client.load("m", emulated())


async def test_a_new_sidecar_finds_an_empty_runtime_and_no_stale_slots(tmp_path: Path) -> None:
    from batchwright_worker.sidecar.runtimes.client import RuntimeClient
    from tests.runtime.rig import settings

    async with running(tmp_path, KIND_EMULATED, device=DEVICE) as rig:
        await rig.client.load("m", emulated(weights_bytes=900))
        await rig.client.run("m", [{"x": np.zeros((1, 1))}], 1)
        await rig.client.close()
        (tmp_path / "slots").mkdir()
        (tmp_path / "slots" / "stale").write_bytes(b"left by a dead sidecar")
        successor = RuntimeClient(settings(tmp_path, KIND_EMULATED))
        successor.start()
        try:
            await successor.first_connected()
            assert not (tmp_path / "slots" / "stale").exists()
            await successor.load("n", emulated(weights_bytes=900))
        finally:
            await successor.close()


async def test_a_batch_beyond_the_shared_memory_is_out_of_memory(tmp_path: Path) -> None:
    async with running(tmp_path, KIND_EMULATED, device=DEVICE) as rig:
        await rig.client.load("m", emulated())
        with pytest.raises(OutOfMemory, match=r"batching\.maxSize"):
            await rig.client.run("m", [{"x": np.zeros((300, 1 << 20), np.uint8)}], 300)
        await rig.client.run("m", [{"x": np.zeros((1, 1))}], 1)


async def test_sigterm_ends_it_clean(tmp_path: Path) -> None:
    async with running(tmp_path, KIND_EMULATED, device=DEVICE) as rig:
        write_script(tmp_path, "says.py", SAYS_WHEN_IT_RUNS)
        (tmp_path / "begun").touch()
        x, y = spec("x", (1,)), spec("y", (1,))
        await rig.client.load("m", file_source(tmp_path / "begun", "python", [x], [y], "says.py"))
        (tmp_path / "begun").unlink()
        batch = asyncio.ensure_future(rig.client.run("m", [{"x": np.zeros((1, 1), np.float32)}], 1))
        async with asyncio.timeout(60):
            while not (tmp_path / "begun").exists():  # noqa: ASYNC110 - a file of another process
                await asyncio.sleep(0.005)
        rig.process.terminate()
        assert (await batch).outputs["y"].shape == (1, 1), "the batch that ran was finished"
        assert await rig.process.wait() == 0
        assert not (tmp_path / "r.sock").exists()


async def test_a_model_that_is_loaded_again_takes_its_load_time_alone(tmp_path: Path) -> None:
    async with running(tmp_path, KIND_EMULATED, device=DEVICE) as rig:
        begin = time.monotonic()
        reports = [await rig.client.load("m", emulated(fixed_microseconds=200_000, bytes_per_row=100))]
        assert time.monotonic() - begin >= 0.2
        took = []
        for _ in range(5):  # the machine may hold one up
            warm = time.monotonic()
            await rig.client.unload("m")
            reports.append(await rig.client.load("m", emulated(fixed_microseconds=200_000, bytes_per_row=100)))
            took.append(time.monotonic() - warm)
        assert min(took) < 0.2
        assert min(report.seconds for report in reports) < 0.2, "the warm-up is no part of later loads"
        assert {report.bytes_per_row for report in reports} == {100}
