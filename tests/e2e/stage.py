"""What the scenarios do to the demo's cluster, in its own words."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from e2e.cluster import Cluster
from e2e.cluster.control_plane import audit
from e2e.demo.kubectl import Kubectl, condition, wait_for
from e2e.demo.report import Report
from e2e.demo.story import SYSTEM

DEMO = "make demo"
DEMO_DOWN = "make demo-down"
"""As the README has them."""
OPERATOR_USER = f"system:serviceaccount:{SYSTEM}:batchwright-operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What the demo reported, and the cluster that it was told on; `namespace` is the example's."""

    kubectl: Kubectl
    report: Report
    cluster: Cluster
    namespace: str = "ocr"

    def apply(self, *bodies: dict[str, Any]) -> None:
        """Server-side apply."""
        self.kubectl.run("apply", "--server-side", "-f", "-", stdin="\n---\n".join(json.dumps(body) for body in bodies))

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """An object of the example's namespace, or None."""
        return self.kubectl.find(kind, name, "-n", self.namespace)

    def all(self, kind: str, *, selector: str = "") -> list[dict[str, Any]]:
        """Objects of a kind in the example's namespace."""
        return list(self.kubectl.json("get", kind, "-n", self.namespace, "-l", selector)["items"])

    def pods(self, selector: str, *, namespace: str | None = None) -> list[str]:
        """Names of the running pods with these labels."""
        found = self.kubectl.json("get", "pods", "-n", namespace or self.namespace, "-l", selector)
        return [pod["metadata"]["name"] for pod in found["items"] if pod["status"].get("phase") == "Running"]

    def kill_one(self, selector: str, *, namespace: str | None = None) -> str:
        """Ends one running pod at once, without grace; its name."""
        name = wait_for(
            lambda: next(iter(self.pods(selector, namespace=namespace)), None),
            what=f"a running pod with {selector}",
            timeout_s=60,
        )
        self.kubectl.run("delete", "pod", name, "-n", namespace or self.namespace, "--grace-period=0", "--force")
        return name

    def await_condition(self, kind: str, name: str, wanted: str, *, timeout_s: float) -> dict[str, Any]:
        """The object once this condition is True."""

        def met() -> dict[str, Any] | None:
            found = self.get(kind, name)
            return found if condition(found, wanted).get("status") == "True" else None

        return wait_for(
            met,
            what=f"{kind}/{name} {wanted}",
            timeout_s=timeout_s,
            seen=lambda: json.dumps((self.get(kind, name) or {}).get("status"))[:2000],
        )

    def await_progress(self, job: str, percentage: int) -> None:
        """Returns when the job's progress has reached the percentage (or it has completed)."""

        def reached() -> bool | None:
            found = self.get("inferencejob", job)
            over = condition(found, "Complete").get("status") == "True"
            return (
                True if over or ((found or {}).get("status") or {}).get("progressPercentage", 0) >= percentage else None
            )

        wait_for(reached, what=f"{job} at {percentage} %", timeout_s=600)

    def volume_folder(self, claim: str) -> Path:
        """Where the claim's shared volume lies on this machine."""
        volume = (self.get("pvc", claim) or {})["spec"]["volumeName"]
        path = self.kubectl.json("get", "pv", volume)["spec"]["hostPath"]["path"]
        return Path(path)

    def records(self, claim: str, folder: str) -> list[dict[str, Any]]:
        """All records of a job's jsonl parts, in the order of parts and lines."""
        parts = sorted((self.volume_folder(claim) / folder).glob("part-*.jsonl"))
        return [json.loads(line) for part in parts for line in part.read_text().splitlines()]

    def operator_writes(self, *, since: datetime) -> list[audit.Write]:
        """The operator's API writes after that time, Lease aside."""
        written = audit.writes(self.cluster.control_plane.audit_log_path, user=OPERATOR_USER, since=since)
        return [write for write in written if write.resource != "leases"]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Events about one object, oldest first."""
        found = self.kubectl.json("get", "events.events.k8s.io", "-n", self.namespace)["items"]
        about = [event for event in found if event["regarding"].get("name") == name]
        return sorted(about, key=lambda event: event.get("eventTime") or "")

    @contextlib.contextmanager
    def deployed(self, body: dict[str, Any], *, timeout_s: float) -> Iterator[dict[str, Any]]:
        """A ModelDeployment that is Ready; deleted when the block ends, also by a failure: the next test may need its
        devices."""
        name = body["metadata"]["name"]
        self.apply(body)
        try:
            yield self.await_condition("modeldeployment", name, "Ready", timeout_s=timeout_s)
        finally:
            gone = ("delete", "modeldeployment", name, "-n", self.namespace, "--ignore-not-found", "--timeout=120s")
            self.kubectl.run(*gone, timeout_s=150)

    @contextlib.contextmanager
    def loaded_node(self, name: str) -> Iterator[None]:
        """Keeps a node's cores busy from outside Kubernetes while the block runs."""
        burner = self.cluster.nodes[name].run_in_node("burner", ["python3", "-c", "while True: pass"])
        try:
            yield
        finally:
            burner.kill()
            burner.wait()


def watch(look: Callable[[], Any], *, seconds: float, every_s: float = 0.5) -> list[Any]:
    """The distinct consecutive values that `look` gave over some seconds."""
    seen: list[Any] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = look()
        if not seen or seen[-1] != value:
            seen.append(value)
        time.sleep(every_s)
    return seen
