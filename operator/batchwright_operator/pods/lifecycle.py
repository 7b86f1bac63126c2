"""Where a pod and its containers are in their lives, by the pod's status alone; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from batchwright_operator.kube.objects import Raw


def is_over(pod: Raw) -> bool:
    """Has it succeeded or failed? It uses no device and no memory then, though the object is still there."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def container_statuses(pod: Raw) -> Iterator[Mapping[str, Any]]:
    """Init containers (native sidecars among them) first, as the kubelet starts them."""
    status = pod.get("status") or {}
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def container_state(pod: Raw, name: str) -> Mapping[str, Any]:
    """`waiting`, `running` or `terminated` of the container (or native sidecar); empty before the kubelet has it."""
    found = next((each for each in container_statuses(pod) if each.get("name") == name), {})
    state: Mapping[str, Any] = found.get("state") or {}
    return state


def is_running(pod: Raw, container: str) -> bool:
    """Does this container (or native sidecar) run now?"""
    return "running" in container_state(pod, container)
