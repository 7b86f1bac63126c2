"""Makes this folder's builders and those of tests/deployments importable (tests/ has no packages), and a real API
server for its tests."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "deployments")]

from real_api import control_plane, kubectl, with_crds  # noqa: E402

__all__ = ["control_plane", "kubectl", "with_crds"]
