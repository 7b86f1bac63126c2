from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.cluster import Cluster
from e2e.cluster.build.images import build_image
from e2e.cluster.testing import PROBE_IMAGE, control_plane, control_planes, make_cluster

__all__ = ["control_plane", "control_planes", "make_cluster"]


@pytest.fixture(scope="session")
def probe_archive() -> Path:
    """An image with Python that runs as an unprivileged user."""
    here = Path(__file__).parent
    return build_image(PROBE_IMAGE, dockerfile=here / "probe.Dockerfile", context=here, inputs=["probe.Dockerfile"])


@pytest.fixture(scope="session")
def cluster(make_cluster: Callable[..., Cluster], probe_archive: Path) -> Cluster:
    """Two unequal nodes that have the probe image."""
    running = make_cluster("nodes", audit_log=True)
    running.load_image(probe_archive)
    return running
