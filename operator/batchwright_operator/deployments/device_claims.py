"""Devices by ResourceClaim (Dynamic Resource Allocation) instead of an extended resource; pure.

One claim per pod, made from a template, with a request for each runtime container: all from one node, and no two
containers share a device.
"""

from __future__ import annotations

from typing import Final

from batchwright_operator.api.eligible_kinds import RuntimePlan
from batchwright_operator.api.model_deployment import ModelDeployment
from batchwright_operator.deployments.children import own_labels
from batchwright_operator.kube.objects import RESOURCE_CLAIM_TEMPLATE, Raw
from batchwright_operator.rendering.objects import child, digest
from batchwright_worker.api.names import child_name, kind_slug

CLAIM: Final = "devices"
"""Name of the claim in the pod."""


def claim_template(deployment: ModelDeployment, plan: RuntimePlan) -> Raw | None:
    """The ResourceClaimTemplate of this kind; None where it asks for an extended resource. A template is immutable, so
    another content is another name."""
    if plan.runtime.device_claim is None:
        return None
    return child(
        RESOURCE_CLAIM_TEMPLATE, deployment.raw, _name(deployment, plan), own_labels(deployment.name),
        spec={"spec": _claim(plan)},
    )  # fmt: skip


def pod_claims(deployment: ModelDeployment, plan: RuntimePlan) -> list[Raw]:
    """`resourceClaims` of the pod; empty where there is none."""
    if plan.runtime.device_claim is None:
        return []
    return [{"name": CLAIM, "resourceClaimTemplateName": _name(deployment, plan)}]


def container_claims(index: int) -> list[Raw]:
    """`resources.claims` of a runtime container."""
    return [{"name": CLAIM, "request": _request_name(index)}]


def _name(deployment: ModelDeployment, plan: RuntimePlan) -> str:
    return child_name(deployment.name, kind_slug(plan.kind), CLAIM, digest(_claim(plan)))


def _request_name(index: int) -> str:
    return f"runtime-{index}"


def _claim(plan: RuntimePlan) -> Raw:
    asked, count = plan.runtime.device_claim, plan.runtime.count
    assert asked is not None
    # A server of the user's is one container that gets all devices; ours is a container per device.
    counts = [count] if plan.is_server else [1] * count
    selectors = [{"cel": {"expression": each}} for each in asked.selectors]
    return {
        "devices": {
            "requests": [
                {
                    "name": _request_name(index),
                    "exactly": {
                        "deviceClassName": asked.device_class_name,
                        "allocationMode": "ExactCount",
                        "count": wanted,
                        **({"selectors": [dict(each) for each in selectors]} if selectors else {}),
                    },
                }
                for index, wanted in enumerate(counts)
            ]
        }
    }
