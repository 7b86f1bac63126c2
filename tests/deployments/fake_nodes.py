"""Kubelets without nodes: pods that were bound run at once, each with a sidecar that says what a test lets it say."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from aiohttp import web

from batchwright_worker.api.messages import SidecarState
from batchwright_worker.api.names import CONTROL_PORT, STATE_PATH
from e2e.cluster import ApiError

TICK_S = 0.2


class FakeNodes:
    """`state` is asked for what every sidecar says, with the number of pods that run."""

    def __init__(self, api: Any, pods: str, state: Callable[[int], SidecarState]) -> None:
        self.state = state
        self._api, self._pods = api, pods
        self._addresses = (f"127.88.{high}.{low}" for high, low in itertools.product(range(1, 250), range(1, 250)))
        self._running: dict[str, str] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), daemon=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            self._thread.join(60)

    async def _live(self) -> None:
        app = web.Application()
        app.router.add_get(STATE_PATH, self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        while not self._stopped.is_set():
            pods = (await asyncio.to_thread(self._api.get, self._pods))["items"]
            for pod in pods:
                await self._look_at(pod, runner)
            self._running = {
                uid: ip for uid, ip in self._running.items() if uid in {p["metadata"]["uid"] for p in pods}
            }
            await asyncio.sleep(TICK_S)
        await runner.cleanup()

    async def _look_at(self, pod: dict[str, Any], runner: web.AppRunner) -> None:
        metadata = pod["metadata"]
        path = f"{self._pods.split('?')[0]}/{metadata['name']}"
        if metadata.get("deletionTimestamp"):
            await self._tolerant(lambda: self._api.delete(f"{path}?gracePeriodSeconds=0"))
        elif pod["spec"].get("nodeName") and metadata["uid"] not in self._running:
            self._running[metadata["uid"]] = address = next(self._addresses)
            await web.TCPSite(runner, address, CONTROL_PORT).start()
            await self._tolerant(lambda: self._api.patch(f"{path}/status", {"status": _running(pod, address)}))

    async def _tolerant(self, call: Callable[[], object]) -> None:
        try:
            await asyncio.to_thread(call)
        except ApiError:
            return  # it has gone meanwhile

    async def _answer(self, request: web.Request) -> web.Response:
        until = time.monotonic() + float(request.query["waitSeconds"])
        while (said := self.state(len(self._running))).revision == int(request.query["after"]):
            if time.monotonic() > until or self._stopped.is_set():
                break
            await asyncio.sleep(TICK_S)
        return web.Response(body=msgspec.json.encode(said))


def _running(pod: dict[str, Any], address: str) -> dict[str, Any]:
    now = "2026-01-01T00:00:00Z"

    def status(container: dict[str, Any]) -> dict[str, Any]:
        return {"name": container["name"], "image": container["image"], "imageID": "", "ready": True, "started": True,
                "restartCount": 0, "state": {"running": {"startedAt": now}}}  # fmt: skip

    kinds = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds],
        "initContainerStatuses": [status(each) for each in pod["spec"].get("initContainers") or ()],
        "containerStatuses": [status(each) for each in pod["spec"]["containers"]],
    }
