"""A small reconciler for tests of what lies under all of them: it echoes a ModelDeployment into children and status."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from batchwright_operator.kube.objects import CONFIG_MAP, DEPLOYMENT, MODEL_DEPLOYMENT, Raw
from batchwright_operator.reconcile.decisions import Apply, Decision, Event, Key, StatusWrite
from batchwright_operator.reconcile.interfaces import StoreView, Watch
from batchwright_operator.reconcile.live_state import LiveState
from batchwright_operator.settings import Settings

LABEL = "batchwright.dev/deployment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """What the decision needs."""

    source: Raw
    children: int
    rejection: str


class EchoReconciler:
    """Implements `reconcile.interfaces.Reconciler`."""

    name = "echo"

    def __init__(self, settings: Settings, live: LiveState) -> None:
        self._settings = settings
        self._live = live

    def watches(self) -> Iterable[Watch]:
        yield Watch(resource=MODEL_DEPLOYMENT, keys=lambda obj: [_key(obj["metadata"], obj["metadata"]["name"])])
        for resource in (CONFIG_MAP, DEPLOYMENT):
            yield Watch(resource=resource, keys=_owner, label_selector=LABEL)

    def observe(self, store: StoreView, key: Key) -> Echo | None:
        source = store.get(MODEL_DEPLOYMENT, key.namespace, key.name)
        if source is None or source["metadata"].get("deletionTimestamp"):
            return None
        uid = source["metadata"]["uid"]
        children = sum(len(store.owned(resource, uid)) for resource in (CONFIG_MAP, DEPLOYMENT))
        rejection = self._live.rejections.get(key)
        return Echo(source=source, children=children, rejection=rejection.message if rejection else "")

    def decide(self, observed: Echo, now: float) -> Decision:
        source = observed.source
        metadata = source["metadata"]
        ready = observed.children == 2
        was_ready = any(one["status"] == "True" for one in source.get("status", {}).get("conditions") or ())
        conditions = [_condition(source, "Ready", ready, observed.rejection)]
        status = {"observedGeneration": metadata["generation"], "replicas": source["spec"]["replicas"]}
        event = Event(regarding=source, reason="Echoed", message="Both children exist.")
        return Decision(
            actions=(Apply(resource=CONFIG_MAP, body=_config(source)), Apply(resource=DEPLOYMENT, body=_pods(source))),
            status=StatusWrite(
                resource=MODEL_DEPLOYMENT, regarding=source, status={**status, "conditions": conditions}
            ),
            events=(event,) if ready and not was_ready else (),
            metrics={f'echo_children{{name="{metadata["name"]}"}}': observed.children},
        )


def _key(metadata: Raw, name: str) -> Key:
    return Key(reconciler="echo", namespace=metadata["namespace"], name=name)


def _owner(obj: Raw) -> list[Key]:
    metadata = obj["metadata"]
    return [_key(metadata, metadata["labels"][LABEL])]


def _condition(source: Raw, kind: str, met: bool, rejection: str) -> Raw:
    old = next((one for one in source.get("status", {}).get("conditions") or () if one["type"] == kind), None)
    status = "True" if met else "False"
    reason = "Rejected" if rejection else "Echoed" if met else "Echoing"
    time = old["lastTransitionTime"] if old and old["status"] == status else "2026-01-01T00:00:00Z"
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": rejection[:200],
        "observedGeneration": source["metadata"]["generation"],
        "lastTransitionTime": time,
    }


def _child(source: Raw, suffix: str) -> dict[str, Any]:
    metadata = source["metadata"]
    reference = {
        "apiVersion": MODEL_DEPLOYMENT.api_version,
        "kind": MODEL_DEPLOYMENT.kind,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
    }
    return {
        "name": f"{metadata['name']}-{suffix}",
        "namespace": metadata["namespace"],
        "labels": {LABEL: metadata["name"]},
        "ownerReferences": [reference],
    }


def _config(source: Raw) -> Raw:
    extra = {key: "1" for name, key in (source["metadata"].get("annotations") or {}).items() if name == "echo-key"}
    data = {"replicas": str(source["spec"]["replicas"]), "generation": str(source["metadata"]["generation"])}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _child(source, "echo"), "data": data | extra}


def _pods(source: Raw) -> Raw:
    labels = {"app": source["metadata"]["name"]}
    container = {"name": "main", "image": "none", "resources": {"requests": {"cpu": "1000m"}}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _child(source, "pods"),
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }
