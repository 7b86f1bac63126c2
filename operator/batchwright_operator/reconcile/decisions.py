"""A decision and its actions, as values: nothing here calls the API server.

A reconciler's `decide` returns a `Decision`; the controller performs its actions in order, writes the
status once, and posts the events only after that write succeeded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

import msgspec

from batchwright_operator.kube.objects import Raw, Resource


class Key(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """What is reconciled: `reconciler` is a reconciler's name. Cluster-scoped objects have no namespace."""

    reconciler: str
    namespace: str = ""
    name: str = ""


class Apply(msgspec.Struct, frozen=True, kw_only=True):
    """Server-side apply of a child, with our field manager and force: to an object of the same controller, or to none.
    Fails as NameTaken for another's, as Contended when it is undone all the time. The applier skips it when the last
    applied body is equal and nobody has changed that body's fields since (`reconcile/applied`)."""

    resource: Resource
    body: Raw


class Create(msgspec.Struct, frozen=True, kw_only=True):
    """Creation of one object. One of the same controller that exists already is success; another's fails as
    NameTaken."""

    resource: Resource
    body: Raw


class Patch(msgspec.Struct, frozen=True, kw_only=True):
    """A patch of one object. With uid it fails as Conflict if the name has gone to another one, with resource_version
    if the object has changed since. `nominated_node`: of a pod, which node kube-scheduler is told to try first, by the
    pod's status, before the patch."""

    resource: Resource
    namespace: str
    name: str
    patch: Raw
    style: Literal["strategic", "merge"] = "strategic"
    uid: str | None = None
    resource_version: str | None = None
    nominated_node: str = ""


class Delete(msgspec.Struct, frozen=True, kw_only=True):
    """Deletion of one object; the uid is a precondition. An object that is deleted already is success. With
    resource_version it fails as Conflict if the object has changed since."""

    resource: Resource
    namespace: str
    name: str
    uid: str
    resource_version: str | None = None
    propagation: Literal["Background", "Foreground"] = "Background"

    @classmethod
    def of(cls, resource: Resource, obj: Raw) -> Self:
        """The deletion of this very object, not of another that has its name by then."""
        metadata = obj["metadata"]
        namespace = metadata.get("namespace", "")
        return cls(resource=resource, namespace=namespace, name=metadata["name"], uid=metadata["uid"])


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
    """The whole status of one object of our kinds; `regarding` is the object as it was decided on. Its resourceVersion
    makes the write fail as Conflict if the object has changed since."""

    resource: Resource
    regarding: Raw
    status: Raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The result of one pass. `requeue_after_s`: reconcile again then even if nothing changes (None: no need)."""

    actions: tuple[Action, ...] = ()
    status: StatusWrite | None = None
    events: tuple[Event, ...] = ()
    requeue_after_s: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    observations: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Histogram -> values that were seen."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Counter, as `name{label="value"}` -> how much is added to it."""
