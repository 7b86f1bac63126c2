"""The keys that reconcilers work by, and the key of the object that a watched one concerns; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from batchwright_operator.kube.metadata import label
from batchwright_operator.kube.objects import Raw
from batchwright_operator.reconcile.decisions import Key

MODEL_DEPLOYMENT_RECONCILER: Final = "modeldeployment"
INFERENCE_JOB_RECONCILER: Final = "inferencejob"

Keys = Callable[[Raw], Iterator[Key]]
"""The `keys` of a Watch: what must be reconciled when this object changed."""


def key_of(reconciler: str, raw: Raw) -> Key:
    """The key of a namespaced object."""
    metadata = raw["metadata"]
    return Key(reconciler=reconciler, namespace=metadata["namespace"], name=metadata["name"])


def own_keys(reconciler: str) -> Keys:
    """An object concerns itself."""

    def keys(raw: Raw) -> Iterator[Key]:
        yield key_of(reconciler, raw)

    return keys


def label_keys(reconciler: str, name: str) -> Keys:
    """A child concerns the object of its namespace that its label `name` names: the label outlives its owner, so that
    a child whose owner was deleted still queues the object that has the name now."""

    def keys(raw: Raw) -> Iterator[Key]:
        if owner := label(raw, name):
            yield Key(reconciler=reconciler, namespace=raw["metadata"]["namespace"], name=owner)

    return keys


def no_keys(_raw: Raw) -> Iterator[Key]:
    """A watched object that is only read: its changes reconcile nothing by themselves."""
    return iter(())
