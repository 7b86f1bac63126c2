"""A real Kubernetes on one Linux machine, from pinned Go modules: see README.md beside this file."""

from .cluster import Cluster
from .components import ensure_built, kubectl_path
from .control_plane import ControlPlane
from .control_plane_flags import ControlPlaneSpec
from .errors import ApiError, BuildError, ClusterError, NotFoundError, RequirementError, StartError
from .nodes import Node
from .spec import ClusterSpec, EmulatedDevice, NodeSpec

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
