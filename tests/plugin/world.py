"""Objects as a cluster with Batchwright would hold them, put into a real API server where no operator runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from e2e.cluster import ControlPlane
from tests.reconcile.bed import prepare, wait

OWN = "/apis/batchwright.dev/v1alpha1"
FOLDERS = {
    "Node": ("/api/v1/nodes", False),
    "Pod": ("/api/v1/namespaces/{}/pods", True),
    "Event": ("/api/v1/namespaces/{}/events", True),
    "AcceleratorProfile": (f"{OWN}/acceleratorprofiles", False),
    "ModelDeployment": (f"{OWN}/namespaces/{{}}/modeldeployments", True),
    "InferenceJob": (f"{OWN}/namespaces/{{}}/inferencejobs", True),
}
NO_STATUS = ("Node", "Event")
"""Made with the status that they have (a kubelet registers its node so), or without one."""


def start(name: str) -> ControlPlane:
    """An API server with our CRDs, whose nodes need no kubelet."""
    patient = ["--node-monitor-grace-period=24h"]
    plane = ControlPlane.start(name, scheduler=False, controller_manager_args=patient)
    prepare(plane, "shop")
    wait(lambda: plane.api.exists("/api/v1/namespaces/default/serviceaccounts/default"), 20, lambda: "no account")
    return plane


def put(plane: ControlPlane, objects: Iterable[dict[str, Any]]) -> None:
    """Creates them, then writes their status."""
    for kind, bodies in _by_kind(objects).items():
        for at, these in _by_folder(kind, bodies).items():
            plane.api.create_all(
                at, ({k: v for k, v in one.items() if k != "status" or kind in NO_STATUS} for one in these)
            )
            if kind not in NO_STATUS:
                plane.api.patch_all(
                    (f"{at}/{one['metadata']['name']}/status", {"status": one["status"]}) for one in these
                )


def clear(plane: ControlPlane) -> None:
    """Removes everything that `put` made."""
    for at, namespaced in FOLDERS.values():
        for namespace in ("default", "shop") if namespaced else ("",):
            plane.api.request("DELETE", at.format(namespace), {"gracePeriodSeconds": 0})
    nothing = [at.format(space) for at, namespaced in FOLDERS.values() if "events" not in at
               for space in (("default", "shop") if namespaced else ("",))]  # fmt: skip
    wait(lambda: not any(plane.api.get(at)["items"] for at in nothing), 30, lambda: "objects are left")


def _by_kind(objects: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for one in objects:
        found.setdefault(one["kind"], []).append(one)
    return found


def _by_folder(kind: str, bodies: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    at, found = FOLDERS[kind][0], {}
    for one in bodies:
        found.setdefault(at.format(one["metadata"].get("namespace", "default")), []).append(one)
    return found
