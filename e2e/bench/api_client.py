"""What the operator makes of an API server: rates, recovery from faults, start, memory; beside another revision's.

    git worktree add /tmp/before REVISION
    python -m e2e.bench operator --before /tmp/before [--rounds 3] [--json FILE]

Each side is the operator as it is shipped, a process of its own, against a real API server with that side's CRDs; the
sides take turns within each round. What is measured is seen from outside: by the audit log, the objects, /proc.

gates/s      gated pods that wait when it starts, on four nodes with profiles: from its first patch of a pod to its last
writes/s     ModelDeployments that wait when it starts: its applies of children and status, from the first to the last
CPU          of its process per gate and per write, between the same moments: other load disturbs it least
503          everything refused for 6 s and watches broken; a change made meanwhile is settled so long after the end
410          each watch that has something to say says that its version is too old; so long after a change
silence      watches fall silent instead of telling of a change (the limit for silence is 3 s); so long after the change
start        from the command to the first status that it writes; memory: resident, once all objects are settled
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from e2e.cluster import ControlPlane, kubectl_path
from e2e.cluster.control_plane import audit
from e2e.faultproxy import FaultProxy, Rule

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "localhost/batchwright-worker:dev"
"""Of pods that no node runs here; there are no agents to take it from."""
SYSTEM = "batchwright-system"
USER = "operator"
GROUP = "/apis/batchwright.dev/v1alpha1"
OBJECTS = f"{GROUP}/namespaces/default/modeldeployments"
PODS = "/api/v1/namespaces/default/pods"
GATED = 300
DEPLOYMENTS = 150
EVERYTHING = ["create", "update", "patch", "delete", "get", "list", "continue", "watch"]
BREAK_WATCHES: Rule = {"verbs": ["watch"], "dropNow": True}
FAULTS: Mapping[str, tuple[float, Sequence[Rule]]] = {
    "503": (6.0, [{"verbs": EVERYTHING, "notPath": "/leases", "status": 503}, BREAK_WATCHES]),
    "410": (0.0, [{"verbs": ["watch"], "gone": True}]),
    "silence": (0.0, [{"verbs": ["watch"], "stall": True}]),
}
_ALL_WATCHES_S = 1.0  # within which a change has come to every watch that is to be hit


class StillWaitingError(RuntimeError):
    """A state did not come in time; the message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One revision: its checkout, and an API server of its own with its CRDs."""

    name: str
    checkout: Path
    plane: ControlPlane

    @contextlib.contextmanager
    def operator(self, kubeconfig: Path, log: Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
        """The operator of this checkout, until the block ends."""
        path = os.pathsep.join(str(self.checkout / part) for part in ("operator", "worker"))
        environment = {**os.environ, "PYTHONPATH": path, "BATCHWRIGHT_WORKER_IMAGE": IMAGE, **environ}
        command = [sys.executable, "-m", "batchwright_operator", "run", "--kubeconfig", str(kubeconfig)]
        command += ["--metrics-port", "0", "--namespace", SYSTEM]
        with log.open("ab") as file, subprocess.Popen(command, env=environment, stdout=file, stderr=file) as process:
            try:
                yield process
            finally:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()

    @property
    def kubeconfig(self) -> Path:
        """Straight to the API server, as a user that the audit log knows."""
        return self.plane.kubeconfig_for(USER, "system:masters")

    def writes(self, since: datetime) -> list[audit.Write]:
        """The operator's writes, Leases and Events aside."""
        found = audit.writes(self.plane.audit_log_path, user=USER, since=since)
        return [one for one in found if one.resource not in ("leases", "events")]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, default=None, help="checkout of another revision; default: none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None, help="write the rounds to this file")
    args = parser.parse_args()
    checkouts = {**({"before": args.before.resolve()} if args.before else {}), "now": ROOT}
    rounds: list[dict[str, dict[str, float]]] = []
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory(prefix="batchwright-operator-") as scratch:
        sides = [stack.enter_context(started(name, checkout)) for name, checkout in checkouts.items()]
        for number in range(args.rounds):
            rounds.append({side.name: measured(side, Path(scratch)) for side in sides[:: (-1) ** number]})
            print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    show(rounds)
    if args.json is not None:
        args.json.write_text(json.dumps(rounds, indent=1))


@contextlib.contextmanager
def started(name: str, checkout: Path) -> Iterator[Side]:
    """An API server with four idle nodes of known speed; pods are created as fast as it can."""
    options = ["--node-monitor-grace-period=24h", "--kube-api-qps=500", "--kube-api-burst=500"]
    with ControlPlane.start(f"bench-{name}", scheduler=False, controller_manager_args=options) as plane:
        kubectl(plane, "apply", "--server-side", "-f", str(checkout / "crds"))
        kubectl(plane, "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
        for namespace in (SYSTEM, "batchwright-agent"):
            plane.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        for node in ("a", "b", "c", "d"):
            add_node(plane, node)
        yield Side(name=name, checkout=checkout, plane=plane)


def kubectl(plane: ControlPlane, *arguments: str) -> None:
    """kubectl against this API server; what it complains of ends the bench."""
    command = [str(kubectl_path()), "--kubeconfig", str(plane.kubeconfig), *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def add_node(plane: ControlPlane, name: str) -> None:
    """A Ready node without a kubelet, whose CPU has a profile."""
    row = {"batchSize": 8, "imagesPerSecond": "100", "maxServices": GATED}
    processor = {"kind": "cpu", "capacityImagesPerSecond": "100", "loadTable": [row], "reason": "Benchmarked"}
    profile = {"apiVersion": "batchwright.dev/v1alpha1", "kind": "AcceleratorProfile", "metadata": {"name": name}}
    plane.api.request("POST", f"{GROUP}/acceleratorprofiles", profile)
    plane.api.patch(f"{GROUP}/acceleratorprofiles/{name}/status", {"status": {"processors": [processor]}})
    labels = {"kubernetes.io/hostname": name, "batchwright.dev/benchmark-opt-out": "true"}
    plane.api.request("POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": labels}})
    amounts = {"cpu": "64", "memory": "256Gi", "pods": str(GATED)}
    status = {"allocatable": amounts, "capacity": amounts, "conditions": [{"type": "Ready", "status": "True"}]}
    plane.api.patch(f"/api/v1/nodes/{name}/status", {"status": status}, how="strategic")
    plane.api.patch(f"/api/v1/nodes/{name}", {"spec": {"taints": None}})


def measured(side: Side, scratch: Path) -> dict[str, float]:
    """All figures of one side, once. The objects are removed afterwards."""
    log = scratch / f"{side.name}.log"
    try:
        found = gates(side, log) | rates(side, log) | recoveries(side, log, scratch)
    except StillWaitingError as error:
        raise SystemExit(f"{side.name}: {error}\n{log.read_text()[-2000:]}") from error
    clean(side)
    return found


def gates(side: Side, log: Path) -> dict[str, float]:
    """Pods placed per second, of those that wait when the operator starts."""
    add_deployment(side, "gated", replicas=GATED)
    with side.operator(side.kubeconfig, log):
        until(lambda: side.plane.api.exists("/apis/apps/v1/namespaces/default/deployments/gated-cpu"), "a Deployment")
    forget_places(side)
    since = datetime.now(UTC)
    with side.operator(side.kubeconfig, log) as process:
        until(lambda: len(gated(side)) < GATED, "a first pod placed", every_s=0.02)
        cpu_s = -spent(process)
        placed = placements(side, since)
        until(lambda: not gated(side), f"{GATED} pods placed")
        cpu_s += spent(process)
    placed_then, placed = placed, placements(side, since)
    clean(side)
    return {"gates/s": per_second(placed), "CPU ms/gate": 1e3 * cpu_s / max(1, len(placed) - len(placed_then))}


def placements(side: Side, since: datetime) -> list[datetime]:
    """When each pod was placed."""
    return [one.at for one in side.writes(since) if one.resource == "pods" and one.verb == "patch"]


def spent(process: subprocess.Popen[bytes]) -> float:
    """Seconds of CPU that the process has used."""
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


def forget_places(side: Side) -> None:
    """Until all pods are there and wait: those that were placed before the operator ended are made anew."""

    def waiting() -> bool:
        for pod in side.plane.api.get(PODS)["items"]:
            if not pod["spec"].get("schedulingGates"):
                side.plane.api.delete(f"{PODS}/{pod['metadata']['name']}?gracePeriodSeconds=0")
        return len(gated(side)) == GATED

    until(waiting, f"{GATED} gated pods")


def gated(side: Side) -> list[str]:
    """Names of the pods that wait for a place."""
    pods = side.plane.api.get(PODS)["items"]
    return [pod["metadata"]["name"] for pod in pods if pod["spec"].get("schedulingGates")]


def rates(side: Side, log: Path) -> dict[str, float]:
    """Writes per second for objects that wait when the operator starts; its start and its memory."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: add_deployment(side, f"m{number}", replicas=1), range(DEPLOYMENTS)))
    since, began = datetime.now(UTC), time.monotonic()
    with side.operator(side.kubeconfig, log) as process:
        until(lambda: len(unsettled(side)) < DEPLOYMENTS, "a first status", every_s=0.02)
        start_s = time.monotonic() - began
        cpu_s, early = -spent(process), len(applies(side, since))
        until(lambda: not unsettled(side), f"{DEPLOYMENTS} settled")
        cpu_s += spent(process)
        written = applies(side, since)
        memory = psutil.Process(process.pid).memory_info().rss / 2**20
    clean(side)
    cpu_ms = 1e3 * cpu_s / max(1, len(written) - early)
    return {"writes/s": per_second(written), "CPU ms/write": cpu_ms, "start s": start_s, "memory MiB": memory}


def applies(side: Side, since: datetime) -> list[datetime]:
    """When each child and each status was written."""
    return [one.at for one in side.writes(since) if one.verb == "patch" and one.resource != "pods"]


def recoveries(side: Side, log: Path, scratch: Path) -> dict[str, float]:
    """Seconds from the end of 503, and from the change of the others, until the change is settled."""
    pair = side.plane.authority.client(USER, USER, "system:masters")
    files = {"ca": side.plane.ca_path, "cert": pair.certificate, "key": pair.key}
    add_deployment(side, "probe", replicas=1)
    found = {}
    with (
        FaultProxy.start(side.plane.server_url, **files) as proxy,
        side.operator(proxy.kubeconfig(scratch / f"{side.name}.yaml"), log, BATCHWRIGHT_WATCH_STALE_SECONDS="3"),
    ):
        until(lambda: not unsettled(side), "the probe settled")
        for replicas, (name, (faulty_s, rules)) in enumerate(FAULTS.items(), start=2):
            time.sleep(3)  # until it is silent
            proxy.set(*rules)
            side.plane.api.patch(f"{OBJECTS}/probe", {"spec": {"replicas": replicas}})
            began = time.monotonic()
            if faulty_s:
                time.sleep(faulty_s)
                proxy.set()
                began = time.monotonic()
            else:  # a stream that has fallen silent stays so; those that are opened later work
                lifting = threading.Timer(_ALL_WATCHES_S, proxy.set)
                lifting.start()
            until(lambda: not unsettled(side), f"settled after {name}", every_s=0.02)
            found[f"{name} s"] = time.monotonic() - began
    return found


def add_deployment(side: Side, name: str, *, replicas: int) -> None:
    """A ModelDeployment for CPUs that needs no files."""
    emulated = {"fixedMicroseconds": 1000, "perRowMicroseconds": 1000}
    model = {
        "name": "echo",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [4]}],
        "outputs": [{"name": "argmax", "datatype": "INT64", "shape": [1]}],
        "artifacts": [{"accelerator": "cpu", "format": "emulated", "emulated": emulated}],
    }
    small = {"requests": {"cpu": "20m", "memory": "64Mi"}}
    body = {
        "apiVersion": "batchwright.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "models": [model], "runtimes": [{"accelerator": "cpu", "resources": small}]},
    }
    side.plane.api.request("POST", OBJECTS, body)


def unsettled(side: Side) -> list[str]:
    """Names of the ModelDeployments whose status is of an older spec."""
    return [
        one["metadata"]["name"]
        for one in side.plane.api.get(OBJECTS)["items"]
        if (one.get("status") or {}).get("observedGeneration") != one["metadata"]["generation"]
    ]


def clean(side: Side) -> None:
    """Until no ModelDeployment and no pod is left."""

    def gone() -> bool:
        for path in (OBJECTS, f"{PODS}?gracePeriodSeconds=0"):
            side.plane.api.delete(path)
        return not any(side.plane.api.get(path)["items"] for path in (OBJECTS, PODS))

    until(gone, "no pod left", every_s=1)


def until(met: Callable[[], bool], what: str, *, within_s: float = 120, every_s: float = 0.1) -> None:
    """Returns once it is so; a call that the API server does not answer in time says no. Raises StillWaitingError."""
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(OSError):
            if met():
                return
        if time.monotonic() > deadline:
            raise StillWaitingError(f"not within {within_s:.0f} s: {what}")
        time.sleep(every_s)


def per_second(moments: Sequence[datetime]) -> float:
    """Of events at these moments, in order: how many followed the first, by the time until the last."""
    span = (moments[-1] - moments[0]).total_seconds() if len(moments) > 1 else 0.0
    return (len(moments) - 1) / span if span else float("nan")


def show(rounds: Sequence[Mapping[str, Mapping[str, float]]]) -> None:
    """Medians as a table, and the ratio of now to before where there is a before."""
    names = [name for name in ("before", "now") if name in rounds[0]]
    print(f"| | {' | '.join(names)} | now/before |")
    print("|---" * (len(names) + 2) + "|")
    for figure in rounds[0]["now"]:
        medians: dict[str, Any] = {name: statistics.median(one[name][figure] for one in rounds) for name in names}
        ratio = f"{medians['now'] / medians['before']:.2f}" if "before" in medians else "-"
        print(f"| {figure} | {' | '.join(f'{medians[name]:,.2f}' for name in names)} | {ratio} |")


if __name__ == "__main__":
    main()
