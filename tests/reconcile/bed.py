"""A real API server, the fault proxy, and the operator as the process that users run."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from e2e.cluster import ApiError, ControlPlane, kubectl_path
from e2e.cluster.control_plane import audit
from e2e.faultproxy import FaultProxy

ROOT = Path(__file__).parents[2]
OBJECTS = "/apis/batchwright.dev/v1alpha1/namespaces/default/modeldeployments"
CHILDREN = "/api/v1/namespaces/default/configmaps?labelSelector=batchwright.dev/deployment"
SYSTEM = "batchwright-system"
QUIET_S = 5.0
"""How long nothing may be written; a resync happens twice meanwhile."""
LOOK_S = 0.1
PATIENCE = 3.0
ENVIRONMENT = {"BATCHWRIGHT_RESYNC_SECONDS": "2", "BATCHWRIGHT_RECONCILERS": '["echo_reconciler:EchoReconciler"]'}


_PORT = re.compile(r"probes on port (\d+)")


@dataclass(slots=True, kw_only=True)
class OperatorProcess:
    """A running `batchwright-operator run`."""

    process: subprocess.Popen[bytes]
    log: Path

    def text(self) -> str:
        """What it logged."""
        return self.log.read_text()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to it."""
        self.process.send_signal(number)

    def serves_metrics(self) -> bool:
        """Whether it has come so far."""
        return _PORT.search(self.text()) is not None

    def metrics(self) -> str:
        """Its /metrics."""
        found = _PORT.search(self.text())
        assert found, self.text()
        connection = http.client.HTTPConnection("127.0.0.1", int(found.group(1)), timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()


@dataclass(slots=True, kw_only=True)
class Bed:
    """What a test works with."""

    plane: ControlPlane
    folder: Path
    _started: int = field(default=0)
    _running: list[OperatorProcess] = field(default_factory=list)

    @property
    def api(self) -> Any:
        """The administrator's client."""
        return self.plane.api

    @contextlib.contextmanager
    def proxy(self, user: str) -> Iterator[FaultProxy]:
        """A fault proxy that speaks as this user."""
        pair = self.plane.authority.client(user, user, "system:masters")
        with FaultProxy.start(
            self.plane.server_url, ca=self.plane.ca_path, cert=pair.certificate, key=pair.key
        ) as proxy:
            yield proxy

    @contextlib.contextmanager
    def operator(
        self, user: str = "operator", *, proxy: FaultProxy | None = None, expect: str = "$^", **environ: str
    ) -> Iterator[OperatorProcess]:
        """The operator, straight or through a proxy. At the end it must stop by itself, and its log must hold no
        error but those that match `expect`."""
        self._started += 1
        log = self.folder / f"{user}-{self._started}.log"
        kubeconfig = self.plane.kubeconfig_for(user, "system:masters")
        if proxy:
            kubeconfig = proxy.kubeconfig(self.folder / f"{user}-{self._started}.yaml")
        command = [sys.executable, "-m", "batchwright_operator", "run", "--kubeconfig", str(kubeconfig)]
        path = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": path, **environ}
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*command, "--metrics-port", "0", "--namespace", SYSTEM], env=environment, stderr=file, cwd=ROOT
            )
        started = OperatorProcess(process=process, log=log)
        self._running.append(started)
        try:
            yield started
            if process.poll() is None:
                stop(process)
        finally:
            self._running.remove(started)
            process.kill()
            process.wait()
        errors = [line for line in log.read_text().splitlines() if re.search(r" ERROR |Traceback", line)]
        assert not [line for line in errors if not re.search(expect, line)], log.read_text()[-3000:]

    def create(self, count: int, prefix: str = "m") -> None:
        """Makes this many objects, several at a time."""

        def one(number: int) -> None:
            artifact = {"format": "onnx", "uri": "pvc://models/a.onnx"}
            body = {
                "apiVersion": "batchwright.dev/v1alpha1",
                "kind": "ModelDeployment",
                "metadata": {"name": f"{prefix}{number}"},
                "spec": {"replicas": 1, "models": [{"name": "a", "artifacts": [artifact]}]},
            }
            self.api.request("POST", OBJECTS, body)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, range(count)))

    def change(self, count: int, replicas: int, prefix: str = "m") -> None:
        """Changes the spec of this many objects."""
        with ThreadPoolExecutor(8) as pool:
            list(
                pool.map(
                    lambda n: self.api.patch(f"{OBJECTS}/{prefix}{n}", {"spec": {"replicas": replicas}}), range(count)
                )
            )

    def unsettled(self, count: int) -> list[str]:
        """The objects whose children or status are not what their spec says."""
        objects = self.api.get(OBJECTS)["items"]
        maps = self.api.get("/api/v1/namespaces/default/configmaps")["items"]
        config = {one["metadata"]["name"]: one.get("data") or {} for one in maps}
        wrong = [one["metadata"]["name"] for one in objects if not _settled(one, config)]
        return wrong + ["missing"] * (count - len(objects))

    def converge(self, count: int, within_s: float) -> float:
        """Waits until every object is settled; how long that took."""
        started = time.monotonic()
        wait(lambda: not self.unsettled(count), within_s, lambda: f"not settled: {self.unsettled(count)[:5]}")
        return time.monotonic() - started

    def writes(self, user: str = "operator", since: datetime | None = None) -> list[audit.Write]:
        """Writes of this user, Leases aside."""
        found = audit.writes(self.plane.audit_log_path, user=user, since=since)
        return [one for one in found if one.resource != "leases"]

    def settle(self, user: str = "operator", calm_s: float = 1.5) -> None:
        """Waits until the last Events are out: nothing written for a while, in which everybody was at work. A process
        that is held up writes nothing either."""
        alive_s, since = 0.0, datetime.now(UTC)
        last = since

        def calm() -> bool:
            nonlocal alive_s, since, last
            self._answers()
            before, last = last, datetime.now(UTC)
            alive_s += min((last - before).total_seconds(), 3 * LOOK_S)
            if self.writes(user, since):
                alive_s, since = 0.0, last
            return alive_s > calm_s

        wait(calm, 30, lambda: f"still writing: {self.writes(user)[-5:]}")

    def _answers(self) -> None:
        """Returns when the API server and every operator that serves its metrics have answered."""
        self.api.get("/api/v1/namespaces/default")
        for each in self._running:
            if each.process.poll() is None and each.serves_metrics():
                each.metrics()

    def assert_silent(self, user: str = "operator", quiet_s: float = QUIET_S, calm_s: float = 1.5) -> None:
        """Nothing at all is written for this long, once the last Events are out (`calm_s` without a write)."""
        self.settle(user, calm_s)
        since = datetime.now(UTC)
        time.sleep(quiet_s)
        found = Counter((one.verb, one.resource, one.name) for one in self.writes(user, since))
        assert not found, f"written at steady state: {found.most_common(5)}"

    def clean(self) -> None:
        """Removes all objects and their children."""
        self.api.delete(OBJECTS)
        self.api.delete(CHILDREN)
        self.api.delete(CHILDREN.replace("/api/v1/", "/apis/apps/v1/").replace("configmaps", "deployments"))
        with contextlib.suppress(ApiError):
            self.api.delete(f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/batchwright-operator")


def _settled(obj: dict[str, Any], config: dict[str, dict[str, str]]) -> bool:
    status, generation = obj.get("status") or {}, obj["metadata"]["generation"]
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions") or ())
    data = config.get(f"{obj['metadata']['name']}-echo", {})
    return bool(
        ready
        and status["observedGeneration"] == generation
        and status["replicas"] == obj["spec"]["replicas"]
        and data == {"generation": str(generation), "replicas": str(obj["spec"]["replicas"])}
    )


def prepare(plane: ControlPlane, *more: str) -> None:
    """Our CRDs, the operator's namespace, and more namespaces in which pods can be made."""
    command = [str(kubectl_path()), "--kubeconfig", str(plane.kubeconfig), "apply", "--server-side", "-f", "crds"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    for name in (SYSTEM, *more):
        plane.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    accounts = [f"/api/v1/namespaces/{name}/serviceaccounts/default" for name in (SYSTEM, *more) if more]
    wait(lambda: all(map(plane.api.exists, accounts)), 20, lambda: "no service accounts")
    names = ("modeldeployments", "inferencejobs", "acceleratorprofiles")
    kinds = [f"/apis/batchwright.dev/v1alpha1/{name}" for name in names]
    wait(lambda: all(map(plane.api.exists, kinds)), 20, lambda: "the CRDs are not served")


def wait(met: Callable[[], bool], within_s: float, why: Callable[[], str]) -> None:
    """Waits for something that only a server can tell. `within_s` is for a machine of its own; the suite shares one."""
    deadline = time.monotonic() + PATIENCE * within_s
    while not met():
        assert time.monotonic() < deadline, why()
        time.sleep(LOOK_S)


def stop(process: subprocess.Popen[bytes], within_s: float = 60.0) -> float:
    """SIGTERM; how long it took."""
    started = time.monotonic()
    process.terminate()
    assert process.wait(within_s) == 0
    return time.monotonic() - started


def moment_ago() -> datetime:
    """Now, with room for rounding."""
    return datetime.now(UTC) - timedelta(milliseconds=1)
