"""The values of the Helm chart as types, and the schema that Helm checks a user's values against."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from batchwright_operator.settings import Settings
from batchwright_worker.api.fields import doc

Raw = dict[str, Any]


class _Part(msgspec.Struct, kw_only=True, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A part of the values; unknown names are errors."""


class Crds(_Part, kw_only=True, frozen=True):
    """The three CustomResourceDefinitions."""

    install: Annotated[bool, doc("They are part of the release, so that an upgrade of the chart changes them, too.")]
    keep: Annotated[bool, doc("They outlive the release: with them go all ModelDeployments and InferenceJobs.")]


class ImageName(_Part, kw_only=True, frozen=True):
    """One image; `digest` wins over `tag`."""

    repository: Annotated[str, doc("Below `registry`.", min_length=1)]
    tag: Annotated[str, doc("Unset: the chart's appVersion.")] = ""
    digest: Annotated[str, doc("sha256:..", pattern="^(sha256:[0-9a-f]{64})?$")] = ""


class Images(_Part, kw_only=True, frozen=True):
    """Images of everything: the operator has one, all other pods the worker's, those of models included."""

    registry: Annotated[str, doc("Host and path before both repositories, without a slash at the end.")] = ""
    operator: ImageName
    worker: ImageName
    pull_policy: Literal["Always", "IfNotPresent", "Never"]
    pull_secrets: Annotated[
        list[Raw],
        doc(
            "As in a pod: for operator, agents and benchmarks. Pods of models and jobs are in namespaces of users, "
            "whose objects name their own (spec.pod.imagePullSecrets)."
        ),
    ]


class Pod(_Part, kw_only=True, frozen=True):
    """Fields of a pod that the chart does not decide about, as in a pod."""

    resources: Raw
    node_selector: dict[str, str]
    tolerations: list[Raw]
    affinity: Raw
    pod_annotations: dict[str, str]
    priority_class_name: str


class OperatorPod(Pod, kw_only=True, frozen=True):
    """The operator."""

    replicas: Annotated[int, doc("More than one wait behind the Lease.", ge=0, le=10)]


class AgentPod(Pod, kw_only=True, frozen=True):
    """The agents, one per node, in a namespace of their own: they read the node's /proc."""

    namespace: Annotated[str, doc("Not the release's: it allows what Pod Security calls privileged.", min_length=1)]
    create_namespace: Annotated[bool, doc("Make it, with the label that Pod Security wants.")]
    runtime_class_name: Annotated[str, doc("nvidia where GPUs need it.")]


class Toggle(_Part, kw_only=True, frozen=True):
    """A part that may be left out."""

    enabled: bool


class Labelled(Toggle, kw_only=True, frozen=True):
    """A part that somebody else's selector has to find."""

    labels: Annotated[dict[str, str], doc("For example release: kube-prometheus-stack.")]


class Monitoring(_Part, kw_only=True, frozen=True):
    """For the Prometheus operator and Grafana."""

    pod_monitors: Annotated[Labelled, doc("PodMonitors of operator, agents and model pods.")]
    rules: Annotated[Labelled, doc("A PrometheusRule with recording rules and alerts.")]
    dashboards: Annotated[Labelled, doc("ConfigMaps with the boards; the labels are those of Grafana's sidecar.")]


class Values(_Part, kw_only=True, frozen=True):
    """The values of the chart."""

    crds: Crds
    image: Images
    settings: Annotated[Raw, doc("The operator's settings; those that are not here have their defaults.")]
    operator: OperatorPod
    agent: AgentPod
    user_roles: Annotated[Toggle, doc("ClusterRoles that extend view, edit and admin.")]
    admission_policy: Annotated[Toggle, doc("The operator's writes are tied to its own objects.")]
    flow_control: Annotated[Toggle, doc("The operator's requests have seats of their own.")]
    network_policies: Toggle
    monitoring: Monitoring


def schema() -> Raw:
    """JSON Schema of the values: every name is known, at any depth."""
    (root,), parts = msgspec.json.schema_components([Values], ref_template="#/$defs/{name}")
    (settings,), more = msgspec.json.schema_components([Settings], ref_template="#/$defs/{name}")
    values = parts["Values"]
    values["properties"]["settings"] = settings
    values["properties"]["global"] = {"type": "object", "description": "Of a chart that has this one in it."}
    for part in parts.values():  # what a user leaves out has the chart's value
        part.pop("required", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **root, "$defs": {**parts, **more}}
