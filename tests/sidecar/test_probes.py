"""Probes and the state are answered while the sidecar's event loop does not turn, and say when it has not for long."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from batchwright_worker.api.deployment import ModelDeployment, ModelDeploymentSpec
from batchwright_worker.api.model import Model
from batchwright_worker.protocol.catalogue import Catalogue
from batchwright_worker.protocol.http.server import bound
from batchwright_worker.protocol.limits import Limits
from batchwright_worker.sidecar import control, probes
from batchwright_worker.sidecar.configuration import Configuration, Document
from batchwright_worker.sidecar.control import ControlApp
from batchwright_worker.sidecar.control_thread import ControlThread
from batchwright_worker.sidecar.drain import Drain
from batchwright_worker.sidecar.main_loop import MainLoop
from tests.engine.devices import FakeDevice, engine_of, model
from tests.protocol.serving import fetched

TURN_S, DOUBTFUL_S, STUCK_S = 0.1, 0.8, 3.0
LIVE, READY, MODEL = "/v2/health/live", "/v2/health/ready", "/v2/models/m/ready"


@dataclass
class StubRuntime:
    device: str = "runtime-0"
    silent_since: float | None = None


@dataclass
class Port:
    """The control port of an engine on the running loop."""

    number: int
    runtime: StubRuntime

    def get(self, path: str) -> tuple[int, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.number}{path}", headers={"Authorization": "Bearer token"}
        )
        status, _, body = fetched(request)
        return status, json.loads(body)

    async def asked(self, path: str) -> tuple[int, Any]:
        return await asyncio.to_thread(self.get, path)


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_TURN_S", TURN_S)
    monkeypatch.setattr(probes, "DOUBTFUL_S", DOUBTFUL_S)
    monkeypatch.setattr(control, "DOUBTFUL_S", DOUBTFUL_S)


def configuration_of(models: list[Model]) -> Configuration:
    deployed = ModelDeployment(name="m", namespace="n", spec=ModelDeploymentSpec(models=tuple(models)))
    return Configuration(Path("unused"), Document(deployment=deployed, generation=1, digest=""), (0, 0, 0))


def on_port(scenario: Callable[[Port], Awaitable[None]]) -> None:
    async def run() -> None:
        manifest = [model("m")]
        engine = engine_of(manifest, FakeDevice(fixed_s=0.001, load_s=0.001))
        await engine.start()
        main, runtime = MainLoop(), StubRuntime()
        catalogue = Catalogue(engine=engine, models={each.name: each for each in manifest}, kind="cpu")
        drain = Drain(engine.publisher.publish, lambda: engine.drain(1), 0.0)
        app = ControlApp(
            catalogue,
            drain,
            configuration_of(manifest),
            lambda: b"token",
            probes.Probes(catalogue, engine.snapshot, [runtime], main, STUCK_S),
            main,
        )
        listener = bound("127.0.0.1", 0)
        thread = ControlThread(app, Limits(), listener)
        thread.start()
        try:
            await scenario(Port(listener.getsockname()[1], runtime))
        finally:
            await engine.close()
            await thread.stop()

    asyncio.run(run())


def compute(seconds: float) -> None:
    """Lets nothing else of the event loop run."""
    time.sleep(seconds)


def test_while_the_loop_turns_they_say_what_it_says() -> None:
    async def scenario(port: Port) -> None:
        assert await port.asked(LIVE) == (200, {"live": True})
        assert await port.asked(READY) == (200, {"ready": True})
        assert await port.asked(MODEL) == (200, {"name": "m", "ready": True})
        assert (await port.asked("/v2/models/nope/ready"))[0] == 404
        assert (await port.asked("/v1/state"))[1]["ready"] is True

    on_port(scenario)


def test_a_loop_that_computes_for_a_moment_leaves_the_replica_alive_and_as_ready_as_it_was() -> None:
    async def scenario(port: Port) -> None:
        for path in (READY, MODEL):
            assert (await port.asked(path))[0] == 200
        asking = [asyncio.ensure_future(port.asked(path)) for path in (LIVE, READY, MODEL)]
        await asyncio.sleep(0)
        compute(3 * TURN_S)
        assert [status for status, _ in await asyncio.gather(*asking)] == [200, 200, 200]

    on_port(scenario)


def test_a_stuck_loop_is_not_ready_first_and_not_live_later_and_well_again_when_it_turns() -> None:
    async def scenario(port: Port) -> None:
        assert (await port.asked(READY))[0] == 200
        seen: list[tuple[int, int, dict[str, Any], dict[str, Any]]] = []
        begun, over = threading.Event(), threading.Event()

        def probe() -> None:
            while not over.is_set():
                state = port.get("/v1/state?after=99&waitSeconds=0")[1]
                live, ready = port.get(LIVE)[0], port.get(READY)
                seen.append((live, ready[0], ready[1], state))
                begun.set()

        probing = asyncio.ensure_future(asyncio.to_thread(probe))
        await asyncio.to_thread(begun.wait)
        wanted, end = {(200, 200), (200, 503), (503, 503)}, time.monotonic() + 60
        while not wanted <= {step[:2] for step in seen} and time.monotonic() < end:
            compute(TURN_S)
        over.set()  # before the loop turns again
        await probing
        assert {step[:2] for step in seen} >= wanted
        *_, (_, _, ready, state) = (step for step in seen if step[:2] == (503, 503))
        assert "has not turned for" in ready["message"]
        assert "has not turned for" in state["message"]
        assert state["ready"] is False
        assert [model["name"] for model in state["models"]] == ["m"], "the last known state is kept"
        assert [(await port.asked(path))[0] for path in (LIVE, READY)] == [200, 200]

    on_port(scenario)


def test_a_runtime_that_stays_silent_for_long_is_not_live() -> None:
    async def scenario(port: Port) -> None:
        path = "/v1/runtimes/runtime-0/live"
        assert (await port.asked(path))[0] == 200
        port.runtime.silent_since = time.monotonic() - probes.SILENT_RUNTIME_S / 2
        assert (await port.asked(path))[0] == 200
        port.runtime.silent_since = time.monotonic() - probes.SILENT_RUNTIME_S - 1
        status, answer = await port.asked(path)
        assert (status, answer["live"]) == (503, False)
        assert (await port.asked("/v1/runtimes/runtime-1/live"))[0] == 404

    on_port(scenario)
