"""What was measured of a node's processors as a ResourceSlice of ours (Dynamic Resource Allocation); pure.

For whoever reads slices: schedulers' simulators, capacity planners, `kubectl get resourceslices`. Never for claims: our
devices are no devices but numbers about them, and a pod that was allocated one would run with none. kube-scheduler
knows devices of the node that it looks at and of no other, and no node has the name that the slice gives; docs/design/
0009 has the ways that were not taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from batchwright_operator.kube.objects import RESOURCE_SLICE, Raw
from batchwright_operator.processors.processor import Processor, best_row, decimal
from batchwright_operator.rendering.objects import LABEL_MANAGED_BY, MANAGED_BY
from batchwright_worker.api.names import API_VERSION, child_name, kind_slug

DRIVER: Final = "capacity.batchwright.dev"
NO_NODE: Final = "never-allocate.batchwright.dev"
"""In place of the node's name, which the pool has: no scheduler takes a device from there, and no kubelet removes the
slice as one of a driver that is not registered with it."""
TEXT_MAX: Final = 64
"""Characters of an attribute."""


def resource_slice(profile: Raw, processors: Iterable[Processor]) -> Raw | None:
    """The slice of a node's measured processors, gone with the profile; None where nothing is measured yet."""
    devices = [_device(each) for each in processors if each.capacity is not None and not each.estimated_from]
    if not devices:
        return None
    node, uid = profile["metadata"]["name"], profile["metadata"]["uid"]
    owner = {"apiVersion": API_VERSION, "kind": profile["kind"], "name": node, "uid": uid, "controller": True}
    return {
        "apiVersion": RESOURCE_SLICE.api_version,
        "kind": RESOURCE_SLICE.kind,
        "metadata": {
            "name": child_name(node, "capacity"),
            "labels": {LABEL_MANAGED_BY: MANAGED_BY},
            "ownerReferences": [owner],
        },
        "spec": {
            "driver": DRIVER,
            "nodeName": NO_NODE,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": devices,
        },
    }


def _device(processor: Processor) -> Raw:
    """One processor: what a claim would compare, were these devices to be claimed."""
    best, capacity = best_row(processor), processor.capacity
    assert capacity is not None
    attributes: dict[str, dict[str, Any]] = {
        "kind": {"string": processor.kind[:TEXT_MAX]},
        "imagesPerSecond": {"int": round(capacity)},
    }
    if processor.product:
        attributes["product"] = {"string": processor.product[:TEXT_MAX]}
    if processor.slots:
        attributes["devices"] = {"int": processor.slots}
    if best is not None:
        attributes["batchSize"] = {"int": best.batch_size}
        attributes["services"] = {"int": best.max_services}
    # A quantity beside the number: a CPU's 5.4 images/s is no 5.
    rates = {"imagesPerSecond": {"value": decimal(capacity)}}
    if processor.node_capacity is not None:
        rates["nodeImagesPerSecond"] = {"value": decimal(processor.node_capacity)}
    return {"name": kind_slug(processor.kind), "attributes": attributes, "capacity": rates}
