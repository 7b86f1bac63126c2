"""Real sidecars with the emulated accelerator, and a host name that stands for several of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
import psutil
import pytest

from batchwright_worker.api.messages import SidecarState
from batchwright_worker.api.names import KIND_EMULATED
from batchwright_worker.local.deployment import local_deployment
from batchwright_worker.local.processes import LocalPorts, LocalServing, served

REPLICAS = "emu-replicas.test"
"""Host name that `names` makes resolve to the addresses of replicas."""


def deployment(**fields: Any) -> dict[str, Any]:
    """A ModelDeployment `emu` with the emulated model `m`: argmax of each row, 2 ms + 0.1 ms a row."""
    model: dict[str, Any] = {
        "name": "m",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}],
        "outputs": [{"name": "argmax", "datatype": "INT64", "shape": []}],
        "artifacts": [
            {
                "accelerator": KIND_EMULATED,
                "format": "emulated",
                "emulated": {"fixedMicroseconds": 2000, "perRowMicroseconds": 100},
            }
        ],
    }
    return {
        "apiVersion": "batchwright.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "emu"},
        "spec": {"models": [model | fields]},
    }


@contextlib.asynccontextmanager
async def replica(
    *documents: dict[str, Any], host: str = "127.0.0.1", port: int = 0, options: Sequence[str] = ()
) -> AsyncIterator[LocalServing]:
    """One replica of the deployment among these documents; `options` of its sidecar."""
    local = local_deployment(documents, None, None, {})
    async with served(
        local, LocalPorts(host=host, http=port), sidecar_options=("--drain-seconds", "1", *options)
    ) as here:
        yield here


async def state_of(here: LocalServing, after: int = -1) -> SidecarState:
    """What the replica's control port tells, as soon as its revision is larger than `after`."""
    url = f"{here.state_url}?after={after}&waitSeconds=20"
    async with aiohttp.ClientSession(headers=here.authorization) as session, session.get(url) as response:
        return msgspec.json.decode(await response.read(), type=SidecarState)


async def ready(here: LocalServing) -> SidecarState:
    """What it tells as soon as its models are loaded; TimeoutError after a minute."""
    async with asyncio.timeout(60):
        state = await state_of(here)
        while not state.ready:
            state = await state_of(here, state.revision)
    return state


async def rows_served(here: LocalServing) -> int:
    """How many rows it has answered, as soon as there are some."""
    state = await state_of(here)
    while not (state.models and state.models[0].rows_total):
        state = await state_of(here, state.revision)
    return state.models[0].rows_total


def kill_replica(here: LocalServing) -> None:
    """SIGKILL to the processes of this replica."""
    for process in psutil.Process(os.getpid()).children():
        command = process.cmdline()
        if "sidecar" in command and here.host in command:
            process.send_signal(signal.SIGKILL)


@dataclass(slots=True)
class Names:
    """What REPLICAS resolves to; may be changed at any time."""

    addresses: Sequence[str] = ()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """A headless Service's DNS name: as many A records as there are ready replicas."""
    known, real = Names(), socket.getaddrinfo

    def resolve(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host != REPLICAS:
            return real(host, port, *args, **options)
        if not known.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        return [entry for address in known.addresses for entry in real(address, port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return known
