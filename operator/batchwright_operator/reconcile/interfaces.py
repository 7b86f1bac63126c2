"""The protocols between the controller and its reconcilers (ModelDeployments, placement, InferenceJobs, profiles)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from batchwright_operator.kube.objects import Raw, Resource
from batchwright_operator.reconcile.decisions import Decision, Key

T = TypeVar("T")


class StoreView(Protocol):
    """Read access to the cache of watched objects (never an API call)."""

    def get(self, resource: Resource, namespace: str, name: str) -> Raw | None:
        """The object, or None."""

    def all(self, resource: Resource, *, namespace: str | None = None) -> list[Raw]:
        """All objects of a kind, of one namespace if given."""

    def owned(self, resource: Resource, owner_uid: str) -> list[Raw]:
        """Objects whose controller owner reference has this uid (indexed)."""

    def labelled(self, resource: Resource, label: str, value: str, *, namespace: str | None = None) -> list[Raw]:
        """Objects with this label (indexed for the labels that a Watch names in `index_labels`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A reconciler's subscription to a resource. `keys` maps an object (new, old or deleted) to the keys to queue."""

    resource: Resource
    keys: Callable[[Raw], Iterable[Key]]
    label_selector: str = ""
    field_selector: str = ""
    index_labels: tuple[str, ...] = ()
    metadata_only: bool = False
    """Neither spec nor status is fetched: what is asked is who owns it."""


class Queue(Protocol):
    """The de-duplicating work queue."""

    def add(self, key: Key, *, after_s: float = 0.0) -> None:
        """Reconcile this key (again); adding a key that already waits does nothing."""


class Reconciler(Protocol[T]):
    """One kind of reconciliation: observe once, then decide purely."""

    name: str

    def watches(self) -> Iterable[Watch]:
        """The resources that it reads. Watches of one resource and selector are shared between reconcilers."""

    def observe(self, store: StoreView, key: Key) -> T | None:
        """A frozen snapshot of everything that the decision needs, or None when there is nothing to do."""

    def decide(self, observed: T, now: float) -> Decision:
        """Pure: no I/O, no clock; `now` in Unix seconds."""


class Background(Protocol):
    """A task that runs while this replica leads (scraping agents, following sidecars); cancelled when it stops."""

    async def run(self, store: StoreView, queue: Queue) -> None:
        """Runs until cancelled; survives its own errors."""
