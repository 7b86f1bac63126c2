"""The bed: a real control plane, simulated nodes with seeded profiles, and the operator as users run it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from batchwright_worker.api.names import LABEL_BENCHMARK_OPT_OUT
from e2e.cluster import ApiError, ControlPlane, kubectl_path, kwok
from e2e.cluster.control_plane import audit
from e2e.cluster.machine import processes
from e2e.cluster.machine.processes import Process

ROOT = Path(__file__).resolve().parents[3]
IMAGE = "localhost/batchwright-worker:dev"
"""Of pods that no node runs here; there are no agents to take it from."""
SYSTEM = "batchwright-system"
USER = f"system:serviceaccount:{SYSTEM}:batchwright-operator"
GROUP = "/apis/batchwright.dev/v1alpha1"
SPACES = ("one", "two", "three")
"""Namespaces of tenants; the first holds whatever needs only one."""
LOCAL_NETWORK = "127.64.0.0/16"
"""Addresses of this machine, so that a server here can answer for all pods that have them."""
_CONTROLLERS = (
    *kwok.CONTROLLER_MANAGER_ARGS,
    "--concurrent-deployment-syncs=16",
    "--concurrent-replicaset-syncs=16",
    "--concurrent-gc-syncs=20",
)


@dataclass(slots=True, kw_only=True)
class OperatorProcess:
    """A running operator, seen from outside."""

    process: subprocess.Popen[bytes]
    log: Path
    began: float

    def text(self) -> str:
        """What it logged."""
        return self.log.read_text(errors="replace")

    def cpu_s(self) -> float:
        """Seconds of CPU so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def resident_mib(self) -> float:
        """Resident memory."""
        return float(psutil.Process(self.process.pid).memory_info().rss / 2**20)

    def peak_mib(self) -> float:
        """The most that was ever resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) / 1024  # type: ignore[union-attr]

    def metrics(self) -> dict[str, float]:
        """Its /metrics: name with labels -> value; empty while it does not answer."""
        found = re.search(r"probes on port (\d+)", self.text())
        if not found:
            return {}
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"http://127.0.0.1:{found.group(1)}/metrics", timeout=10) as answer:
                lines = answer.read().decode().splitlines()
            pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
            return {name: float(value) for name, _, value in pairs}
        return {}

    def lost_leads(self) -> int:
        """How often it stopped leading."""
        return self.text().count("no longer leading")

    def silence(self) -> Silence:
        """Of its event loop since it began to lead, as it measured itself."""
        found = self.metrics()
        names = ("longest_silence", "most_cpu")
        wall_s, cpu_s = (found.get(f"batchwright_event_loop_{name}_seconds", float("nan")) for name in names)
        return Silence(wall_s=wall_s, cpu_s=cpu_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """The longest silence of an event loop, and the most CPU that it used without a pause: on a machine that others use
    too, the difference is theirs."""

    wall_s: float
    cpu_s: float

    @property
    def is_short(self) -> bool:
        """Would it be at most 100 ms on a machine of its own?"""
        return min(self.wall_s, self.cpu_s) <= 0.1

    def __str__(self) -> str:
        return f"silence {self.wall_s * 1e3:.0f} ms, {self.cpu_s * 1e3:.0f} of its own"


@dataclass(slots=True, kw_only=True)
class Bed:
    """What the cases work with. `quick`: fewer pods."""

    plane: ControlPlane
    folder: Path
    quick: bool
    say: Callable[[str], None]
    bed_rate: float = 0.0
    """Pods per second that this cluster schedules without us, once measured."""
    _number: int = 0
    _kwok: Process | None = None

    def simulate(self, nodes: int) -> None:
        """This many nodes, Ready, and pods that run there."""
        self._kwok = kwok.start(self.plane)
        kwok.add_nodes(self.api, nodes, labels={LABEL_BENCHMARK_OPT_OUT: "true"})

    @contextlib.contextmanager
    def local_pods(self) -> Iterator[None]:
        """Pods that are made in the block have addresses of this machine. Only those that must be reached: the API
        server refuses loopback addresses in EndpointSlices, and the controllers that write them would try for ever."""
        assert self._kwok is not None
        processes.stop([self._kwok], grace_s=5.0)
        self._kwok = kwok.start(self.plane, cidr=LOCAL_NETWORK)
        try:
            yield
        finally:
            processes.stop([self._kwok], grace_s=5.0)
            self._kwok = kwok.start(self.plane)

    @property
    def api(self) -> Any:
        """The administrator's client."""
        return self.plane.api

    @contextlib.contextmanager
    def operator(self, **environ: str) -> Iterator[OperatorProcess]:
        """The operator with the rights of its manifests, until the block ends."""
        self._number += 1
        log = self.folder / f"operator-{self._number}.log"
        path = os.pathsep.join(str(ROOT / part) for part in ("operator", "worker"))
        # As in the image, where everything is compiled once: else each start would compile a thousand modules.
        compiled = {"PYTHONPYCACHEPREFIX": str(self.folder / "compiled"), "PYTHONDONTWRITEBYTECODE": ""}
        environment = {**os.environ, "PYTHONPATH": path, "BATCHWRIGHT_WORKER_IMAGE": IMAGE, **compiled, **environ}
        kubeconfig = self.plane.kubeconfig_for(USER, "system:serviceaccounts")
        command = [sys.executable, "-m", "batchwright_operator", "run", "--kubeconfig", str(kubeconfig)]
        command += ["--metrics-port", "0", "--namespace", SYSTEM]
        began = time.monotonic()
        with log.open("wb") as file, subprocess.Popen(command, env=environment, stdout=file, stderr=file) as process:
            try:
                yield OperatorProcess(process=process, log=log, began=began)
            finally:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()

    def writes(self, since: datetime) -> list[audit.Write]:
        """The operator's writes, Leases aside."""
        found = audit.writes(self.plane.audit_log_path, user=USER, since=since)
        return [one for one in found if one.resource != "leases"]

    def add_deployments(self, count: int, replicas: int, *, prefix: str, spaces: tuple[str, ...] = SPACES[:1]) -> None:
        """ModelDeployments with different names, several at a time."""

        def one(number: int) -> None:
            body = model_deployment(f"{prefix}{number}", replicas)
            self.api.request("POST", collection(spaces[number % len(spaces)]), body)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, range(count)))

    def clean(self) -> None:
        """Until no ModelDeployment and no pod is left. Raises TimeoutError."""
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            left = 0
            for space in SPACES:
                deployments = f"/apis/apps/v1/namespaces/{space}/deployments"
                sets, pods = deployments.replace("deployments", "replicasets"), f"/api/v1/namespaces/{space}/pods"
                for path in (collection(space), deployments, sets, f"{pods}?gracePeriodSeconds=0"):
                    with contextlib.suppress(ApiError, OSError):
                        self.api.delete(path)
                with contextlib.suppress(OSError):
                    for path in (collection(space), pods):
                        found = self.api.get(f"{path}?limit=1")
                        left += len(found["items"])
            if not left:
                return
            time.sleep(1)
        raise TimeoutError("objects of the last case are still there after 180 s")


@contextlib.contextmanager
def made(folder: Path, *, nodes: int, quick: bool, say: Callable[[str], None]) -> Iterator[Bed]:
    """A bed with this many simulated nodes of equal speed."""
    with ControlPlane.start("scale", controller_manager_args=_CONTROLLERS) as plane:
        bed = Bed(plane=plane, folder=folder, quick=quick, say=say)
        install(plane)
        if nodes:
            say(f"{nodes} simulated nodes")
            seed_profiles(plane, [f"kwok-{number:04d}" for number in range(nodes)])
            bed.simulate(nodes)
            _settle(bed, nodes)
        yield bed


def _settle(bed: Bed, nodes: int) -> None:
    """Until the operator has made the seeded profiles its own: it is not new in this cluster."""
    with bed.operator():
        deadline, since = time.monotonic() + 120, datetime.now(UTC)
        while time.monotonic() < deadline:
            time.sleep(3)
            written, since = len(bed.writes(since)), datetime.now(UTC)
            profiles = bed.api.get(f"{GROUP}/acceleratorprofiles")["items"]
            if not written and sum("conditions" in (one.get("status") or {}) for one in profiles) == nodes:
                return
    raise TimeoutError("the operator does not come to rest in 120 s")


def install(plane: ControlPlane) -> None:
    """CRDs, rights, admission and flow control of the product; the tenants' namespaces."""
    kubectl(plane, "apply", "--server-side", "-f", str(ROOT / "crds"))
    kubectl(plane, "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
    for name in ("namespaces", "rbac", "admission", "flowcontrol"):
        file = ROOT / "manifests" / "base" / f"{name}.yaml"
        if file.exists():
            kubectl(plane, "apply", "--server-side", "-f", str(file))
    for name in SPACES:
        plane.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    accounts = [f"/api/v1/namespaces/{name}/serviceaccounts/default" for name in SPACES]
    while not all(map(plane.api.exists, accounts)):
        time.sleep(0.1)


def seed_profiles(plane: ControlPlane, names: list[str]) -> None:
    """An AcceleratorProfile per node, as a benchmark would have left it."""
    row = {"batchSize": 8, "imagesPerSecond": "100", "maxServices": 8}
    processor = {"kind": "cpu", "capacityImagesPerSecond": "100", "loadTable": [row], "reason": "Benchmarked"}
    head = {"apiVersion": "batchwright.dev/v1alpha1", "kind": "AcceleratorProfile"}

    def one(name: str) -> None:
        plane.api.request("POST", f"{GROUP}/acceleratorprofiles", {**head, "metadata": {"name": name}})
        plane.api.patch(f"{GROUP}/acceleratorprofiles/{name}/status", {"status": {"processors": [processor]}})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, names))


def kubectl(plane: ControlPlane, *arguments: str) -> None:
    """kubectl against this API server; what it complains of ends the bench."""
    command = [str(kubectl_path()), "--kubeconfig", str(plane.kubeconfig), *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def collection(namespace: str) -> str:
    """Path of the ModelDeployments of a namespace."""
    return f"{GROUP}/namespaces/{namespace}/modeldeployments"


def model_deployment(name: str, replicas: int) -> dict[str, Any]:
    """A ModelDeployment for CPUs that needs no files."""
    model = {
        "name": "echo",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [4]}],
        "outputs": [{"name": "argmax", "datatype": "INT64", "shape": [1]}],
        "artifacts": [
            {"accelerator": "cpu", "format": "emulated", "emulated": {"fixedMicroseconds": 1, "perRowMicroseconds": 1}}
        ],
    }
    small = {"requests": {"cpu": "20m", "memory": "64Mi"}}
    spec = {"replicas": replicas, "models": [model], "runtimes": [{"accelerator": "cpu", "resources": small}]}
    return {
        "apiVersion": "batchwright.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": spec,
    }
