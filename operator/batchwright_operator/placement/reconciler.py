"""Reconciler of placement: one key for all gated pods; facts come from the cache and `LiveState`, `cycle` decides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from typing import Final

from batchwright_operator.kube.metadata import is_leaving, label
from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, MODEL_DEPLOYMENT, NODE, POD, PV, PVC, Raw
from batchwright_operator.placement.cluster_state import ClusterState
from batchwright_operator.placement.cycle import Cycle, Memory
from batchwright_operator.pods.lifecycle import is_over
from batchwright_operator.pods.owner_chain import chain_watches
from batchwright_operator.reconcile.decisions import Action, Decision, Delete, Key, Patch
from batchwright_operator.reconcile.interfaces import StoreView, Watch
from batchwright_operator.reconcile.live_state import LiveState
from batchwright_operator.settings import Settings
from batchwright_worker.api.names import COMPONENT_MODEL, LABEL_COMPONENT, LABEL_DEPLOYMENT

KEY: Final = Key(reconciler="placement")
"""One key: pods that are decided together do not compete, and each sees the placements decided before it."""


class PlacementReconciler:
    """The `reconcile.interfaces.Stepwise` reconciler of placement."""

    name = KEY.reconciler

    def __init__(self, settings: Settings, live: LiveState) -> None:
        self._settings = settings
        self._state, self._memory = ClusterState(settings, live), Memory()

    def watches(self) -> Iterable[Watch]:
        """All pods and nodes, and what can make a node fit that did not: profiles, claims, volumes, deployments."""
        yield Watch(resource=POD, keys=_keys_of_pod, index_labels=(LABEL_COMPONENT, LABEL_DEPLOYMENT))
        yield from chain_watches(lambda _: iter((KEY,)))
        for resource in (NODE, ACCELERATOR_PROFILE, PVC, PV):
            yield Watch(resource=resource, keys=lambda _: (KEY,))
        yield Watch(resource=MODEL_DEPLOYMENT, keys=lambda _: (KEY,))

    def observe(self, store: StoreView, key: Key) -> ClusterState | None:
        """The state of the cluster; None while no pod is gated and none was refused. Good until the next call."""
        is_current = self._state.update(store)
        return self._state if self._state.gated or self._state.refused or not is_current else None

    def steps(self, observed: ClusterState, now: float) -> Cycle:
        """See `cycle`."""
        return Cycle(observed, self._memory, self._settings, now)

    def answered(self, action: Action, refusal: str, now: float) -> None:
        """What was decided for a pod is in the cache, or was refused: then the pod is left alone for a while."""
        if isinstance(action, Patch | Delete):
            place = (action.namespace, action.name)
            if refusal and (uid := self._state.uid_of(place)):
                self._memory.refused(uid, refusal, now)
            self._state.answered(place)

    def decide(self, observed: ClusterState, now: float) -> Decision:
        """A whole cycle at once."""
        cycle = self.steps(observed, now)
        actions = tuple(chain.from_iterable(cycle))
        for action in actions:
            self.answered(action, "", now)
        return replace(cycle.outcome(), actions=actions)


def _keys_of_pod(pod: Raw) -> Iterable[Key]:
    """Model pods concern placement, and so does every other pod that ends and makes room."""
    is_model = label(pod, LABEL_COMPONENT) == COMPONENT_MODEL
    return (KEY,) if is_model or is_over(pod) or is_leaving(pod) else ()
