"""Where a deployment is served while it is measured: by processes of this machine, or in a pod of the embedded cluster.

Both give the address and a way to kill the runtime process that serves; everything else is the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import psutil

__all__ = ["HereServed", "LocalPlace", "Place", "Served", "cluster_place"]

_NAMESPACE: Final = "layerwise"
_CLAIM: Final = "layerwise-models"
Files = Mapping[str, Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A deployment that is ready to be asked (if not yet ready): where, and how its runtime is killed."""

    url: str
    kill: Callable[[], None]


HereServed = contextlib.AbstractAsyncContextManager[Served]


class Place(Protocol):
    """Serves ModelDeployments whose models' files are given."""

    @property
    def name(self) -> str:
        """As the figures tell it."""

    def uri(self, path: Path) -> str:
        """How a manifest names a file there."""

    def served(self, document: dict[str, Any]) -> HereServed:
        """Served within the block; nothing of it is left behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPlace:
    """Sidecar and runtime as processes, as `batchwright-worker serve` starts them."""

    name: str = "this machine"

    def uri(self, path: Path) -> str:
        """See `Place`."""
        return path.as_uri()

    @contextlib.asynccontextmanager
    async def served(self, document: dict[str, Any]) -> AsyncIterator[Served]:
        """See `Place`."""
        from batchwright_worker.local.deployment import local_deployment
        from batchwright_worker.local.processes import LocalPorts, served

        before = {child.pid for child in psutil.Process().children()}
        async with served(local_deployment([document], None, None, {}), LocalPorts()) as here:
            mine = [child for child in psutil.Process().children() if child.pid not in before]
            yield Served(url=here.url, kill=lambda: _kill_runtime(mine))


@contextlib.contextmanager
def cluster_place(files: Files, *, cpus: float) -> Iterator[Place]:
    """A cluster of one real node with the product installed and the files on a shared volume; taken down afterwards."""
    from e2e.cluster import Cluster, ClusterSpec, NodeSpec, kubectl_path
    from e2e.demo.kubectl import Kubectl, wait_for
    from e2e.demo.story import Story, say
    from e2e.demo.targets import OVERLAYS, build_archive

    archives = [build_archive(name, say) for name in ("operator", "worker")]
    node = NodeSpec(name="node", cpus=cpus, memory_bytes=6 << 30)
    with Cluster.up(ClusterSpec(name=f"layerwise-{os.getpid()}", nodes=(node,))) as cluster:
        cluster.load_image(*archives)
        kubectl = Kubectl(binary=kubectl_path(), kubeconfig=cluster.kubeconfig)
        story = Story(kubectl=kubectl, overlay=OVERLAYS / "embedded", build="-".join(a.stem[-8:] for a in archives))
        story.install()
        kubectl.run("apply", "--server-side", "-f", "-", stdin="\n---\n".join(map(json.dumps, _volume(files))))

        def bound() -> str | None:
            claim = kubectl.find("pvc", _CLAIM, "-n", _NAMESPACE) or {}
            return (claim.get("spec") or {}).get("volumeName")

        volume = wait_for(bound, what="the volume of the models", timeout_s=60)
        folder = Path(kubectl.json("get", "pv", volume)["spec"]["hostPath"]["path"])
        for path in files.values():
            for each in path.parent.glob(f"{path.name}*"):
                (folder / each.name).write_bytes(each.read_bytes())
                (folder / each.name).chmod(0o644)
        story.await_benchmarks()
        yield _ClusterPlace(kubectl=kubectl)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ClusterPlace:
    kubectl: Any
    name: str = "the embedded cluster"

    def uri(self, path: Path) -> str:
        """See `Place`."""
        return f"pvc://{_CLAIM}/{path.name}"

    @contextlib.asynccontextmanager
    async def served(self, document: dict[str, Any]) -> AsyncIterator[Served]:
        """See `Place`. The one pod that there is, by its own address."""
        name = document["metadata"]["name"]
        document = {**document, "metadata": {"name": name, "namespace": _NAMESPACE}}
        self.kubectl.run("apply", "--server-side", "-f", "-", stdin=json.dumps(document))
        try:
            pod = self._pod(name)
            family = [psutil.Process(pid) for pid in _pids_of(pod["metadata"]["uid"])]
            yield Served(url=f"http://{pod['status']['podIP']}:8000", kill=lambda: _kill_runtime(family))
        finally:
            gone = ("delete", "modeldeployment", name, "-n", _NAMESPACE, "--ignore-not-found", "--timeout=120s")
            self.kubectl.run(*gone, timeout_s=150)

    def _pod(self, name: str) -> dict[str, Any]:
        from e2e.demo.kubectl import condition, wait_for

        def ready() -> dict[str, Any] | None:
            selector = f"batchwright.dev/deployment={name},app.kubernetes.io/component=model"
            pods = self.kubectl.json("get", "pods", "-n", _NAMESPACE, "-l", selector)["items"]
            return next((pod for pod in pods if condition(pod, "Ready").get("status") == "True"), None)

        def seen() -> str:
            return json.dumps((self.kubectl.find("modeldeployment", name, "-n", _NAMESPACE) or {}).get("status"))[:2000]

        return wait_for(ready, what=f"a ready pod of {name}", timeout_s=180, seen=seen)


def _volume(files: Files) -> list[dict[str, Any]]:
    size = sum(path.stat().st_size for path in files.values()) >> 20
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    claim = {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "batchwright-shared",
        "resources": {"requests": {"storage": f"{min(size, 100)}Mi"}},
    }
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _NAMESPACE, "labels": labels}},
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": _CLAIM, "namespace": _NAMESPACE},
            "spec": claim,
        },
    ]


def _pids_of(uid: str) -> list[int]:
    """All processes of a pod, by its cgroup."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        with contextlib.suppress(OSError):
            text = path.read_text()
            if uid in text or uid.replace("-", "_") in text:
                found.append(int(path.parent.name))
    return found


def _kill_runtime(processes: list[psutil.Process]) -> None:
    """Kill, with no warning, the runtime process that serves: the child of a supervisor with a sidecar's connection."""
    for supervisor in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            children = supervisor.children() if "runtime" in supervisor.cmdline() else []
            connected = [child for child in children if len(child.net_connections(kind="unix")) > 1]
            if connected or children:
                os.kill((connected or children)[0].pid, signal.SIGKILL)
                return
    raise RuntimeError("no runtime process was found to be killed")
