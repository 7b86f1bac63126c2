"""Children of any kind: their metadata, digests, addresses; pure."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from batchwright_operator.kube.objects import (
    Raw,
    Resource,
)
from batchwright_worker.api.names import (
    API_VERSION,
    CONTROL_PORT,
    HTTP_PORT,
    digest_name,
)

MANAGED_BY: Final = "batchwright"

LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"

LABEL_NAME: Final = "app.kubernetes.io/name"


def child(resource: Resource, owner: Raw, name: str, labels: Mapping[str, str], **parts: Any) -> Raw:
    """A child of a user's object: same namespace, and gone with it (controller owner reference)."""
    metadata = owner["metadata"]
    reference = {
        "apiVersion": API_VERSION,
        "kind": owner["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    head = {"name": name, "namespace": metadata["namespace"], "labels": dict(labels), "ownerReferences": [reference]}
    if annotations := parts.pop("annotations", None):
        head["annotations"] = dict(annotations)
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": head, **parts}


def digest(value: object) -> str:
    """Ten hexadecimal digits that change with the value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def copied(value: Raw) -> Raw:
    """A copy that shares nothing with this JSON; ten times as fast as `copy.deepcopy`."""
    copy: Raw = msgspec.json.decode(msgspec.json.encode(value))
    return copy


def secret_data(token: str) -> dict[str, str]:
    """`data` of a Secret that holds a control token."""
    return {"token": base64.b64encode(token.encode()).decode()}


def headless_name(name: str) -> str:
    """Name of the Service whose addresses are the ready replicas of a ModelDeployment."""
    return digest_name(name, "replicas")


def headless_host(name: str, namespace: str) -> str:
    """host:port (HTTP) of that Service."""
    return f"{headless_name(name)}.{namespace}.svc:{HTTP_PORT}"


def control_ingress(operator_namespace: str) -> Raw:
    """Ingress rule: the control port, from the operator's namespace only."""
    namespace = {"matchLabels": {"kubernetes.io/metadata.name": operator_namespace}}
    return {"from": [{"namespaceSelector": namespace}], "ports": [{"port": CONTROL_PORT, "protocol": "TCP"}]}
