"""The children of a ModelDeployment as server-side-apply bodies: deterministic, and fresh dicts on every call.

What lies in a pod is in `rendering_pod`; docs/design/0001 names every piece.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from batchwright_operator.api.model_deployment import ModelDeployment
from batchwright_operator.deployments.shape import fixed_configuration
from batchwright_operator.kube.objects import (
    CONFIG_MAP,
    DEPLOYMENT,
    NETWORK_POLICY,
    PDB,
    SECRET,
    SERVICE,
    Raw,
)
from batchwright_operator.rendering.objects import (
    LABEL_MANAGED_BY,
    LABEL_NAME,
    MANAGED_BY,
    child,
    control_ingress,
    digest,
    headless_name,
    secret_data,
)
from batchwright_operator.rendering.pod_parts import plain
from batchwright_operator.settings import Settings
from batchwright_worker.api.deployment import DisruptionBudget, NetworkAccess
from batchwright_worker.api.names import (
    ANNOTATION_KIND,
    COMPONENT_MODEL,
    GROUP,
    GRPC_PORT,
    HTTP_PORT,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
    LABEL_KIND,
    LIVE_FIELDS,
    child_name,
    kind_slug,
)

COMPONENT_CONFIG: Final = "config"
COMPONENT_REVISION: Final = "revision"
ANNOTATION_UPGRADE: Final = f"{GROUP}/upgrade"
"""On Deployments that roll, or did so last, because of an upgrade: the revision that they were brought to."""
ANNOTATION_NO_FIT: Final = f"{GROUP}/no-fit"
"""On Deployments: JSON, accelerator kind -> when it had no place for a pod, and a digest of its processors then."""
ANNOTATION_SINCE: Final = f"{GROUP}/since-generation"
"""On ConfigMaps that change as their pods run: the generation of the ModelDeployment that made it what it is."""
LABEL_METRICS: Final = f"{GROUP}/metrics"
"""On namespaces whose Prometheus may read the metrics of agents and sidecars: "true"."""
_FILE: Final = "deployment.json"
"""Of ConfigMaps; pods see it as `names.DEPLOYMENT_FILE`."""


def own_labels(name: str) -> dict[str, str]:
    """Labels of every child of this ModelDeployment."""
    return {LABEL_NAME: name, LABEL_MANAGED_BY: MANAGED_BY, LABEL_DEPLOYMENT: name}


def pod_selector(name: str) -> dict[str, str]:
    """Labels by which all model pods of a ModelDeployment are found."""
    return {LABEL_DEPLOYMENT: name, LABEL_COMPONENT: COMPONENT_MODEL}


def deployment_json(owner: Raw, spec: Raw, generation: int | None = None) -> str:
    """What the processes in the pod read: the object without identity, with this part of its spec
    (`shape.configuration`), and the generation that has made it what it is, where it changes as they run."""
    metadata = owner["metadata"]
    since = {} if generation is None else {"generation": generation}
    body = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], **since},
        "spec": spec,
    }
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def config_name(owner: Raw, kind: str) -> str:
    """Name of the ConfigMap for pods of this kind that are made now; what they cannot take over as they run makes
    another name, so another pod template."""
    fixed = deployment_json(owner, fixed_configuration(owner["spec"], kind, LIVE_FIELDS))
    # With the fields: one and the same ConfigMap cannot be of pods that take over other ones.
    return child_name(owner["metadata"]["name"], "config", digest([fixed, LIVE_FIELDS]))


def config_map(owner: Raw, name: str, text: str, generation: int | None = None) -> Raw:
    """The ConfigMap with deployment.json, which changes as its pods run if it is of a generation."""
    labels = own_labels(owner["metadata"]["name"]) | {LABEL_COMPONENT: COMPONENT_CONFIG}
    parts: Raw = {"immutable": True} if generation is None else {"annotations": {ANNOTATION_SINCE: str(generation)}}
    return child(CONFIG_MAP, owner, name, labels, data={_FILE: text}, **parts)


def configuration_text(raw: Raw) -> str:
    """The deployment.json in a ConfigMap; empty where somebody took it out."""
    return str((raw.get("data") or {}).get(_FILE, ""))


def control_secret(owner: Raw, labels: Mapping[str, str], token: str) -> Raw:
    """The token of the control ports of this object's pods."""
    name = child_name(owner["metadata"]["name"], "control")
    return child(SECRET, owner, name, labels, type="Opaque", data=secret_data(token))


def deployment_name(name: str, kind: str) -> str:
    """Name of the apps/v1 Deployment of one accelerator kind."""
    return child_name(name, kind_slug(kind))


def deployment(
    wanted: ModelDeployment, kind: str, replicas: int, *, template: Raw, strategy: Raw, annotations: Mapping[str, str]
) -> Raw:
    """One apps/v1 Deployment per accelerator kind; its `replicas` are the operator's."""
    name, owner = wanted.name, wanted.raw
    labels = own_labels(name) | {LABEL_KIND: kind_slug(kind), LABEL_COMPONENT: COMPONENT_MODEL}
    spec = {
        "replicas": replicas,
        "paused": False,  # said, so that it is undone where somebody pauses it, and the next spec is rolled out
        "revisionHistoryLimit": wanted.spec.revision_history_limit,
        "progressDeadlineSeconds": wanted.spec.progress_deadline_seconds,
        "selector": {"matchLabels": {LABEL_DEPLOYMENT: name, LABEL_KIND: kind_slug(kind)}},
        "strategy": strategy,
        "template": template,
    }
    notes = {ANNOTATION_KIND: kind, **annotations}
    return child(DEPLOYMENT, owner, deployment_name(name, kind), labels, annotations=notes, spec=spec)


def service(owner: Raw) -> Raw:
    """A ClusterIP Service for users, under the name that they gave to the ModelDeployment."""
    name = owner["metadata"]["name"]
    spec: Raw = {"type": "ClusterIP", "selector": pod_selector(name), "ports": _service_ports(owner)}
    return child(SERVICE, owner, name, own_labels(name), spec=spec)


def headless_service(owner: Raw, service_name: str = "") -> Raw:
    """A headless Service whose addresses are the ready replicas."""
    name = owner["metadata"]["name"]
    spec: Raw = {
        "type": "ClusterIP",
        "clusterIP": "None",
        "selector": pod_selector(name),
        "ports": _service_ports(owner),
    }
    return child(SERVICE, owner, service_name or headless_name(name), own_labels(name), spec=spec)


def old_headless_name(name: str) -> str:
    """Its name before 0.1.0, which another ModelDeployment may have."""
    return child_name(name, "replicas")


def _service_ports(owner: Raw) -> list[Raw]:
    # Meshes, gateways and ingress controllers take a port's name for its protocol, unless this says otherwise.
    tls = {"appProtocol": "https"} if owner["spec"].get("tls") else {}
    return [
        {"name": "http", "port": HTTP_PORT, "protocol": "TCP", "targetPort": "http", **tls},
        {"name": "grpc", "port": GRPC_PORT, "protocol": "TCP", "targetPort": "grpc", **tls},
    ]


def disruption_budget(owner: Raw, wanted: DisruptionBudget | None) -> Raw | None:
    """One replica at a time may be evicted, unless the spec says otherwise; one that is broken always may. None: the
    user has one of their own, and no pod that two select is evicted."""
    if wanted is not None and wanted.mode == "None":
        return None
    name = owner["metadata"]["name"]
    spec = {
        "maxUnavailable": 1 if wanted is None or wanted.max_unavailable is None else wanted.max_unavailable,
        "selector": {"matchLabels": pod_selector(name)},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    return child(PDB, owner, name, own_labels(name), spec=spec)


def network_policy(owner: Raw, access: NetworkAccess | None, settings: Settings) -> Raw | None:
    """Model pods: inference from those whom the spec names, control only from the operator (no policy stops the
    kubelet). None: the user wants none."""
    if access is not None and access.mode == "None":
        return None
    name = owner["metadata"]["name"]
    spec = {
        "podSelector": {"matchLabels": pod_selector(name)},
        "policyTypes": ["Ingress"],
        "ingress": [*_inference_ingress(access, settings), control_ingress(settings.operator_namespace)],
    }
    return child(NETWORK_POLICY, owner, name, own_labels(name), spec=spec)


def _inference_ingress(access: NetworkAccess | None, settings: Settings) -> list[Raw]:
    http, grpc = ({"port": port, "protocol": "TCP"} for port in (HTTP_PORT, GRPC_PORT))
    if access is None or access.sources is None:
        if settings.inference_open_to == "Everywhere":
            return [{"ports": [http, grpc]}]
        callers: list[Raw] = [{"podSelector": {}}]
    else:
        callers = plain(access.sources)
    return [
        {"from": callers, "ports": [http, grpc]},
        {"from": [{"namespaceSelector": {"matchLabels": {LABEL_METRICS: "true"}}}], "ports": [dict(http)]},
    ]
