"""Makes the builders of this folder importable (tests/ has no packages), and one real API server for its tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from real_api import control_plane, kubectl, with_crds

__all__ = ["control_plane", "kubectl", "with_crds"]
