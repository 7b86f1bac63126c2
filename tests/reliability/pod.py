"""A pod's processes, each started, killed and started again by itself, on ports that stay, as kubelet would do it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from batchwright_worker.api.names import ENV_CPU_MILLIS, ENV_KIND, STATE_PATH
from batchwright_worker.local.deployment import LocalDeployment, local_deployment
from e2e.cluster.machine.ports import free_ports
from tests.reliability.callers import HOST
from tests.reliability.usage import serving_child, slots

Process = asyncio.subprocess.Process


@dataclass
class Pod:
    """`folder` is the shared emptyDir (in memory). `sidecar` and `supervisor` are the containers' first processes."""

    deployment: LocalDeployment
    folder: Path
    http: int
    grpc: int
    control: int
    token: str
    environment: Mapping[str, str]
    sidecar: Process | None = None
    supervisor: Process | None = None
    ended: list[int] = field(default_factory=list)

    async def start_sidecar(self, *options: str) -> None:
        """The process, not yet listening."""
        ports = ["--http-port", str(self.http), "--grpc-port", str(self.grpc), "--control-port", str(self.control)]
        command = ["sidecar", "--deployment", str(self.folder / "deployment.json"), "--host", HOST, *ports]
        command += ["--ipc-dir", str(self.folder / "ipc"), "--scripts-dir", str(self.folder / "scripts")]
        command += ["--token-file", str(self.folder / "token"), "--linger-seconds", "0", *options]
        self.sidecar = await self._spawn(command)

    async def start_runtime(self) -> None:
        """The supervisor, which starts the runtime."""
        command = ["runtime", "--socket", str(self.folder / "ipc" / "runtime-0.sock")]
        self.supervisor = await self._spawn([*command, "--deployment", str(self.folder / "deployment.json")])

    async def ready(self) -> Any:
        """The state, as soon as it is ready."""
        async with asyncio.timeout(60):
            return await self.state_when(lambda state: bool(state["ready"]))

    async def state_when(self, condition: Any) -> Any:
        """Follows the state by its revisions, across restarts of the sidecar."""
        revision = -1
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {self.token}"}) as session:
            while True:
                try:
                    state = await self._state(session, revision)
                except (aiohttp.ClientError, OSError):
                    revision = -1
                    await asyncio.sleep(0.02)
                    continue
                if condition(state):
                    return state
                revision = state["revision"]

    @property
    def runtime(self) -> int:
        """Process id of the runtime that serves."""
        assert self.supervisor is not None
        return serving_child(self.supervisor.pid)

    @property
    def slots(self) -> Mapping[str, int]:
        """Shared memory files and their sizes."""
        return slots(self.folder)

    async def end(self, process: Process | None, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit status."""
        assert process is not None
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        async with asyncio.timeout(60):
            return await process.wait()

    async def _state(self, session: aiohttp.ClientSession, revision: int) -> Any:
        query = {"after": revision, "waitSeconds": 10}
        async with session.get(f"http://{HOST}:{self.control}{STATE_PATH}", params=query) as response:
            return msgspec.json.decode(await response.read())

    async def _spawn(self, arguments: Sequence[str]) -> Process:
        command = [sys.executable, "-m", "batchwright_worker", *arguments, "--parent", str(os.getpid())]
        return await asyncio.create_subprocess_exec(*command, env=self.environment)


@contextlib.asynccontextmanager
async def pod(documents: Sequence[dict[str, Any]], kind: str | None = None, **environment: str) -> AsyncIterator[Pod]:
    """Nothing runs yet; on leaving, nothing runs any more."""
    deployment = local_deployment(list(documents), None, kind, {})
    with tempfile.TemporaryDirectory(prefix="batchwright-test-", dir="/dev/shm") as name:
        folder, token = Path(name), secrets.token_hex(8)
        (folder / "deployment.json").write_bytes(msgspec.json.encode(deployment.document))
        (folder / "token").write_text(token)
        (folder / "ipc").mkdir()
        deployment.write_scripts(folder / "scripts")
        http, grpc, control = free_ports(3)
        given = {**os.environ, ENV_KIND: deployment.kind, ENV_CPU_MILLIS: "1000", "LOG_LEVEL": "WARNING", **environment}
        made = Pod(deployment, folder, http, grpc, control, token, given)
        try:
            yield made
        finally:
            for process in (made.sidecar, made.supervisor):
                if process is not None and process.returncode is None:
                    await made.end(process, signal.SIGKILL)
