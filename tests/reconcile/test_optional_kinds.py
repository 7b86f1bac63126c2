"""Kinds that not every cluster serves: refused with what to do, never tried for ever in silence."""

from __future__ import annotations

from typing import Any

import pytest

from batchwright_operator.errors import Invalid, NotFound
from batchwright_operator.kube.objects import RESOURCE_CLAIM_TEMPLATE, SERVICE, Resource
from batchwright_operator.reconcile.cache import Store
from batchwright_operator.reconcile.child_writer import ChildWriter
from batchwright_operator.reconcile.decisions import Apply


class WithoutThem:
    """An API server that has never heard of the kind."""

    async def metadata(self, *_: Any) -> Any:
        raise NotFound("404 page not found", code=404)

    async def apply_new(self, *_: Any) -> Any:
        raise NotFound("404 page not found", code=404)


def writer() -> ChildWriter:
    client: Any = WithoutThem()
    return ChildWriter(client, Store(), count=lambda verb, resource: None, clock=lambda: 0.0, look_again_s=60.0)


def body(resource: Resource) -> dict[str, Any]:
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": "x", "namespace": "n"}}


async def test_a_cluster_without_dra_refuses_a_device_claim_and_says_what_to_do() -> None:
    apply = Apply(resource=RESOURCE_CLAIM_TEMPLATE, body=body(RESOURCE_CLAIM_TEMPLATE))
    with pytest.raises(Invalid, match=r"does not serve resource\.k8s\.io/v1; remove deviceClaim"):
        await writer().apply(apply)


async def test_other_kinds_that_are_not_found_are_tried_again() -> None:
    with pytest.raises(NotFound):
        await writer().apply(Apply(resource=SERVICE, body=body(SERVICE)))
