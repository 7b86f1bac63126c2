"""From the chart of 0.1.0 to this one by each of helm's ways to keep values, back again, and away."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from e2e.cluster import ControlPlane
from e2e.release.chart import CHART, ROOT
from tests.manifests.test_chart import CRD, SYSTEM, Object, Objects, Release, path_of, place, rendered

pytestmark = pytest.mark.apiserver

RELEASED = "28fa5eaf2e5cfa72474759714f4ea0c7e3fd8ec2"
"""v0.1.0: by its commit, since clones may lack tags."""
OURS = ("--set", "image.registry=registry.example/team,settings.workers=3,operator.replicas=2,crds.keep=false")
"""What somebody has set at the installation."""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart of 0.1.0; skips where the clone does not reach so far back."""
    if subprocess.run(["git", "cat-file", "-e", RELEASED], cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.skip(f"this clone has no commit {RELEASED}: fetch the whole history")
    parts = ("charts", "crds", "manifests/monitoring")
    packed = subprocess.run(["git", "archive", RELEASED, *parts], cwd=ROOT, capture_output=True, check=True).stdout
    folder = tmp_path_factory.mktemp("released")
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="fully_trusted")  # links from the chart to the folders beside it
    return folder / "charts" / "batchwright"


@pytest.fixture
def release(released: Path) -> Iterator[tuple[Release, ControlPlane]]:
    """That of 0.1.0, installed, with a ModelDeployment."""
    with ControlPlane.start("chart-upgrade", scheduler=False) as plane:
        made = Release(plane)
        made.run("install", str(released), "--create-namespace", *OURS)
        emulated = {"fixedMicroseconds": 100, "perRowMicroseconds": 1}
        model = {
            "name": "m",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}],
            "artifacts": [{"format": "emulated", "emulated": emulated}],
        }
        body = {
            "apiVersion": "batchwright.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": "kept", "namespace": "default"}, "spec": {"replicas": 1, "models": [model]},
        }  # fmt: skip
        plane.api.request("POST", "/apis/batchwright.dev/v1alpha1/namespaces/default/modeldeployments", body)
        yield made, plane


def by_place(objects: Objects) -> dict[tuple[str, str, str], Object]:
    return {place(each): each for each in objects}


def kept(plane: ControlPlane) -> Object:
    return plane.api.get("/apis/batchwright.dev/v1alpha1/namespaces/default/modeldeployments/kept")


@pytest.mark.soak
def test_values_are_kept_and_everything_else_is_new(release: tuple[Release, ControlPlane]) -> None:
    helm, plane = release
    before, model = helm.manifest(), kept(plane)
    for way in ("--reuse-values", "--reset-then-reuse-values"):
        helm.run("upgrade", str(CHART), way, "--set", "image.operator.tag=next")
        assert by_place(helm.manifest()) == by_place(rendered(*OURS, "--set", "image.operator.tag=next")), way
        operator = plane.api.get(f"/apis/apps/v1/namespaces/{SYSTEM}/deployments/batchwright-operator")
        (container,) = operator["spec"]["template"]["spec"]["containers"]
        assert container["image"] == "registry.example/team/batchwright-operator:next"
        assert operator["spec"]["replicas"] == 2
        helm.run("rollback", "1")
        assert by_place(helm.manifest()) == by_place(before)
        made = [path_of(each) for each in before if each["kind"] != CRD]
        assert [path for path in made if not plane.api.exists(path)] == []
        assert (kept(plane)["metadata"]["uid"], kept(plane)["spec"]) == (model["metadata"]["uid"], model["spec"])
    helm.run("uninstall")
    assert not plane.api.exists(f"/apis/apps/v1/namespaces/{SYSTEM}/deployments/batchwright-operator")


def test_a_value_that_this_chart_does_not_have_is_named(released: Path, tmp_path: Path) -> None:
    """Not taken for nothing, as Helm without a schema does."""
    values = yaml.safe_load((released / "values.yaml").read_text())
    values["settings"]["workrs"] = 3
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(AssertionError, match="workrs"):
        rendered("--values", str(tmp_path / "values.yaml"))
