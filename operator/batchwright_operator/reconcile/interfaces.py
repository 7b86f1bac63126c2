"""The protocols between the controller and its reconcilers (ModelDeployments, placement, InferenceJobs, profiles)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from batchwright_operator.kube.objects import Raw, Resource
from batchwright_operator.reconcile.decisions import Action, Decision, Key

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Changes(Protocol):
    """What changed of one resource since somebody last asked."""

    def take(self) -> Collection[tuple[str, str]] | None:
        """(namespace, name) of what came, went or changed since the last call; None: anything may have."""


class StoreView(Protocol):
    """Read access to the cache of watched objects (never an API call)."""

    def get(self, resource: Resource, namespace: str, name: str) -> Raw | None:
        """The object, or None."""

    def all(self, resource: Resource, *, namespace: str | None = None) -> list[Raw]:
        """All objects of a kind, of one namespace if given."""

    def owned(self, resource: Resource, owner_uid: str) -> list[Raw]:
        """Objects whose controller owner reference has this uid (indexed)."""

    def on_node(self, node: str) -> list[Raw]:
        """Pods that are bound to this node (indexed)."""

    def labelled(self, resource: Resource, label: str, value: str, *, namespace: str | None = None) -> list[Raw]:
        """Objects with this label (indexed for the labels that a Watch names in `index_labels`)."""

    def changes(self, resource: Resource) -> Changes:
        """A new account of what changes, for one reader. Everything counts as changed at first."""


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


class Steps(Protocol):
    """A decision in small steps, made while they are taken. Whoever takes them may stop at any time."""

    def __iter__(self) -> Iterator[tuple[Action, ...]]:
        """Actions that do not depend on each other, none for a step that only took time."""

    def outcome(self) -> Decision:
        """Once no more steps are taken: events, metrics, and when to go on (0: steps are left); no actions."""


@runtime_checkable
class Stepwise(Protocol[T_contra]):
    """A `Reconciler` of so much at once that its decisions are carried out while it decides on, and observes again:
    what was decided and is not answered yet it has to count as done."""

    def steps(self, observed: T_contra, now: float) -> Steps:
        """As `decide`, in steps."""

    def answered(self, action: Action, refusal: str, now: float) -> None:
        """The API server has answered: the cache has the newest state of the object. `refusal`: why it refused the
        action, and would refuse it again; else empty."""


@runtime_checkable
class Detached(Protocol[T_contra]):
    """A `Reconciler` whose `decide` depends on `observed` alone, of which nobody changes anything: what takes long is
    decided in a thread, and the event loop has a turn every few milliseconds meanwhile."""

    def takes_long(self, observed: T_contra) -> bool:
        """Whether to decide takes more than some milliseconds."""


class Background(Protocol):
    """A task that runs while this replica leads (scraping agents, following sidecars); cancelled when it stops."""

    async def run(self, store: StoreView, queue: Queue) -> None:
        """Runs until cancelled; survives its own errors."""
