"""Memory of applied bodies and written statuses: whether applying again would change anything. Pure.

The server normalizes and defaults a body, so a body is never compared with an object directly. After an apply we
remember the values that the response has at the fields of the body (`owned_part`). As long as the body is the same
and those values are the same, the object has not drifted, whatever else changed in it (status, other managers'
fields): nothing to write. A write that changes nothing is still a write: it costs the API server a request, and the
tests count it in the audit log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from batchwright_operator.kube.metadata import is_leaving
from batchwright_operator.kube.objects import Raw, Resource
from batchwright_operator.reconcile.foreign_fields import part_of

_ENCODER = msgspec.json.Encoder(order="deterministic")


def digest(value: Any) -> bytes:
    """Digest of JSON, independent of the order of names."""
    return hashlib.blake2b(_ENCODER.encode(value), digest_size=16).digest()


ATOMIC: Final = frozenset({"selector", "podSelector", "namespaceSelector", "matchLabels", "nodeSelector"})
"""Maps that server-side apply owns as a whole: one more label in a selector selects other pods."""


def owned_part(body: Any, live: Any) -> Any:
    """The part of `live` at the fields of `body`. A list of another length and a map of ATOMIC are owned as a whole."""
    if isinstance(body, dict) and isinstance(live, dict):
        return {
            name: live.get(name) if name in ATOMIC else owned_part(value, live.get(name))
            for name, value in body.items()
        }
    if isinstance(body, list) and isinstance(live, list) and len(body) == len(live):
        return [owned_part(one, other) for one, other in zip(body, live, strict=True)]
    return live


def _part(resource: Resource, body: Raw, live: Raw) -> bytes:
    """Digest of what is ours of the object, and of what is to be ours alone."""
    return digest([owned_part(body, live), part_of(resource, live)])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Applied:
    body: bytes
    uid: str
    version: str
    part: bytes


class AppliedBodies:
    """Memory of this process; after a start it is empty, and each child is applied once."""

    def __init__(self) -> None:
        self._applied: dict[tuple[Resource, str, str], _Applied] = {}

    def is_settled(self, resource: Resource, body: Raw, live: Raw | None) -> bool:
        """Whether applying `body` to `live` would change nothing, or has to wait until `live` is deleted."""
        if live is None:
            return False
        if is_leaving(live):
            return True  # its deletion is an event, which queues the key again
        metadata = live["metadata"]
        at = _place(resource, body)
        last = self._applied.get(at)
        if last is None or last.uid != metadata["uid"] or last.body != digest(body):
            return False
        if last.version != metadata["resourceVersion"]:
            # Somebody wrote the object since. Only where that touched our fields, there is something to repair.
            if last.part != _part(resource, body, live):
                return False
            self._applied[at] = replace(last, version=metadata["resourceVersion"])
        return True

    def is_same_body(self, resource: Resource, body: Raw) -> bool:
        """Whether this very body was the last one applied; for objects that are not watched."""
        last = self._applied.get(_place(resource, body))
        return last is not None and last.body == digest(body)

    def is_as_applied(self, resource: Resource, body: Raw, live: Raw) -> bool:
        """Whether this very body was the last one applied, and nobody has written the object since."""
        last = self._applied.get(_place(resource, body))
        metadata = live["metadata"]
        found = (metadata["uid"], metadata["resourceVersion"])
        return last is not None and last.body == digest(body) and (last.uid, last.version) == found

    def knows(self, resource: Resource, namespace: str, name: str) -> bool:
        """Whether an apply of this object is remembered."""
        return (resource, namespace, name) in self._applied

    def remember(self, resource: Resource, body: Raw, response: Raw) -> None:
        """Remembers the server's response to an apply of `body`."""
        metadata = response["metadata"]
        self._applied[_place(resource, body)] = _Applied(
            body=digest(body),
            uid=metadata["uid"],
            version=metadata["resourceVersion"],
            part=_part(resource, body, response),
        )

    def forget(self, resource: Resource, namespace: str, name: str) -> None:
        """Forgets an object that was deleted."""
        self._applied.pop((resource, namespace, name), None)

    def prune(self, is_deleted: Callable[[Resource, str, str], bool]) -> None:
        """Forgets the objects that are deleted."""
        for at in [at for at in self._applied if is_deleted(*at)]:
            del self._applied[at]


STAMP: Final = "lastUpdatedTime"
"""The field of a status that says when it was written: alone it is no reason to write."""


class WrittenStatuses:
    """Memory of statuses: the one that was asked for, and what the server made of it (conditions of somebody else stay
    in it, for one)."""

    def __init__(self) -> None:
        self._written: dict[tuple[Resource, str, str], tuple[str, bytes, bytes]] = {}

    def is_settled(self, resource: Resource, regarding: Raw, status: Raw) -> bool:
        """Whether writing `status` to `regarding` would change nothing."""
        current = without_nulls(regarding.get("status") or {})
        if current == without_nulls(status):
            return True
        asked_for = (regarding["metadata"]["uid"], digest(_unstamped(status)), digest(current))
        return self._written.get(_place(resource, regarding)) == asked_for

    def remember(self, resource: Resource, status: Raw, response: Raw) -> None:
        """Remembers the server's response to a write of `status`."""
        current = without_nulls(response.get("status") or {})
        self._written[_place(resource, response)] = (
            response["metadata"]["uid"],
            digest(_unstamped(status)),
            digest(current),
        )

    def prune(self, is_deleted: Callable[[Resource, str, str], bool]) -> None:
        """Forgets the objects that are deleted."""
        for at in [at for at in self._written if is_deleted(*at)]:
            del self._written[at]


def _unstamped(status: Raw) -> Raw:
    return {name: value for name, value in status.items() if name != STAMP}


def without_nulls(value: Any) -> Any:
    """The value without names whose value is null (the server drops them)."""
    if isinstance(value, dict):
        return {name: without_nulls(one) for name, one in value.items() if one is not None}
    if isinstance(value, list):
        return [without_nulls(one) for one in value]
    return value


def _place(resource: Resource, body: Raw) -> tuple[Resource, str, str]:
    metadata = body["metadata"]
    return resource, metadata.get("namespace", ""), metadata["name"]
