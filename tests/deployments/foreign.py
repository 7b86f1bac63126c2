"""Objects of the users' own that have the names of children."""

from __future__ import annotations

import copy
import json
from typing import Any

from batchwright_operator.kube.client import path_of
from batchwright_operator.kube.objects import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    JOB,
    NETWORK_POLICY,
    PDB,
    SECRET,
    SERVICE,
    Raw,
    Resource,
)
from e2e.cluster import ApiError, ControlPlane

_POD = {"containers": [{"name": "main", "image": "example.org/mine:1"}]}
_LABELS = {"app": "mine"}
_TEMPLATE = {"metadata": {"labels": _LABELS}, "spec": _POD}
_BODIES: dict[Resource, Raw] = {
    CONFIG_MAP: {"data": {"mine": "yes"}},
    SECRET: {"data": {"password": "aHVudGVy", "token": "bWluZQ=="}},
    SERVICE: {"spec": {"selector": _LABELS, "ports": [{"port": 80, "targetPort": 8080}]}},
    NETWORK_POLICY: {"spec": {"podSelector": {}, "policyTypes": ["Ingress"]}},
    PDB: {"spec": {"minAvailable": 1, "selector": {"matchLabels": _LABELS}}},
    DEPLOYMENT: {"spec": {"replicas": 0, "selector": {"matchLabels": _LABELS}, "template": _TEMPLATE}},
    CONTROLLER_REVISION: {"data": {}, "revision": 1},  # its bytes may not change, and a patch removes spaces
    JOB: {"spec": {"suspend": True, "template": {"spec": {**_POD, "restartPolicy": "Never"}}}},
}
RESOURCES = {resource.kind: resource for resource in _BODIES}


def make(plane: ControlPlane, kind: str, namespace: str, name: str, **metadata: Any) -> Raw:
    """Creates somebody else's object of this kind and name; as the API server stores it."""
    resource = RESOURCES[kind]
    body = {
        "apiVersion": resource.api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, **metadata},
        **copy.deepcopy(_BODIES[resource]),
    }
    return plane.api.request("POST", path_of(resource, namespace), body)


def read(plane: ControlPlane, kind: str, namespace: str, name: str) -> Raw | None:
    """The object as it is now; None without one."""
    try:
        return plane.api.get(path_of(RESOURCES[kind], namespace, name))
    except ApiError as error:
        if error.status != 404:
            raise
        return None


def text(obj: Raw | None) -> str:
    """All that the object is, who wrote which field included; without what controllers of Kubernetes write."""
    assert obj is not None
    metadata = {name: value for name, value in obj["metadata"].items() if name not in _OF_CONTROLLERS}
    writers = [
        each
        for each in obj["metadata"]["managedFields"]
        if not each.get("subresource") and each["manager"] != "kube-controller-manager"
    ]
    rest = {name: value for name, value in obj.items() if name not in ("status", "metadata")}
    return json.dumps({**rest, "metadata": metadata, "writers": writers}, sort_keys=True)


_OF_CONTROLLERS = ("resourceVersion", "managedFields", "annotations")
"""The Deployment controller annotates a revision, and others write statuses."""
