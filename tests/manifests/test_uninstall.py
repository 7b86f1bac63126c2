"""What docs/install.md says of uninstalling: applied twice nothing changes, deleted nothing of it is left."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from e2e.cluster import ControlPlane, kubectl_path
from e2e.cluster.machine.waiting import wait_until
from tests.manifests.test_chart import path_of

pytestmark = [pytest.mark.apiserver, pytest.mark.soak]
OURS = ("batchwright", "batchwright.dev")
CLUSTER_WIDE = (
    "clusterroles", "clusterrolebindings", "customresourcedefinitions", "flowschemas", "namespaces",
    "prioritylevelconfigurations", "validatingadmissionpolicies", "validatingadmissionpolicybindings",
)  # fmt: skip


def test_it_comes_twice_and_goes_whole(built: Callable[[str], list[dict[str, Any]]]) -> None:
    objects = built("base")
    text = yaml.safe_dump_all(objects)
    with ControlPlane.start("uninstall", scheduler=False) as plane:

        def kubectl(*words: str, given: str | None = None) -> str:
            command = [str(kubectl_path()), "--kubeconfig", str(plane.kubeconfig), *words]
            done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout

        def identities() -> list[tuple[str, int]]:
            """Of every object: which it is, and how often what is wanted of it has changed."""
            found = [plane.api.get(path_of(each))["metadata"] for each in objects]
            return [(each["uid"], each.get("generation", 1)) for each in found]

        kubectl("apply", "--server-side", "-f", "-", given=text)
        made = identities()
        kubectl("apply", "--server-side", "-f", "-", given=text)
        assert identities() == made
        kubectl("delete", "-f", "-", "--wait=false", given=text)

        def left() -> list[str]:
            names = kubectl("get", ",".join(CLUSTER_WIDE), "-o", "name").split()
            return [name for name in names if any(word in name for word in OURS)]

        assert wait_until(lambda: not left(), timeout_s=120, interval_s=0.5), left()
