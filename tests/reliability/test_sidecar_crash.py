"""A sidecar that is killed: callers see a closed connection, and the next one finds the runtime alive and empty."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import numpy as np
import pytest

from batchwright_worker.api.messages import EmulatedDevice
from batchwright_worker.inference.runtime import RuntimeLost
from batchwright_worker.sidecar.runtimes.client import RuntimeClient
from tests.reliability.callers import Caller, ask_all, traffic
from tests.reliability.fates import fated_model, manifest, row_of
from tests.reliability.pod import Pod, pod
from tests.reliability.usage import usage
from tests.runtime.rig import KIND_EMULATED, emulated, running, settings

pytestmark = pytest.mark.slow
BALLAST = 32 << 20
STARTING = (503, "this replica is starting; try again soon")


async def test_callers_see_a_closed_connection_and_the_next_sidecar_serves(tmp_path: Path) -> None:
    models = [fated_model(tmp_path, "m", ballast_bytes=BALLAST), fated_model(tmp_path, "other", ballast_bytes=BALLAST)]
    async with pod(manifest("crash", models)) as here:
        await here.start_sidecar()
        await here.start_runtime()
        await here.ready()
        runtime, looks = here.runtime, []
        async with traffic(here.http, callers=24) as load:
            for _ in range(3):
                await load.more(200)
                looks.append(usage(runtime))
                await here.end(here.sidecar, signal.SIGKILL)
                await here.start_sidecar()
                await here.ready()
            await load.more(200)
        assert here.runtime == runtime, "the runtime lived through it"
        assert len(here.slots) <= 2, "slots of dead sidecars are gone"
        looks.append(usage(runtime))
    assert {(answer.status, answer.error) for answer in load.wrongs.values()} <= {STARTING}
    assert len(load.rights) + len(load.wrongs) + len(load.lost) == load.asked
    assert looks[-1].files <= looks[0].files
    assert looks[-1].private_bytes - looks[0].private_bytes < BALLAST / 4, "models of dead sidecars are gone"


async def test_a_load_of_a_dead_sidecar_leaves_no_device_memory_behind(tmp_path: Path) -> None:
    """It runs beside the conversation: what it loads when its sidecar has gone belongs to nobody."""
    device = EmulatedDevice(memory_bytes=1000)
    async with running(tmp_path, KIND_EMULATED, device=device, overlaps_loads=True) as rig:
        source = emulated(weights_bytes=600, load_milliseconds=300, load_overlaps=True)
        await rig.client.load("quick", emulated(fixed_microseconds=100))
        load = asyncio.create_task(rig.client.load("of the dead", source))
        await asyncio.sleep(0)
        await rig.client.run("quick", [{"x": np.zeros((1, 1))}], 1)  # behind the load, which has begun
        await rig.client.close()
        with pytest.raises(RuntimeLost):
            await load
        following = RuntimeClient(settings(tmp_path, KIND_EMULATED))
        following.start()
        await following.first_connected()
        assert (await following.memory()).used_bytes == 0
        await following.load("m", emulated(weights_bytes=900))
        await following.close()


@pytest.mark.parametrize("first", ["sidecar", "runtime"])
async def test_either_may_start_first(tmp_path: Path, first: str) -> None:
    async with pod(manifest("order", [fated_model(tmp_path, "m")])) as here:
        starts = [here.start_sidecar, here.start_runtime]
        for start in starts if first == "sidecar" else reversed(starts):
            await start()
        await here.ready()
        rows = [row_of(1), row_of(2)]
        assert (await ask_all(here.http, [rows]))[0].is_right(rows)


async def test_both_may_start_anew_on_the_files_that_the_dead_left(tmp_path: Path) -> None:
    async with pod(manifest("anew", [fated_model(tmp_path, "m")])) as here:
        await restarted(here)
        await here.end(here.sidecar, signal.SIGKILL)
        await here.end(here.supervisor, signal.SIGKILL)
        await restarted(here)
        async with Caller(here.http) as caller:
            assert (await caller.ask([row_of(3)])).is_right([row_of(3)])


async def restarted(here: Pod) -> None:
    """Both processes started, the sidecar ready."""
    await here.start_sidecar()
    await here.start_runtime()
    await here.ready()
