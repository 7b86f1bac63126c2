"""Node as placement and benchmarks see it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from batchwright_operator.kube.metadata import is_leaving
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.quantities import Amounts, amounts
from batchwright_operator.processors.processor import kinds_among, opted_out
from batchwright_worker.api.names import ANNOTATION_EMULATED_DEVICE


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of a node that placement and benchmarks decide on."""

    name: str
    uid: str
    labels: Mapping[str, str]
    taints: tuple[Raw, ...]
    cordoned: bool
    ready: bool
    kinds: tuple[str, ...]
    opted_out: bool
    allocatable: Amounts
    system: str = ""
    """Operating system, e.g. linux; empty: not known."""
    architecture: str = ""
    """As images have it, e.g. amd64; empty: not known."""
    emulated_device: str = ""
    """JSON of its emulated accelerator, as its annotation has it."""

    def fingerprint(self) -> object:
        """What has to change before a node that the scheduler refused is worth another try."""
        # Not its resourceVersion: the kubelet's status updates change that all the time.
        return (
            self.uid,
            self.cordoned,
            self.ready,
            tuple(sorted(self.labels.items())),
            tuple(sorted((str(t.get("key")), str(t.get("value")), str(t.get("effect"))) for t in self.taints)),
            tuple(sorted(self.allocatable.items())),
        )


def node_info(node: Raw) -> NodeInfo:
    """The facts of a Node object."""
    spec, status, metadata = node.get("spec") or {}, node.get("status") or {}, node["metadata"]
    labels, about = metadata.get("labels") or {}, status.get("nodeInfo") or {}
    conditions = {each["type"]: each["status"] for each in status.get("conditions") or []}
    allocatable = amounts(status.get("allocatable"))
    return NodeInfo(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        labels=labels,
        taints=tuple(spec.get("taints") or ()),
        cordoned=bool(spec.get("unschedulable")),
        ready=conditions.get("Ready") == "True" and not is_leaving(node),
        kinds=kinds_among(allocatable),
        opted_out=opted_out(node),
        allocatable=allocatable,
        system=labels.get("kubernetes.io/os") or about.get("operatingSystem", ""),
        architecture=labels.get("kubernetes.io/arch") or about.get("architecture", ""),
        emulated_device=(metadata.get("annotations") or {}).get(ANNOTATION_EMULATED_DEVICE, ""),
    )
