"""The ModelDeployment that a user writes, as frozen values; importable everywhere (no I/O, nothing heavy).

`parse_deployment(raw)` is the one reader of a raw ModelDeployment's spec. See `manifest_fields` for how these structs
become the CRD, `manifest_job` for InferenceJobs, `manifest_documents` for files, defaults and validation.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from batchwright_worker.api.fields import (
    ATOMIC,
    DECIMAL_PATTERN,
    UNIQUE,
    Accelerator,
    EnvVar,
    IntOrPercent,
    KubernetesObject,
    Label,
    LocalObjectReference,
    ObjectName,
    PodOptions,
    ResourceRequirements,
    Text,
    Toleration,
    Value,
    doc,
    keyed,
)
from batchwright_worker.api.model import Artifact, Batching, Emulated, Model, Padding, Script, Targets, Tensor

__all__ = [
    "Artifact",
    "Batching",
    "Emulated",
    "Eviction",
    "Layerwise",
    "Model",
    "ModelDeployment",
    "ModelDeploymentSpec",
    "Padding",
    "Placement",
    "PodOptions",
    "QueueOrder",
    "ReadinessRule",
    "Runtime",
    "Script",
    "Strategy",
    "Targets",
    "Tensor",
    "Tls",
    "Weights",
    "parse_deployment",
    "parse_spec",
]

Weight = Annotated[str, msgspec.Meta(max_length=13, pattern=DECIMAL_PATTERN)]

QueueOrder = Literal["Balanced", "Longest", "Oldest"]
"""The names of `scheduler/order`'s orders."""
Eviction = Literal["LeastWorth", "LeastRecentlyUsed"]
"""Which idle model makes room for another one (`scheduler/views`)."""

ReadinessRule = Literal["All", "Any"]


class DeviceClaim(Value, kw_only=True, frozen=True):
    """Devices by Dynamic Resource Allocation: every pod gets a ResourceClaim of its own."""

    device_class_name: Annotated[ObjectName, doc("DeviceClass of the devices, for example gpu.nvidia.com.")]
    selectors: Annotated[
        tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=4096)], ...],
        doc(
            "CEL expressions that a device must satisfy, all of them, for example "
            "device.capacity['gpu.nvidia.com'].memory.compareTo(quantity('40Gi')) >= 0.",
            max_length=16,
            extra_json_schema=ATOMIC,
        ),
    ] = ()


class Runtime(Value, kw_only=True, frozen=True):
    """The runtime container for one kind of accelerator."""

    accelerator: Annotated[Accelerator, doc("Kind of accelerator: cpu or an extended resource.")]
    count: Annotated[int, doc("Devices per pod (each gets a runtime process of its own). 1 for cpu.", ge=1, le=16)] = 1
    device_claim: Annotated[
        DeviceClaim | None,
        doc(
            "Ask for the devices by a ResourceClaim instead of the extended resource that `accelerator` names. Needs "
            "resource.k8s.io/v1 in the cluster, and kube-scheduler picks the node, which knows where devices are free."
        ),
    ] = None
    image: Annotated[
        Annotated[str, msgspec.Meta(min_length=1, max_length=1024)] | None,
        doc("Image of the container. Unset: from the operator's runtime table by (accelerator, format)."),
    ] = None
    resources: Annotated[
        ResourceRequirements | None, doc("Resources of the container. Unset: from the operator's runtime table.")
    ] = None
    env: Annotated[
        tuple[EnvVar, ...],
        doc("Environment variables of the container.", max_length=64, extra_json_schema=keyed("name")),
    ] = ()
    memory_budget_bytes: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=1 << 53)] | None,
        doc("Device memory that models and batches may use. Unset: all of the device, or of the memory limit for cpu."),
    ] = None
    protocol: Annotated[
        Literal["batchwright", "open-inference"],
        doc("open-inference: the image is an Open Inference Protocol server; the sidecar batches in front of it."),
    ] = "batchwright"
    port: Annotated[
        Annotated[int, msgspec.Meta(ge=1024, le=65_535)] | None,
        doc("HTTP port of the open-inference server; 8000, 8001 and 8090 are the sidecar's own."),
    ] = None
    grpc_port: Annotated[
        Annotated[int, msgspec.Meta(ge=1024, le=65_535)] | None,
        doc(
            "gRPC port of the open-inference server. Set: batches travel over it, always as raw tensors. Unset: over "
            "HTTP, as JSON unless the server tells that it has the binary tensor extension."
        ),
    ] = None
    command: Annotated[
        tuple[Text, ...],
        doc("Command of the open-inference server. Unset: the image's.", max_length=64, extra_json_schema=ATOMIC),
    ] = ()
    args: Annotated[
        tuple[Text, ...],
        doc("Arguments of the open-inference server. Unset: the image's.", max_length=64, extra_json_schema=ATOMIC),
    ] = ()


class Layerwise(Value, kw_only=True, frozen=True):
    """Layer-by-layer execution of several models whose weights exceed the memory (method C)."""

    mode: Annotated[
        Literal["Off", "Literal", "Balanced", "Rollout", "Auto"],
        doc(
            '"Off" (write the quotes: bare Off is a boolean in YAML), Literal: the published rule, Balanced: the '
            "better tie-break, Rollout: each candidate is tried and finished by simple rules over a horizon, for "
            "networks that change their character from layer to layer. Auto: Rollout, or Balanced where units are "
            "short (7 ms) or models more than three; models stay whole where all fit memoryBudgetBytes, and run "
            "whole in turn where the plan says that this is as fast; the status says which, and why."
        ),
    ] = "Off"
    skip_limit: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None,
        doc("How often a model may be passed over before it goes first. Unset: from measured layer times."),
    ] = None
    memory_budget_bytes: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=1 << 53)] | None,
        doc("Memory for streamed weights; needed unless the mode is Off."),
    ] = None


class Weights(Value, kw_only=True, frozen=True):
    """Weights of the terms of the load (method A4), as decimal strings; they are divided by their sum."""

    utilization: Annotated[Weight, doc("Weight of the processor's utilization.")] = "1"
    memory: Annotated[Weight, doc("Weight of its memory utilization.")] = "1"
    capacity: Annotated[Weight, doc("Weight of its benchmarked capacity.")] = "1"


class Placement(Value, kw_only=True, frozen=True):
    """Where the pods may go and how they are placed (methods A4, A5)."""

    policy: Annotated[
        Literal["Additive", "Forecast"],
        doc(
            "Forecast: where the pod gets most of what the benchmark says is left; with a target throughput, once the "
            "models have run somewhere, where utilization stays smallest. Additive: smallest load by method A4, with "
            "`weights`; also used where no candidate is benchmarked."
        ),
    ] = "Forecast"
    preference: Annotated[
        tuple[Accelerator, ...],
        doc(
            "Kinds of accelerators, the best one first, those not named last. Replicas move to a better kind that has "
            "room: they are ready there before those here stop. Unset: a new replica goes where it has the most "
            "capacity, and stays on its kind.",
            max_length=10,
            extra_json_schema=UNIQUE,
        ),
    ] = ()
    node_selector: Annotated[dict[str, Label], doc("Labels that a node must have.", max_length=32)] = msgspec.field(
        default_factory=dict
    )
    tolerations: Annotated[
        tuple[Toleration, ...], doc("Taints that the pods put up with.", max_length=32, extra_json_schema=ATOMIC)
    ] = ()
    weights: Annotated[Weights, doc("Weights of the terms of the load, for policy Additive.")] = Weights()
    spread: Annotated[bool, doc("Keep one node from taking all replicas where others are nearly as good.")] = True
    rebalance: Annotated[
        Literal["Never", "OnSustainedImbalance"],
        doc(
            "OnSustainedImbalance: move one pod at a time, a new one first, when its processor is crowded and a much "
            "better one stays better. Never: a pod stays where it is."
        ),
    ] = "OnSustainedImbalance"


class RollingUpdate(Value, kw_only=True, frozen=True):
    """Bounds of a rolling update, as in apps/v1."""

    max_surge: Annotated[
        IntOrPercent | None,
        doc("Pods above the wanted number, as a number or a percentage."),
    ] = None
    max_unavailable: Annotated[
        IntOrPercent | None,
        doc("Pods that may be missing, as a number or a percentage."),
    ] = None


class Strategy(Value, kw_only=True, frozen=True):
    """How pods are replaced, as in apps/v1."""

    type: Annotated[Literal["RollingUpdate", "Recreate"], doc("RollingUpdate or Recreate.")] = "RollingUpdate"
    rolling_update: Annotated[RollingUpdate | None, doc("Bounds; with type RollingUpdate only.")] = None


class DisruptionBudget(Value, kw_only=True, frozen=True):
    """The PodDisruptionBudget of the pods."""

    mode: Annotated[
        Literal["Managed", "None"],
        doc(
            '"None": Batchwright makes none. Write it where you have a PodDisruptionBudget of your own for the pods: '
            "Kubernetes evicts no pod that two of them select."
        ),
    ] = "Managed"
    max_unavailable: Annotated[
        IntOrPercent | None,
        doc("Pods that may be evicted at once, as a number or a percentage. Unset: 1."),
    ] = None


class NetworkPeer(Value, kw_only=True, frozen=True):
    """Who may call, as in `ingress.from` of a NetworkPolicy."""

    pod_selector: Annotated[
        KubernetesObject | None,
        doc("Pods with these labels; of the same namespace, unless namespaceSelector is set."),
    ] = None
    namespace_selector: Annotated[KubernetesObject | None, doc("Namespaces with these labels; {} is all of them.")] = (
        None
    )
    ip_block: Annotated[KubernetesObject | None, doc("Addresses: cidr, and except for parts of it.")] = None


class NetworkAccess(Value, kw_only=True, frozen=True):
    """The NetworkPolicy of the pods. The control port is open to the operator alone, whoever else may call."""

    mode: Annotated[
        Literal["Managed", "None"],
        doc('"None": Batchwright makes no NetworkPolicy, and yours say who may reach the pods.'),
    ] = "Managed"
    sources: Annotated[
        Annotated[tuple[NetworkPeer, ...], msgspec.Meta(max_length=32)] | None,
        doc(
            "Who may call the inference ports (8000, 8001). Unset: pods of the same namespace. Namespaces with the "
            'label batchwright.dev/metrics: "true" may reach port 8000, which has /metrics, in any case.',
            extra_json_schema=ATOMIC,
        ),
    ] = msgspec.field(name="from", default=None)


class Tls(Value, kw_only=True, frozen=True):
    """TLS of the inference ports."""

    secret_ref: Annotated[
        LocalObjectReference,
        doc(
            "A Secret with tls.crt and tls.key (type kubernetes.io/tls, as cert-manager writes it). With ca.crt in it "
            "jobs trust that CA alone, else those of their image. A renewed certificate is taken over at once."
        ),
    ]
    server_name: Annotated[
        Annotated[str, msgspec.Meta(min_length=1, max_length=253)] | None,
        doc("The name in the certificate, as jobs verify it. Unset: NAME.NAMESPACE.svc, the Service's."),
    ] = None
    client_auth: Annotated[
        Literal["None", "Required"],
        doc(
            "Required: only clients with a certificate that the client CA has signed are served, /metrics included. "
            "Probes and the operator use the control port, which asks for none."
        ),
    ] = "None"
    client_ca_secret_ref: Annotated[
        LocalObjectReference | None,
        doc(
            "A Secret with ca.crt: who signs clients' certificates. Unset: the ca.crt of secretRef. A changed one is "
            "taken over at once, for new connections."
        ),
    ] = None
    jobs_secret_ref: Annotated[
        LocalObjectReference | None,
        doc(
            "A Secret with tls.crt and tls.key that the runners of InferenceJobs of this namespace show. With "
            "clientAuth Required jobs wait for it."
        ),
    ] = None


class ModelDeploymentSpec(Value, kw_only=True, frozen=True):
    """What the user wants."""

    replicas: Annotated[int, doc("Pods, over all kinds of accelerators.", ge=0, le=10_000)] = 1
    models: Annotated[
        tuple[Model, ...],
        doc(
            "One or more models that share the pods' accelerators.",
            min_length=1,
            max_length=500,
            extra_json_schema=keyed("name"),
        ),
    ]
    runtimes: Annotated[
        tuple[Runtime, ...],
        doc(
            "Per kind of accelerator that the pods may land on. Unset: every kind that all models have an artifact "
            "for, with the operator's runtime table.",
            max_length=10,
            extra_json_schema=keyed("accelerator"),
        ),
    ] = ()
    queue_order: Annotated[
        QueueOrder,
        doc(
            "Which model's queue is served first: Longest or Oldest as published (method B4), Balanced: by the waiting "
            "time that a batch serves per second of device time."
        ),
    ] = "Balanced"
    evict: Annotated[
        Eviction,
        doc(
            "Which idle model is unloaded first where one needs room (method B5). LeastWorth: the one whose reload "
            "would cost least (load time x demand / bytes). LeastRecentlyUsed: the one that was served longest ago."
        ),
    ] = "LeastWorth"
    readiness: Annotated[
        ReadinessRule,
        doc(
            "When a pod takes traffic. All: as soon as every model is ready, so that a revision with a broken model "
            "replaces no pod that serves; a pod that has been ready stays so while any model is. Any: as soon as every "
            "model was tried and one is ready."
        ),
    ] = "All"
    layerwise: Annotated[Layerwise, doc("Layer-by-layer execution of several models.")] = Layerwise()
    placement: Annotated[Placement, doc("Where the pods may go and how they are placed.")] = Placement()
    strategy: Annotated[
        Strategy | None, doc("How pods are replaced. Unset: rolling, and with no surge where devices are exclusive.")
    ] = None
    disruption_budget: Annotated[
        DisruptionBudget | None, doc("How many pods may be evicted at once (a drain, an autoscaler). Unset: one.")
    ] = None
    progress_deadline_seconds: Annotated[
        int,
        doc(
            "How long nothing may move on while replicas are missing, before the ModelDeployment counts as Stalled. As "
            "in apps/v1: nothing is undone then.",
            ge=1,
            le=86_400,
        ),
    ] = 600
    revision_history_limit: Annotated[
        int,
        doc(
            "Old revisions (spec and pod template) that are kept per kind of accelerator, for `kubectl batchwright "
            "rollback`.",
            ge=0,
            le=100,
        ),
    ] = 5
    repository_control: Annotated[bool, doc("May callers load and unload models over the inference port?")] = False
    network_policy: Annotated[
        NetworkAccess | None,
        doc("Who may call the pods. Unset: pods of the same namespace, unless the administrator says otherwise."),
    ] = None
    tls: Annotated[
        Tls | None,
        doc("Serve HTTP (with /metrics) and gRPC by TLS, and no longer without. Unset: without, or by a mesh's."),
    ] = None
    pod: Annotated[PodOptions, doc("Further fields of the pods.")] = PodOptions()


class ModelDeployment(msgspec.Struct, kw_only=True, frozen=True):
    """A ModelDeployment as far as its pods and local mode need it: identity and spec, defaults included."""

    name: str
    namespace: str = "default"
    spec: ModelDeploymentSpec

    def model(self, name: str) -> Model | None:
        """The model of this name."""
        return next((model for model in self.spec.models if model.name == name), None)


def parse_spec(spec: dict[str, Any]) -> ModelDeploymentSpec:
    """Raises msgspec.ValidationError, which names the field (`$.models[0].name`), if the spec breaks the schema."""
    return msgspec.convert(spec, ModelDeploymentSpec)


def parse_deployment(raw: dict[str, Any]) -> ModelDeployment:
    """From a raw object with metadata and spec; raises as `parse_spec`."""
    metadata = raw["metadata"]
    return ModelDeployment(
        name=metadata["name"], namespace=metadata.get("namespace", "default"), spec=parse_spec(raw.get("spec", {}))
    )
