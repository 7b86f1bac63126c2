"""Stamps on children: by which body each was last applied, so that an operator that has just started need not apply
what is as it should be. Pure.

A thousand deployments have eight thousand children. Applied anew at each start, and each no change, they would take the
API server a minute, in which it does nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from batchwright_operator.kube.metadata import annotation, is_leaving
from batchwright_operator.kube.objects import SECRET, Raw, Resource
from batchwright_operator.kube.quantities import amount
from batchwright_operator.reconcile.applied import digest, owned_part
from batchwright_operator.reconcile.foreign_fields import OURS_ALONE, foreign_fields, owns
from batchwright_operator.reconcile.ownership import is_ours
from batchwright_worker.api.names import ANNOTATION_APPLIED

AMOUNTS: Final = frozenset({"requests", "limits"})


def stamped(body: Raw) -> Raw:
    """The body as it is sent, with its own digest."""
    metadata = body["metadata"]
    notes = {**(metadata.get("annotations") or {}), ANNOTATION_APPLIED: digest(body).hex()}
    return {**body, "metadata": {**metadata, "annotations": notes}}


def is_as_stamped(resource: Resource, body: Raw, live: Raw, manager: str) -> bool:
    """Whether this very body was the last one that `manager` applied, and all of it still stands there, with nothing
    added where all is ours.

    Of a Secret `live` is the metadata alone. Of what needs accounts (see `needs_accounts`) it is the object as the API
    server answers it.
    """
    if is_leaving(live) or not is_ours(live, body) or not has_stamp(body, live):
        return False
    if needs_accounts(resource) and "managedFields" not in live["metadata"]:
        return False
    if foreign_fields(resource, live, manager):
        return False
    if resource == SECRET:  # whoever changes a value takes it over
        return all(owns(live, manager, ("data", name)) for name in body.get("data") or ())
    return is_same(body, owned_part(body, live))


def has_stamp(body: Raw, live: Raw) -> bool:
    """Whether this body was the last one that was applied."""
    return annotation(live, ANNOTATION_APPLIED) == digest(body).hex()


def needs_accounts(resource: Resource) -> bool:
    """Whether only the accounts of who wrote what tell that it is as it was applied; the cache has none."""
    return resource in OURS_ALONE


def is_same(ours: Any, theirs: Any, *, in_amounts: bool = False) -> bool:
    """Equal, where the API server leaves out what is empty or false, and writes 1000m as 1 (`in_amounts`: of requests
    and limits)."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        names = {**ours, **theirs}
        return all(
            is_same(ours.get(name), theirs.get(name), in_amounts=in_amounts or name in AMOUNTS) for name in names
        )
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(is_same, ours, theirs))
    if in_amounts and ours and theirs:
        return amount(ours) == amount(theirs)
    return bool(ours == theirs) or (not ours and not theirs)
