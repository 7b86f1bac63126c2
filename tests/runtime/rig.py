"""A real runtime process behind a RuntimeClient."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from batchwright_worker.api.deployment import Artifact, Emulated, Script
from batchwright_worker.api.messages import EmulatedDevice
from batchwright_worker.api.model import ConfigMapKey
from batchwright_worker.api.names import ENV_CPU_MILLIS, ENV_EMULATED_DEVICE, ENV_KIND
from batchwright_worker.inference.runtime import DeclaredSource, TensorSpec
from batchwright_worker.sidecar.runtimes.client import RuntimeClient, RuntimeSettings
from batchwright_worker.sidecar.runtimes.sources import Paths

KIND_EMULATED = "batchwright.dev/emulated"


class Rig:
    """`client` is connected; `lost` and `back` are set when the engine would hear of it."""

    def __init__(self, folder: Path, client: RuntimeClient, process: asyncio.subprocess.Process) -> None:
        self.folder = folder
        self.client = client
        self.process = process
        self.lost = asyncio.Event()
        self.back = asyncio.Event()
        client.watch(lambda _why: self.lost.set(), self.back.set)

    async def kill(self) -> None:
        """Kill the runtime process; returns when another one is there."""
        self.lost.clear()
        self.back.clear()
        os.kill(self.client.pid, signal.SIGKILL)
        await self.lost.wait()
        await self.back.wait()


@contextlib.asynccontextmanager
async def running(
    folder: Path,
    kind: str = "cpu",
    *,
    formats: tuple[str, ...] = (),
    device: EmulatedDevice | None = None,
    layerwise: dict[str, Any] | None = None,
    overlaps_loads: bool = False,
) -> AsyncIterator[Rig]:
    """A runtime of its own; `formats` are imported ahead of need, as the deployment's would be; `layerwise` is the
    section of the deployment; `overlaps_loads`: loads run beside batches."""
    deployment = folder / "deployment.json"
    artifacts = [{"format": name} for name in formats]
    models = [{"artifacts": artifacts}] * (2 if layerwise else 1)
    deployment.write_bytes(msgspec.json.encode({"spec": {"models": models, "layerwise": layerwise}}))
    environment = {**os.environ, ENV_KIND: kind, ENV_CPU_MILLIS: "1000", "LOG_LEVEL": "WARNING"}
    if device is not None:
        environment[ENV_EMULATED_DEVICE] = msgspec.json.encode(device).decode()
    command = [sys.executable, "-m", "batchwright_worker", "runtime", "--socket", str(folder / "r.sock")]
    command += ["--deployment", str(deployment), "--parent", str(os.getpid())]
    process = await asyncio.create_subprocess_exec(*command, env=environment)
    client = RuntimeClient(settings(folder, kind, overlaps_loads=overlaps_loads))
    rig = Rig(folder, client, process)
    client.start()
    try:
        async with asyncio.timeout(60):
            await client.first_connected()
        yield rig
    finally:
        await client.close()
        if process.returncode is None:
            process.terminate()
        await process.wait()


def settings(folder: Path, kind: str, limit_bytes: int = 1 << 28, *, overlaps_loads: bool = False) -> RuntimeSettings:
    return RuntimeSettings(
        kind=kind,
        device="runtime-0",
        socket=folder / "r.sock",
        slots=folder / "slots",
        slots_limit_bytes=limit_bytes,
        paths=Paths(scripts=folder / "scripts"),
        overlaps_loads=overlaps_loads,
    )


def emulated(**figures: Any) -> DeclaredSource:
    """An emulated model that takes any input."""
    figures = {"fixed_microseconds": 5000, "per_row_microseconds": 1000, **figures}
    return DeclaredSource(artifact=Artifact(accelerator=KIND_EMULATED, format="emulated", emulated=Emulated(**figures)))


def file_source(
    path: Path | None, format_: Any, inputs: list[TensorSpec], outputs: list[TensorSpec], script: str = ""
) -> DeclaredSource:
    """A model from a file, `script` being a file in the folder `scripts/s`."""
    reference = Script(config_map_key_ref=ConfigMapKey(name="s", key=script)) if script else None
    uri = None if path is None else path.as_uri()
    return DeclaredSource(
        artifact=Artifact(format=format_, uri=uri, script=reference), inputs=tuple(inputs), outputs=tuple(outputs)
    )


def spec(name: str, shape: tuple[int, ...], datatype: str = "FP32") -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=shape)


def write_script(folder: Path, name: str, text: str) -> None:
    (folder / "scripts" / "s").mkdir(parents=True, exist_ok=True)
    (folder / "scripts" / "s" / name).write_text(text)
