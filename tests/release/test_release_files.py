"""`make release`: each file is what it says, and carries the one version."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from e2e.audit import MACHINES, without_wheel
from e2e.release.chart import ROOT, version
from e2e.release.sbom import OF_IMAGES, locked

PROJECT = "https://git.example/team/batchwright"
pytestmark = [pytest.mark.apiserver, pytest.mark.soak]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("release")
    command = [sys.executable, "-m", "e2e.release", str(made), "--registry", "registry.example/team"]
    command += ["--project", PROJECT]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return made


def test_the_files_are_there_with_their_sums(folder: Path) -> None:
    sums = dict(line.split("  ")[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == {
        f"batchwright-{version()}-py3-none-any.whl", f"batchwright-{version()}.tar.gz", f"batchwright-{version()}.tgz",
        "install.yaml", "crds.yaml", "monitoring.yaml", "kubectl-batchwright", "krew.yaml",
        f"kubectl-batchwright-{version()}.tar.gz",
        "modeldeployment_v1alpha1.json", "inferencejob_v1alpha1.json",
        *(f"batchwright-{name}.cdx.json" for name in OF_IMAGES), "kubectl-batchwright.cdx.json",
    }  # fmt: skip
    for name, digest in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_what_is_installed_comes_from_the_registry(folder: Path) -> None:
    objects = [each for each in yaml.safe_load_all((folder / "install.yaml").read_text()) if each]
    pods = [each["spec"]["template"]["spec"] for each in objects if each["kind"] in ("Deployment", "DaemonSet")]
    assert {container["image"] for pod in pods for container in pod["containers"]} == {
        f"registry.example/team/batchwright-{name}:{version()}" for name in ("operator", "worker")
    }
    crds = [each for each in yaml.safe_load_all((folder / "crds.yaml").read_text()) if each]
    assert [each for each in objects if each["kind"] == "CustomResourceDefinition"] == crds


def test_the_chart_has_the_crds_and_boards_in_it(folder: Path) -> None:
    with tarfile.open(folder / f"batchwright-{version()}.tgz") as archive:
        names = set(archive.getnames())
    assert {"batchwright/files/crds/modeldeployments.yaml", "batchwright/files/monitoring/dashboards/job.json"} <= names


def test_the_wheel_has_both_packages_and_its_addresses(folder: Path) -> None:
    with zipfile.ZipFile(folder / f"batchwright-{version()}-py3-none-any.whl") as wheel:
        names = wheel.namelist()
        metadata = wheel.read(f"batchwright-{version()}.dist-info/METADATA").decode()
    assert {"batchwright_operator/__main__.py", "batchwright_worker/crds/modeldeployments.yaml"} <= set(names)
    assert f"Project-URL: Homepage, {PROJECT}" in metadata


def test_krew_is_told_what_is_there(folder: Path, tmp_path: Path) -> None:
    plugin = yaml.safe_load((folder / "krew.yaml").read_text())
    (platform,) = plugin["spec"]["platforms"]
    packed = folder / platform["uri"].rpartition("/")[2]
    assert platform["uri"].startswith(f"{PROJECT}/releases/download/{plugin['spec']['version']}/")
    assert hashlib.sha256(packed.read_bytes()).hexdigest() == platform["sha256"]
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path, filter="data")
    assert {each["from"] for each in platform["files"]} == {each.name for each in tmp_path.iterdir()}
    said = subprocess.run([tmp_path / platform["bin"], "--help"], capture_output=True, text=True, check=True).stdout
    assert "status" in said


@pytest.mark.parametrize("image", OF_IMAGES)
def test_the_bill_of_materials_names_what_is_locked(folder: Path, image: str) -> None:
    bill = json.loads((folder / f"batchwright-{image}.cdx.json").read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["version"]) == ("CycloneDX", version())
    listed = {f"{each['name']}=={each['version']}" for each in bill["components"]}
    assert listed == set(re.findall(r"^[\w.-]+==[^ ;]+", locked(image), flags=re.M))
    assert all(each["purl"].startswith("pkg:pypi/") for each in bill["components"])


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("image", OF_IMAGES)
def test_every_package_of_an_image_has_a_wheel_for(machine: str, image: str) -> None:
    assert without_wheel(image, machine) == ""
