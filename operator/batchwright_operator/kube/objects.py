"""Kubernetes objects as JSON, and the resources that the operator reads and writes."""

from __future__ import annotations

from typing import Any

import msgspec

Raw = dict[str, Any]
"""A Kubernetes object as JSON. Never mutated once it is in the cache or in an action."""


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """A resource of the API: a kind, and the path of its objects."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


def _core(kind: str, plural: str, *, namespaced: bool = True) -> Resource:
    return Resource(group="", version="v1", kind=kind, plural=plural, namespaced=namespaced)


def _own(kind: str, plural: str, *, namespaced: bool = True) -> Resource:
    return Resource(group="batchwright.dev", version="v1alpha1", kind=kind, plural=plural, namespaced=namespaced)


MODEL_DEPLOYMENT = _own("ModelDeployment", "modeldeployments")
INFERENCE_JOB = _own("InferenceJob", "inferencejobs")
ACCELERATOR_PROFILE = _own("AcceleratorProfile", "acceleratorprofiles", namespaced=False)

NODE = _core("Node", "nodes", namespaced=False)
POD = _core("Pod", "pods")
SERVICE = _core("Service", "services")
CONFIG_MAP = _core("ConfigMap", "configmaps")
SECRET = _core("Secret", "secrets")
PVC = _core("PersistentVolumeClaim", "persistentvolumeclaims")
PV = _core("PersistentVolume", "persistentvolumes", namespaced=False)

DEPLOYMENT = Resource(group="apps", version="v1", kind="Deployment", plural="deployments")
DAEMON_SET = Resource(group="apps", version="v1", kind="DaemonSet", plural="daemonsets")
CONTROLLER_REVISION = Resource(group="apps", version="v1", kind="ControllerRevision", plural="controllerrevisions")
REPLICA_SET = Resource(group="apps", version="v1", kind="ReplicaSet", plural="replicasets")
JOB = Resource(group="batch", version="v1", kind="Job", plural="jobs")
PDB = Resource(group="policy", version="v1", kind="PodDisruptionBudget", plural="poddisruptionbudgets")
NETWORK_POLICY = Resource(group="networking.k8s.io", version="v1", kind="NetworkPolicy", plural="networkpolicies")
RESOURCE_CLAIM_TEMPLATE = Resource(
    group="resource.k8s.io", version="v1", kind="ResourceClaimTemplate", plural="resourceclaimtemplates"
)
"""Not every cluster serves it: never watched."""
RESOURCE_SLICE = Resource(
    group="resource.k8s.io", version="v1", kind="ResourceSlice", plural="resourceslices", namespaced=False
)
"""Likewise; and those of drivers are theirs, and large."""
CORE_EVENT = _core("Event", "events")
"""Events as the core API has them: only there may a watch select by reason."""
LEASE = Resource(group="coordination.k8s.io", version="v1", kind="Lease", plural="leases")
EVENT = Resource(group="events.k8s.io", version="v1", kind="Event", plural="events")
