"""A real Kubernetes on one Linux machine, from pinned Go modules: see README.md beside this file."""

from e2e.cluster.build.components import ensure_built, kubectl_path
from e2e.cluster.cluster import Cluster
from e2e.cluster.control_plane.flags import ControlPlaneSpec
from e2e.cluster.control_plane.server import ControlPlane
from e2e.cluster.machine.errors import ApiError, BuildError, ClusterError, NotFoundError, RequirementError, StartError
from e2e.cluster.nodes.node import Node
from e2e.cluster.spec import ClusterSpec, EmulatedDevice, NodeSpec

__all__ = [
    "ApiError",
    "BuildError",
    "Cluster",
    "ClusterError",
    "ClusterSpec",
    "ControlPlane",
    "ControlPlaneSpec",
    "EmulatedDevice",
    "Node",
    "NodeSpec",
    "NotFoundError",
    "RequirementError",
    "StartError",
    "ensure_built",
    "kubectl_path",
]
