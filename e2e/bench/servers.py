"""Starting and stopping the servers: Batchwright by `batchwright-worker serve`, the peers as their users start them.

Every server gets the same core(s); all its processes inherit them. Nothing outlives the block, nor the bench itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil

from batchwright_worker.api.names import KIND_EMULATED
from batchwright_worker.backends.emulated_speed import ENV_EMULATED_SPEED
from e2e.bench.client.wire import Protocol
from e2e.bench.cpu import Part
from e2e.bench.device import Device
from e2e.bench.peers.model import ENV_MODEL, PeerModel
from e2e.cluster.machine.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (3, 32, 32)
_READY_S = 60.0


class ServerFailed(Exception):  # noqa: N818
    """It did not become ready or ended by itself; the message has its last words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """Which CPUs servers and load generators run on; empty: any."""

    server: tuple[int, ...] = ()
    client: tuple[int, ...] = ()

    @classmethod
    def apart(cls) -> Cores:
        """The server on the first, the client on the second, where there are two."""
        every = sorted(os.sched_getaffinity(0))
        return cls(server=(every[0],), client=(every[1],)) if len(every) > 1 else cls()

    def __str__(self) -> str:
        if not self.server:
            return "not pinned"
        return f"server on CPU {','.join(map(str, self.server))}, client on CPU {','.join(map(str, self.client))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server; `leader` is the process that started all its others. `speed`: the emulated device's file."""

    name: str
    protocol: Protocol
    port: int
    leader: int
    part: Part
    speed: Path

    def set_speed(self, device: Device) -> float:
        """Let the emulated device be this one from the next batch on; the moment of the change."""
        text = json.dumps(
            {
                "fixedMicroseconds": round(device.fixed_ms * 1000),
                "perRowMicroseconds": round(device.per_row_ms * 1000),
            }
        )
        new = self.speed.with_suffix(".new")
        new.write_text(text)
        new.replace(self.speed)
        return time.monotonic()

    def get(self, path: str) -> bytes:
        """Body of a GET."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as response:
            return bytes(response.read())


def emulated_model(name: str, device: Device, target_ms: int | None, **emulated: Any) -> dict[str, Any]:
    """A model of a ModelDeployment."""
    return {
        "name": name,
        "inputs": [{"name": "x", "datatype": "FP32", "shape": list(SHAPE)}],
        "artifacts": [
            {
                "accelerator": KIND_EMULATED,
                "format": "emulated",
                "emulated": {
                    "fixedMicroseconds": round(device.fixed_ms * 1000),
                    "perRowMicroseconds": round(device.per_row_ms * 1000),
                    **emulated,
                },
            }
        ],
        "batching": {"maxSize": device.max_size},
        **({"targets": {"latencyMilliseconds": target_ms}} if target_ms is not None else {}),
    }


def deployment(models: list[dict[str, Any]], **spec: Any) -> dict[str, Any]:
    """A ModelDeployment."""
    return {
        "apiVersion": "batchwright.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "bench"},
        "spec": {"models": models, **spec},
    }


@contextlib.contextmanager
def batchwright(manifest: Mapping[str, Any], cores: Cores, accelerator: str = KIND_EMULATED) -> Iterator[Server]:
    """`batchwright-worker serve`: sidecar and runtime as processes of their own."""
    with tempfile.TemporaryDirectory(prefix="batchwright-bench-") as scratch:
        path = Path(scratch) / "deployment.json"
        path.write_text(json.dumps(manifest))
        port = free_port()
        command = [sys.executable, "-m", "batchwright_worker", "serve", "-f", str(path), "--accelerator", accelerator]
        command += ["--http", str(port), "--grpc", "0"]
        with _started("Batchwright", command, {}, Path(scratch), cores) as (leader, speed):
            _await(port, "/v2/health/ready", leader, Path(scratch))
            yield Server(
                name="Batchwright", protocol="oip", port=port, leader=leader.pid, part=_batchwright_part, speed=speed
            )


@contextlib.contextmanager
def peer(protocol: Protocol, model: PeerModel, cores: Cores) -> Iterator[Server]:
    """Mosec or the plain greedy batcher."""
    port = free_port()
    name, command = {
        "mosec": ("Mosec", ["e2e.bench.peers.mosec_app", "--address", "127.0.0.1", "--port", str(port)]),
        "plain": ("plain greedy batcher", ["e2e.bench.peers.plain", str(port)]),
    }[protocol]
    environment = {ENV_MODEL: msgspec.json.encode(model).decode()}
    with tempfile.TemporaryDirectory(prefix="batchwright-bench-") as scratch:
        command = [sys.executable, "-m", *command]
        with _started(name, command, environment, Path(scratch), cores) as (leader, speed):
            _await(port, "/", leader, Path(scratch))
            yield Server(
                name=name, protocol=protocol, port=port, leader=leader.pid, part=lambda _: "server", speed=speed
            )


def peer_model(device: Device) -> PeerModel:
    """The emulated device for a peer."""
    return PeerModel(
        name="m",
        shape=list(SHAPE),
        fixed_microseconds=round(device.fixed_ms * 1000),
        per_row_microseconds=round(device.per_row_ms * 1000),
        max_size=device.max_size,
    )


@contextlib.contextmanager
def pinned(cpus: tuple[int, ...]) -> Iterator[None]:
    """Processes that are started in this block run on these CPUs."""
    before = os.sched_getaffinity(0)
    if cpus:
        os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def die_with_the_bench() -> None:
    """In the child, before exec: the kernel ends it when the bench dies."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)


@contextlib.contextmanager
def _started(
    name: str, command: list[str], environment: Mapping[str, str], scratch: Path, cores: Cores
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    speed, log = scratch / "speed.json", scratch / "log"
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    every = {**os.environ, **environment, ENV_EMULATED_SPEED: str(speed), "PYTHONPATH": path}
    with pinned(cores.server), log.open("wb") as output:
        leader = subprocess.Popen(
            command,
            env=every,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=die_with_the_bench,  # noqa: PLW1509 - the bench has one thread
        )
    try:
        yield leader, speed
        if leader.poll() is not None:
            raise ServerFailed(f"{name} ended with status {leader.returncode}:\n{_tail(scratch)}")
    finally:
        _stop(leader)


def _stop(leader: subprocess.Popen[bytes]) -> None:
    """SIGTERM, patience, then the whole family."""
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(leader.pid).children(recursive=True)
    leader.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        leader.wait(20)
    _, alive = psutil.wait_procs(family, timeout=3)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    leader.kill()
    leader.wait()


def _await(port: int, path: str, leader: subprocess.Popen[bytes], scratch: Path) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        if _answers(port, path):
            return
        if leader.poll() is not None:
            break
        time.sleep(0.05)
    raise ServerFailed(f"{' '.join(leader.args)} is not ready:\n{_tail(scratch)}")  # type: ignore[arg-type]


def _answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _tail(scratch: Path) -> str:
    return "\n".join((scratch / "log").read_text(errors="replace").splitlines()[-20:])


def _batchwright_part(command: list[str]) -> str:
    return next((part for part in ("sidecar", "runtime") if part in command), "serve")
