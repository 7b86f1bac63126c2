"""What the cache keeps of objects that are not ours: what placement needs of them, and nothing else.

A cluster has thirty pods of others for each node, five kilobytes of JSON each, which are 26 kB as Python objects. They
are reduced while they are decoded, so that the rest never is an object. Of our own pods everything is kept but
`managedFields`; what all replicas of a Deployment have in common is one object, decoded once.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import msgspec

from batchwright_operator.kube.objects import NODE, POD, Raw, Resource
from batchwright_operator.kube.quantities import requests_of
from batchwright_operator.kube.responses import Decode
from batchwright_worker.api.names import COMPONENT_AGENT, GROUP, LABEL_COMPONENT

_OURS: Final = f"{GROUP}/"
_HINTS: Final = (f'"{_OURS}'.encode(), f'"{COMPONENT_AGENT}"'.encode())
"""A pod whose JSON has none of these is not ours: most are known by that, before anything is decoded."""


class _Metadata(msgspec.Struct, frozen=True):
    name: str
    uid: str = ""
    namespace: str = ""
    resource_version: str = msgspec.field(default="", name="resourceVersion")
    deleted: str = msgspec.field(default="", name="deletionTimestamp")


class _Container(msgspec.Struct, frozen=True, omit_defaults=True):
    resources: dict[str, Any] | None = None
    restart_policy: str = msgspec.field(default="", name="restartPolicy")


class _Spec(msgspec.Struct, frozen=True):
    node_name: str = msgspec.field(default="", name="nodeName")
    restart_policy: str = msgspec.field(default="Always", name="restartPolicy")
    containers: list[_Container] = []
    init: list[_Container] | None = msgspec.field(default=None, name="initContainers")
    resources: dict[str, Any] | None = None
    overhead: dict[str, Any] | None = None


class _Status(msgspec.Struct, frozen=True):
    phase: str = ""
    started: str = msgspec.field(default="", name="startTime")


class _Pod(msgspec.Struct, frozen=True):
    metadata: _Metadata
    spec: _Spec = _Spec()
    status: _Status = _Status()


class _Labels(msgspec.Struct, frozen=True):
    labels: dict[str, str] | None = None


class _Head(msgspec.Struct, frozen=True):
    metadata: _Labels


_POD: Final = msgspec.json.Decoder(_Pod)
_HEAD: Final = msgspec.json.Decoder(_Head)
_PARTS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ALIKE: Final = frozenset({"labels", "ownerReferences", "containers", "initContainers", "volumes", "tolerations"})
"""Parts of metadata and spec that replicas of one Deployment mostly have in common, and that are most of a pod."""


class PodDecoder:
    """Decodes pods: those of ours whole, of others who they are, where, in which phase, and what they
    request: as one container, whose numbers are in base units. Of pods that end by themselves also since when."""

    def __init__(self) -> None:
        self._specs: dict[bytes, list[Raw]] = {}
        self._phases: dict[str, Raw] = {}
        self._alike: dict[bytes, Any] = {}

    def __call__(self, raw: bytes | msgspec.Raw) -> Raw:
        """The pod; equal parts of different pods are one object."""
        text = bytes(raw)
        if any(each in text for each in _HINTS) and _is_ours(_HEAD.decode(text).metadata.labels or {}):
            return self._own(text)
        return self._reduced(_POD.decode(text))

    def _own(self, text: bytes) -> Raw:
        found: Raw = {}
        for name, value in _PARTS.decode(text).items():
            if name in ("metadata", "spec"):
                parts = _PARTS.decode(value)
                parts.pop("managedFields", None)
                found[name] = {name: self._part(name, value) for name, value in parts.items()}
            else:
                found[name] = msgspec.json.decode(value)
        return found

    def _part(self, name: str, value: msgspec.Raw) -> Any:
        if name not in _ALIKE:
            return msgspec.json.decode(value)
        at = bytes(value)
        found = self._alike.get(at)
        if found is None:
            if len(self._alike) > SHARED_MAX:
                self._alike.clear()
            found = self._alike[at] = msgspec.json.decode(at)
        return found

    def _reduced(self, pod: _Pod) -> Raw:
        metadata = {
            "name": pod.metadata.name,
            "namespace": sys.intern(pod.metadata.namespace),
            "uid": pod.metadata.uid,
            "resourceVersion": pod.metadata.resource_version,
        }
        if pod.metadata.deleted:
            metadata["deletionTimestamp"] = pod.metadata.deleted
        spec: Raw = {"containers": self._containers(pod.spec)}
        if pod.spec.node_name:
            spec["nodeName"] = sys.intern(pod.spec.node_name)
        if pod.spec.restart_policy == "Always":
            status = self._phases.setdefault(pod.status.phase, {"phase": pod.status.phase})
        else:
            spec["restartPolicy"] = sys.intern(pod.spec.restart_policy)
            status = {"phase": pod.status.phase, "startTime": pod.status.started}
        return {"metadata": metadata, "spec": spec, "status": status}

    def _containers(self, spec: _Spec) -> list[Raw]:
        parts = {"containers": spec.containers, "initContainers": spec.init, "resources": spec.resources,
                 "overhead": spec.overhead}  # fmt: skip
        at = msgspec.json.encode(parts)
        found = self._specs.get(at)
        if found is None:
            requests = requests_of(msgspec.json.decode(at))
            del requests["pods"]  # which is counted for each pod anyway
            if len(self._specs) > SHARED_MAX:
                self._specs.clear()
            found = self._specs[at] = [{"resources": {"requests": requests}}]
        return found


def _is_ours(labels: dict[str, str]) -> bool:
    """Made by the operator, or an agent, which it asks for samples (its labels are those of any application)."""
    return labels.get(LABEL_COMPONENT) == COMPONENT_AGENT or any(name.startswith(_OURS) for name in labels)


SHARED_MAX: Final = 5000


class _NodeStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    allocatable: dict[str, Any] = {}
    capacity: dict[str, Any] = {}
    conditions: list[dict[str, Any]] = []
    addresses: list[dict[str, Any]] = []
    info: dict[str, Any] = msgspec.field(default_factory=dict, name="nodeInfo")


class _Node(msgspec.Struct, frozen=True, omit_defaults=True):
    metadata: dict[str, Any]
    spec: dict[str, Any] = {}
    status: _NodeStatus = _NodeStatus()


_NODE: Final = msgspec.json.Decoder(_Node)


def decode_node(raw: bytes | msgspec.Raw) -> Raw:
    """A node without its images and volumes, which are most of it."""
    found: Raw = msgspec.to_builtins(_NODE.decode(raw))
    return found


_DECODERS: Final[dict[Resource, Decode]] = {POD: PodDecoder(), NODE: decode_node}


def decoder_of(resource: Resource) -> Decode | None:
    """What the cache keeps of this resource; None: everything."""
    return _DECODERS.get(resource)
