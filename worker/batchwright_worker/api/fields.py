"""The vocabulary that both manifests share: how a field is described, and the fields taken over from Kubernetes.

Structs here and in `manifest` and `manifest_job` are the one source of the API: the operator's `crd` module turns
them into the CRDs' schemas (descriptions, limits, defaults, list types), and both sides parse with them, so that
an absent field means the struct's default everywhere. `None` means "unset" and has no default in the schema; nor has
anything within a list (`api/defaults`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

KubernetesObject = dict[str, Any]
"""A part of a Kubernetes object that is passed on as it is and checked by the API server when it is used."""


class Value(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """Part of a manifest: camelCase on the wire, unknown fields ignored (a newer CRD may have more)."""


def doc(description: str, **limits: Any) -> msgspec.Meta:
    """A field's description and limits, as `msgspec.Meta` takes them."""
    return msgspec.Meta(description=description, **limits)


def keyed(*keys: str) -> dict[str, Any]:
    """Schema of a list whose elements are told apart (and merged by server-side apply) by these fields."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


UNIQUE: dict[str, Any] = {"x-kubernetes-list-type": "set"}
ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]*)?([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$"
PERCENT_PATTERN = r"^[0-9]{1,3}%$"
DECIMAL_PATTERN = r"^[0-9]{1,6}(\.[0-9]{1,6})?$"
LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
NAME_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
ACCELERATOR_PATTERN = r"^(cpu|[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)$"
SIGNED_NUMBER_PATTERN = r"^-?[0-9]{1,12}(\.[0-9]{1,12})?$"

ObjectName = Annotated[str, msgspec.Meta(min_length=1, max_length=253, pattern=NAME_PATTERN)]
Accelerator = Annotated[str, msgspec.Meta(min_length=1, max_length=253, pattern=ACCELERATOR_PATTERN)]
Quantity = Annotated[int, msgspec.Meta(ge=0)] | Annotated[str, msgspec.Meta(max_length=64, pattern=QUANTITY_PATTERN)]
IntOrPercent = Annotated[int, msgspec.Meta(ge=0)] | Annotated[str, msgspec.Meta(max_length=4, pattern=PERCENT_PATTERN)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
Text = Annotated[str, msgspec.Meta(max_length=4096)]
Label = Annotated[str, msgspec.Meta(max_length=63)]


class LocalObjectReference(Value, kw_only=True, frozen=True):
    """An object of the same namespace."""

    name: Annotated[ObjectName, doc("Its name.")]


class ResourceRequirements(Value, kw_only=True, frozen=True):
    """Compute resources of a container, as in a pod."""

    requests: Annotated[
        dict[str, Quantity],
        doc("What the container is sure to get, by resource (cpu, memory, ...).", max_length=16),
    ] = {}
    limits: Annotated[
        dict[str, Quantity],
        doc("What the container may use at most, by resource. Devices of the accelerator are added.", max_length=16),
    ] = {}


class EnvVar(Value, kw_only=True, frozen=True):
    """An environment variable of a container, as in a pod."""

    name: Annotated[str, doc("Name of the variable.", min_length=1, max_length=253)]
    value: Annotated[Annotated[str, msgspec.Meta(max_length=32768)] | None, doc("Its value.")] = None
    value_from: Annotated[
        KubernetesObject | None,
        doc("Where the value comes from instead: configMapKeyRef, secretKeyRef, fieldRef or resourceFieldRef."),
    ] = None


class Toleration(Value, kw_only=True, frozen=True):
    """A taint that the pods put up with, as in a pod."""

    key: Annotated[Annotated[str, msgspec.Meta(max_length=317)] | None, doc("The taint's key; unset: every key.")] = (
        None
    )
    operator: Annotated[
        Literal["Exists", "Equal", "Lt", "Gt"] | None,
        doc("How key and value are compared; unset: Equal."),
    ] = None
    value: Annotated[Label | None, doc("The taint's value; empty with Exists.")] = None
    effect: Annotated[
        Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None,
        doc("The taint's effect; unset: every effect."),
    ] = None
    toleration_seconds: Annotated[int | None, doc("How long a NoExecute taint is put up with; unset: forever.")] = None


class VolumeMount(Value, kw_only=True, frozen=True):
    """Where a volume appears in the containers, as in a pod."""

    name: Annotated[str, doc("Name of one of `volumes`.", min_length=1, max_length=63)]
    mount_path: Annotated[str, doc("Path in the container.", min_length=1, max_length=4096)]
    sub_path: Annotated[Text | None, doc("Path within the volume; unset: its root.")] = None
    read_only: Annotated[bool | None, doc("Mounted read-only if true.")] = None


class Volume(Value, kw_only=True, frozen=True, forbid_unknown_fields=False):
    """A volume of the pods: `name` and one source, as in a pod (hostPath is refused by Pod Security restricted)."""

    name: Annotated[str, doc("Name for `volumeMounts`.", min_length=1, max_length=63, pattern=LABEL_PATTERN)]
    config_map: Annotated[KubernetesObject | None, doc("A ConfigMap, as in a pod.")] = None
    secret: Annotated[KubernetesObject | None, doc("A Secret, as in a pod.")] = None
    empty_dir: Annotated[KubernetesObject | None, doc("An empty directory, as in a pod.")] = None
    persistent_volume_claim: Annotated[KubernetesObject | None, doc("A PersistentVolumeClaim, as in a pod.")] = None
    projected: Annotated[KubernetesObject | None, doc("Several sources in one directory, as in a pod.")] = None
    csi: Annotated[KubernetesObject | None, doc("An inline CSI volume, as in a pod.")] = None
    ephemeral: Annotated[KubernetesObject | None, doc("A claim that lives as long as the pod, as in a pod.")] = None
    downward_api: Annotated[KubernetesObject | None, msgspec.Meta(description="Fields of the pod, as in a pod.")] = (
        msgspec.field(name="downwardAPI", default=None)
    )
    image: Annotated[KubernetesObject | None, doc("An OCI image as a read-only volume, as in a pod.")] = None
    nfs: Annotated[KubernetesObject | None, doc("An NFS export, as in a pod.")] = None


class PodOptions(Value, kw_only=True, frozen=True):
    """Fields of the pods that Batchwright does not decide about; each is taken over into the pod as it is."""

    service_account_name: Annotated[ObjectName | None, doc("ServiceAccount of the pods; unset: default.")] = None
    image_pull_secrets: Annotated[
        tuple[LocalObjectReference, ...],
        doc("Secrets to pull images with.", max_length=16, extra_json_schema=keyed("name")),
    ] = ()
    volumes: Annotated[
        tuple[Volume, ...],
        doc("Volumes beside those that Batchwright mounts.", max_length=32, extra_json_schema=keyed("name")),
    ] = ()
    volume_mounts: Annotated[
        tuple[VolumeMount, ...],
        doc(
            "Where these volumes appear in the containers that run your code.",
            max_length=64,
            extra_json_schema=keyed("mountPath"),
        ),
    ] = ()
    priority_class_name: Annotated[ObjectName | None, doc("PriorityClass of the pods.")] = None
    runtime_class_name: Annotated[ObjectName | None, doc("RuntimeClass of the pods, for example nvidia.")] = None
    security_context: Annotated[
        KubernetesObject | None,
        doc(
            "The pods' security context, laid over the default (user, group and fsGroup 65532, seccomp RuntimeDefault)."
        ),
    ] = None
    labels: Annotated[
        dict[str, Label],
        doc("Labels to add to the pods. Those of Batchwright itself win.", max_length=64),
    ] = {}
    annotations: Annotated[
        dict[str, Annotated[str, msgspec.Meta(max_length=65536)]],
        doc("Annotations to add to the pods. Those of Batchwright itself win.", max_length=64),
    ] = {}
