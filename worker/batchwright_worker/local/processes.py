"""A ModelDeployment's sidecar and runtimes as child processes, with a folder of their own in shared memory.

Nothing outlives the parent: children die with it (the kernel sees to that), and the folder of a parent that was killed
is removed by the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from batchwright_worker.api.names import ENV_CPU_MILLIS, ENV_KIND, ENV_MEMORY_BUDGET, KIND_CPU, STATE_PATH
from batchwright_worker.host.memory import container_limit_bytes
from batchwright_worker.local.deployment import LocalDeployment
from batchwright_worker.local.own_folders import own_folder

_PREFIX: Final = "batchwright-"
_STOP_S: Final = 12.0


class LocalFailed(Exception):  # noqa: N818
    """A deployment cannot be served here; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPorts:
    """0: any free port."""

    host: str = "127.0.0.1"
    http: int = 0
    grpc: int = 0
    control: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalServing:
    """Where a deployment answers on this machine. `ended` completes if a process ends by itself, with the reason."""

    host: str
    http: int
    grpc: int
    control: int
    token: str
    ended: asyncio.Future[str]

    @property
    def url(self) -> str:
        """Of the HTTP port."""
        return f"http://{self.host}:{self.http}"

    @property
    def state_url(self) -> str:
        """Where the control port tells the sidecar's state."""
        return f"http://{self.host}:{self.control}{STATE_PATH}"

    @property
    def authorization(self) -> dict[str, str]:
        """Headers that the control port asks for."""
        return {"Authorization": f"Bearer {self.token}"}


@contextlib.asynccontextmanager
async def served(
    deployment: LocalDeployment, ports: LocalPorts, *, sidecar_options: Sequence[str] = ()
) -> AsyncIterator[LocalServing]:
    """The deployment's processes, listening but not yet ready. Raises LocalFailed. On leaving, the sidecar finishes
    what it has taken, and no process and no file is left."""
    folder = _folder()
    processes: list[asyncio.subprocess.Process] = []
    try:
        yield await _started(deployment, ports, folder, processes, sidecar_options)
    finally:
        for process in reversed(processes):
            await _stopped(process)
        shutil.rmtree(folder, ignore_errors=True)


async def _started(
    deployment: LocalDeployment,
    ports: LocalPorts,
    folder: Path,
    processes: list[asyncio.subprocess.Process],
    sidecar_options: Sequence[str],
) -> LocalServing:
    manifest, token, listening = folder / "deployment.json", secrets.token_hex(16), folder / "ports.json"
    manifest.write_bytes(msgspec.json.encode(deployment.document))
    (folder / "token").write_text(token)
    deployment.write_scripts(folder / "scripts")
    for index in range(0 if deployment.server is not None else deployment.runtimes):
        arguments = ["runtime", "--socket", str(folder / f"runtime-{index}.sock"), "--deployment", str(manifest)]
        processes.append(await _spawn(arguments, deployment))
    arguments = ["sidecar", "--deployment", str(manifest), "--ipc-dir", str(folder), "--host", ports.host]
    arguments += ["--http-port", str(ports.http), "--grpc-port", str(ports.grpc), "--control-port", str(ports.control)]
    arguments += ["--token-file", str(folder / "token"), "--scripts-dir", str(folder / "scripts")]
    arguments += ["--runtimes", str(deployment.runtimes), "--ready-file", str(listening)]
    if deployment.server is not None:
        arguments += ["--server-url", deployment.server.url, "--server-grpc", deployment.server.grpc]
    arguments += ["--linger-seconds", "0", "--drain-seconds", "8"]
    if (limit := container_limit_bytes()) and not any(each.startswith("--memory-bytes") for each in sidecar_options):
        arguments += ["--memory-bytes", str(limit - _runtimes_bytes(limit))]
    processes.append(await _spawn([*arguments, *sidecar_options], deployment))
    ended = _first_end(processes)
    found = await _listening(listening, ended)
    return LocalServing(
        host=ports.host, http=found["http"], grpc=found["grpc"], control=found["control"], token=token, ended=ended
    )


async def _spawn(arguments: Sequence[str], deployment: LocalDeployment) -> asyncio.subprocess.Process:
    """A process group of its own: a Ctrl-C in the terminal reaches the parent alone, which ends the others in order."""
    millis = int(os.environ.get(ENV_CPU_MILLIS) or 1000 * len(os.sched_getaffinity(0)))
    environment = {
        **os.environ,
        ENV_KIND: deployment.kind,
        ENV_CPU_MILLIS: str(max(1000, millis // deployment.runtimes)),
    }
    if deployment.memory_budget_bytes is not None:
        environment[ENV_MEMORY_BUDGET] = str(deployment.memory_budget_bytes)
    elif deployment.kind == KIND_CPU and (limit := container_limit_bytes()):
        environment.setdefault(ENV_MEMORY_BUDGET, str(_runtimes_bytes(limit) // deployment.runtimes))
    command = [sys.executable, "-m", "batchwright_worker", *arguments, "--parent", str(os.getpid())]
    return await asyncio.create_subprocess_exec(*command, env=environment, start_new_session=True)


def _runtimes_bytes(limit: int) -> int:
    """Of a container that all processes share, for models and batches; the rest is the sidecar's. In a pod each has a
    container, and a limit, of its own."""
    return limit // 4 * 3


def _first_end(processes: Sequence[asyncio.subprocess.Process]) -> asyncio.Future[str]:
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def watch(process: asyncio.subprocess.Process, what: str) -> None:
        code = await process.wait()
        if not ended.done():
            ended.set_result(f"the {what} ended with status {code}; its messages are above")

    watchers = [
        asyncio.create_task(watch(process, "sidecar" if process is processes[-1] else "runtime"))
        for process in processes
    ]
    ended.add_done_callback(lambda _: [watcher.cancel() for watcher in watchers])
    return ended


async def _listening(path: Path, ended: asyncio.Future[str]) -> dict[str, int]:
    """The ports, as soon as the sidecar has written them."""
    while (ports := _ports(path)) is None:
        if ended.done():
            raise LocalFailed(ended.result())
        await asyncio.sleep(0.02)
    return ports


def _ports(path: Path) -> dict[str, int] | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, int])
    except (OSError, msgspec.DecodeError):
        return None


async def _stopped(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _folder() -> Path:
    """A new folder in shared memory."""
    shared = Path("/dev/shm")  # noqa: S108 - tensors travel in it
    root = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
    return own_folder(root, _PREFIX)
