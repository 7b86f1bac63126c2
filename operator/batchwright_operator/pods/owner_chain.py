"""Whose a model pod is: pod -> ReplicaSet -> Deployment -> ModelDeployment, each by uid.

Labels and annotations prove nothing, as whoever may make a pod in any namespace writes them: believed by themselves, a
forged receipt fills a node in everybody's books, and a forged label is sent a bearer token.
"""

from __future__ import annotations

from collections.abc import Iterable

from batchwright_operator.kube.metadata import controller_of, controller_uid, label
from batchwright_operator.kube.objects import DEPLOYMENT, MODEL_DEPLOYMENT, REPLICA_SET, Raw, Resource
from batchwright_operator.reconcile.interfaces import StoreView, Watch
from batchwright_operator.reconcile.keys import Keys
from batchwright_worker.api.names import COMPONENT_MODEL, LABEL_COMPONENT, LABEL_DEPLOYMENT


def chain_watches(replica_set_keys: Keys) -> Iterable[Watch]:
    """The watches of what stands between a ModelDeployment and its pods. A pod may be seen before its ReplicaSet is,
    which therefore concerns what its pods do."""
    yield Watch(resource=REPLICA_SET, keys=replica_set_keys, label_selector=LABEL_DEPLOYMENT, metadata_only=True)
    yield Watch(resource=DEPLOYMENT, keys=replica_set_keys, label_selector=LABEL_DEPLOYMENT)


class OwnerChains:
    """The chains of the pods in one view of the cache; each ReplicaSet is followed once."""

    def __init__(self, store: StoreView) -> None:
        self._store = store
        self._known: dict[str, Raw | None] = {}

    def model_deployment_of(self, pod: Raw) -> Raw | None:
        """The ModelDeployment that the pod is a replica of; None for any other pod, whatever its labels say."""
        uid = controller_uid(pod)
        if uid is None or label(pod, LABEL_COMPONENT) != COMPONENT_MODEL:
            return None
        if uid not in self._known:
            self._known[uid] = self._follow(pod)
        found = self._known[uid]
        if found is None or label(pod, LABEL_DEPLOYMENT) != found["metadata"]["name"]:
            return None
        return found

    def _follow(self, pod: Raw) -> Raw | None:
        obj: Raw | None = pod
        for resource in (REPLICA_SET, DEPLOYMENT, MODEL_DEPLOYMENT):
            obj = self._controller(resource, obj) if obj is not None else None
        return obj

    def _controller(self, resource: Resource, obj: Raw) -> Raw | None:
        owner = controller_of(obj)
        if owner is None or owner.get("kind") != resource.kind:
            return None
        found = self._store.get(resource, obj["metadata"].get("namespace", ""), owner["name"])
        return found if found is not None and found["metadata"]["uid"] == owner["uid"] else None
