"""One real API server for the tests of this folder."""

from __future__ import annotations

from tests.deployments.real_api import control_plane, kubectl, with_crds

__all__ = ["control_plane", "kubectl", "with_crds"]
