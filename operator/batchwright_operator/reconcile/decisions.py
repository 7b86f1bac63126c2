"""What a decision may ask for, as values: nothing here talks to a cluster.

A reconciler's `decide` returns a `Decision`; the controller performs its actions in order, writes the
status once, and posts the events only after that write succeeded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

from batchwright_operator.kube.objects import Raw, Resource


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Key:
    """What is reconciled: `reconciler` is the reconciler's name, namespace is empty for cluster-scoped objects."""

    reconciler: str
    namespace: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """Server-side apply of a child, with our field manager and force. Skipped by the controller when the last
    applied body is equal and the object in the store is the very version that this apply returned."""

    resource: Resource
    body: Raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """Create once; an object that exists already is success."""

    resource: Resource
    body: Raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """Patch one object. With resource_version it is answered 409 if the object has changed since."""

    resource: Resource
    namespace: str
    name: str
    patch: Raw
    style: Literal["strategic", "merge"] = "strategic"
    resource_version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Delete one object; the uid is a precondition. An object that is gone already is success."""

    resource: Resource
    namespace: str
    name: str
    uid: str
    propagation: Literal["Background", "Foreground"] = "Background"
    grace_period_s: int | None = None

    @classmethod
    def of(cls, resource: Resource, obj: Raw) -> Self:
        """This very object, not another that has its name by then."""
        metadata = obj["metadata"]
        return cls(resource=resource, namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"])


Action = Apply | Create | Patch | Delete


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A Kubernetes Event about an object (its raw form)."""

    regarding: Raw
    reason: str
    message: str
    type: Literal["Normal", "Warning"] = "Normal"
    action: str = "Reconcile"


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusWrite:
    """The whole status of one own object; `regarding` is the object as decided on (its resourceVersion fences)."""

    resource: Resource
    regarding: Raw
    status: Raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Everything that one pass wants. `requeue_after_s`: look again then even if nothing changes (None: no need)."""

    actions: tuple[Action, ...] = ()
    status: StatusWrite | None = None
    events: tuple[Event, ...] = ()
    requeue_after_s: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
