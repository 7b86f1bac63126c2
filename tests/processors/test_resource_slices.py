"""What was measured, as a ResourceSlice: what is in it, and that nothing is ever allocated from it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchwright_operator.kube.objects import RESOURCE_SLICE, Raw
from batchwright_operator.processors.processor import Processor
from batchwright_operator.processors.resource_slice import NO_NODE, resource_slice
from batchwright_operator.reconcile.decisions import Apply
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import LoadTableRow
from batchwright_worker.api.names import LABEL_BENCHMARK_OPT_OUT
from e2e.bench.scale import bed as beds
from e2e.cluster import ControlPlane, kubectl_path, kwok
from tests.processors.test_profiles import World
from tests.reconcile.bed import wait

PROFILE: Raw = {"kind": "AcceleratorProfile", "metadata": {"name": "gpu-1", "uid": "u1"}}
ROWS = (
    LoadTableRow(batch_size=1, images_per_second=90.0, max_services=4),
    LoadTableRow(batch_size=8, images_per_second=400.0, max_services=2),
)
GPU = Processor(kind="nvidia.com/gpu", product="H200", load_table=ROWS, capacity=400.0, slots=8, scaling=0.5)


def test_a_device_is_what_was_measured_of_a_processor() -> None:
    cpu = Processor(kind="cpu", capacity=5.43)
    found = resource_slice(PROFILE, [cpu, GPU])
    assert found is not None
    assert found["spec"]["pool"] == {"name": "gpu-1", "generation": 1, "resourceSliceCount": 1}
    assert found["metadata"]["ownerReferences"][0]["uid"] == "u1"
    small, large = found["spec"]["devices"]
    assert (small["name"], large["name"]) == ("cpu", "nvidia-com-gpu")
    assert small["capacity"] == {"imagesPerSecond": {"value": "5.43"}, "nodeImagesPerSecond": {"value": "5.43"}}
    assert large["attributes"] == {
        "kind": {"string": "nvidia.com/gpu"},
        "product": {"string": "H200"},
        "imagesPerSecond": {"int": 400},
        "devices": {"int": 8},
        "batchSize": {"int": 8},
        "services": {"int": 2},
    }
    assert large["capacity"]["nodeImagesPerSecond"] == {"value": "1600.0"}


def test_what_was_not_measured_here_is_not_published() -> None:
    unknown = [replace(GPU, capacity=None), replace(GPU, estimated_from="gpu-0")]
    assert resource_slice(PROFILE, unknown) is None


@pytest.mark.parametrize("published", [False, True])
def test_slices_are_published_only_where_a_setting_says_so(published: bool) -> None:
    world = World(settings=Settings(publish_resource_slices=published, worker_image="worker:1"))
    world.settle()
    world.finish()
    decision = world.decide()
    slices = [each.body for each in decision.actions if isinstance(each, Apply) and each.resource == RESOURCE_SLICE]
    assert bool(slices) is published


# --- on a real API server, with its scheduler

SLICES = "/apis/resource.k8s.io/v1/resourceslices"
PROFILES = f"{beds.GROUP}/acceleratorprofiles"
NODES = "/api/v1/nodes"
PODS = "/api/v1/namespaces/one/pods"
NAME = "n-0000"


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[beds.Bed]:
    """A node that is measured; the operator has the rights of its manifests."""
    with ControlPlane.start("slices", controller_manager_args=kwok.CONTROLLER_MANAGER_ARGS) as plane:
        beds.install(plane)
        beds.kubectl(
            plane, "apply", "--server-side", "-f",
            str(beds.ROOT / "manifests" / "components" / "resource-slices" / "rbac.yaml"),
        )  # fmt: skip
        beds.seed_profiles(plane, [NAME])
        kwok.start(plane)
        kwok.add_nodes(plane.api, 1, prefix="n", labels={LABEL_BENCHMARK_OPT_OUT: "true"})
        yield beds.Bed(plane=plane, folder=tmp_path, quick=True, say=lambda _: None)


def found(bed: beds.Bed) -> list[Raw]:
    return [each for each in bed.api.get(SLICES)["items"] if each["spec"].get("nodeName") == NO_NODE]


def rate(bed: beds.Bed) -> int:
    return int(found(bed)[0]["spec"]["devices"][0]["attributes"]["imagesPerSecond"]["int"])


def claim_any_device(bed: beds.Bed) -> None:
    """A pod that takes whatever device of whatever driver there is: no careful DeviceClass keeps it from ours."""
    bed.api.request("POST", "/apis/resource.k8s.io/v1/deviceclasses", {"metadata": {"name": "any"}, "spec": {}})
    request = {"name": "one", "exactly": {"deviceClassName": "any", "allocationMode": "ExactCount", "count": 1}}
    claim = {"metadata": {"name": "any"}, "spec": {"devices": {"requests": [request]}}}
    bed.api.request("POST", "/apis/resource.k8s.io/v1/namespaces/one/resourceclaims", claim)
    spec = {
        "containers": [{"name": "c", "image": "none", "resources": {"claims": [{"name": "any"}]}}],
        "resourceClaims": [{"name": "any", "resourceClaimName": "any"}],
        "tolerations": [{"operator": "Exists"}],
    }
    bed.api.request("POST", PODS, {"metadata": {"name": "p"}, "spec": spec})


def pod(bed: beds.Bed) -> tuple[str, str]:
    """Its node, and why it has none."""
    raw = bed.api.get(f"{PODS}/p")
    conditions = raw["status"].get("conditions") or [{}]
    return raw["spec"].get("nodeName", ""), str(conditions[0].get("message", ""))


def someone_elses(name: str) -> Raw:
    device: dict[str, Any] = {"name": "d"}
    pool = {"name": "p", "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": "gpu.example.com", "allNodes": True, "pool": pool, "devices": [device]}
    return {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": name}, "spec": spec}


@pytest.mark.apiserver
def test_a_slice_follows_its_profile_and_gives_no_device_to_anybody(bed: beds.Bed) -> None:
    with bed.operator(BATCHWRIGHT_PUBLISH_RESOURCE_SLICES="true", BATCHWRIGHT_BACKGROUNDS="[]") as operator:
        wait(lambda: bool(found(bed)), 60, operator.text)
        assert rate(bed) == 100
        claim_any_device(bed)
        wait(lambda: "cannot allocate" in pod(bed)[1], 30, lambda: str(pod(bed)))
        # The same pod, as soon as there is a real device: so it was not for want of a scheduler.
        bed.api.request("POST", SLICES, someone_elses("real"))
        wait(lambda: bool(pod(bed)[0]), 30, lambda: str(pod(bed)))

        row = {"batchSize": 8, "imagesPerSecond": "50", "maxServices": 8}
        slower = {"kind": "cpu", "capacityImagesPerSecond": "50", "loadTable": [row], "reason": "Benchmarked"}
        bed.api.patch(f"{PROFILES}/{NAME}/status", {"status": {"processors": [slower]}})
        wait(lambda: rate(bed) == 50, 30, operator.text)

        bed.api.delete(f"{NODES}/{NAME}")
        wait(lambda: not found(bed), 60, lambda: json.dumps(found(bed)))
    kubeconfig = bed.plane.kubeconfig_for(beds.USER, "system:serviceaccounts")
    command = [str(kubectl_path()), "--kubeconfig", str(kubeconfig), "create", "-f", "-"]
    # As if a profile controlled it, which the policy asks of everything that the operator writes.
    owner = resource_slice(PROFILE, [GPU])["metadata"]["ownerReferences"]  # type: ignore[index]
    forged = json.dumps({**someone_elses("forged"), "metadata": {"name": "forged", "ownerReferences": owner}})
    done = subprocess.run(command, check=False, input=forged, capture_output=True, text=True)
    assert "may publish what it measured, and no devices" in done.stderr
