"""A real Kubernetes on one Linux machine, from pinned Go modules: see README.md beside this file."""

from .components import ensure_built, kubectl_path
from .control_plane import ControlPlane, ControlPlaneSpec
from .errors import ApiError, BuildError, ClusterError, NotFoundError, RequirementError, StartError

__all__ = [
    "ApiError",
    "BuildError",
    "ClusterError",
    "ControlPlane",
    "ControlPlaneSpec",
    "NotFoundError",
    "RequirementError",
    "StartError",
    "ensure_built",
    "kubectl_path",
]
