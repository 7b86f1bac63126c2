"""The chart's whole life on real nodes, by helm itself: an older version is installed as a release, upgraded to the
chart, rolled back, upgraded again, uninstalled, and installed over what uninstalling has left. After each step a job is
Complete; the ModelDeployment is the same object from the first step to the last.

Real: kubelets, containerd, images of both versions, the whole operator. Of the two older versions one is 0.1.0, by its
own chart and values; the other, before revisions were kept, had none, so its manifests are made one, as they are.
"""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster import kubectl_path
from e2e.cluster.build.components import program
from e2e.demo.kubectl import wait_for
from e2e.release.chart import CHART
from tests.e2e.load import BODY
from tests.nodes.older_version import Version, older, present
from tests.nodes.place import PATIENCE, PLACE, SYSTEM, Place, inference_job, model_deployment, records, unmeasured

pytestmark = [pytest.mark.cluster, pytest.mark.soak, pytest.mark.timeout(2400)]

CHARTLESS = "bf7e9f1cd3545503dd2b9f9615f08093f73fa750"
RELEASED = "28fa5eaf2e5cfa72474759714f4ea0c7e3fd8ec2"
"""v0.1.0."""
ITEMS = 60
AGENTS = "batchwright-agent"


@pytest.fixture
def place() -> Iterator[Place]:
    with unmeasured("chart") as place:
        yield place


class Life:
    """The release, and what is to be true after each of its steps; with the time that each took."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place, self.folder = place, folder
        self.steps: list[tuple[str, float, float]] = []

    def step(self, name: str, *helm: str) -> None:
        """One command of helm; then operator and agents are up, and a job runs to its end."""
        began = time.monotonic()
        self.helm(*helm)
        for namespace, workload in ((SYSTEM, "deployment/batchwright-operator"), (AGENTS, f"daemonset/{AGENTS}")):
            wait = ("rollout", "status", "-n", namespace, workload, f"--timeout={round(180 * PATIENCE)}s")
            self.place.kubectl.run(*wait, timeout_s=200 * PATIENCE)
        rolled_out = time.monotonic()
        if not self.steps:
            self.place.apply(model_deployment())
        self.place.await_condition("modeldeployment", "echo", "Ready", 240)
        self.place.apply(inference_job(name))
        self.place.await_condition("inferencejob", name, "Complete", 240)
        assert len(records(self.folder / name)) == ITEMS
        self.steps.append((name, rolled_out - began, time.monotonic() - rolled_out))
        print(f"{name}: rolled out in {self.steps[-1][1]:.0f} s, a job Complete {self.steps[-1][2]:.0f} s later")

    def helm(self, verb: str, *arguments: str) -> str:
        command = [str(program("helm")), verb, "batchwright", *arguments, "--namespace", SYSTEM]
        command += ["--kubeconfig", str(self.place.cluster.kubeconfig)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def deployment(self) -> dict[str, Any]:
        found = self.place.get("modeldeployment", "echo")
        assert found is not None
        return found


def older_chart(version: Version, folder: Path) -> Path:
    """A chart of the older version's manifests; its namespace is helm's to make."""
    made = subprocess.run(
        [str(kubectl_path()), "kustomize", str(version.overlay())], capture_output=True, text=True, check=True
    ).stdout
    objects = [each for each in yaml.safe_load_all(made) if each]
    for each in objects:
        if each["kind"] == "CustomResourceDefinition":
            each["metadata"].setdefault("annotations", {})["helm.sh/resource-policy"] = "keep"
    kept = [each for each in objects if (each["kind"], each["metadata"]["name"]) != ("Namespace", SYSTEM)]
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_text("apiVersion: v2\nname: batchwright\nversion: 0.0.1\n")
    (folder / "all.yaml").write_text(yaml.safe_dump_all(kept))
    (folder / "templates" / "all.yaml").write_text('{{ .Files.Get "all.yaml" }}')
    return folder


def values(version: Version, folder: Path) -> Path:
    """Its embedded overlay as values."""
    overlay = version.overlay()
    tag = {"tag": version.tag}
    given = {
        "image": {"registry": "localhost", "operator": tag, "worker": tag},
        "settings": yaml.safe_load((overlay / "settings.yaml").read_text()),
    }
    for each in yaml.safe_load_all((overlay / "requests.yaml").read_text()):
        (container,) = each["spec"]["template"]["spec"]["containers"]
        given[container["name"]] = {"resources": container["resources"]}
    path = folder / f"values-{version.tag}.yaml"
    path.write_text(yaml.safe_dump(given))
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """An older version as a release: what helm installs, and what it is told at each of two upgrades."""

    install: tuple[str, ...]
    upgrades: tuple[tuple[str, ...], tuple[str, ...]]
    stop_first: bool
    """Does its operator have to be stopped before, as docs/operator.md says?"""


def chartless(version: Version, folder: Path) -> Beginning:
    chosen = ("--values", str(values(present(), folder)))
    return Beginning(install=(str(older_chart(version, folder / "chart")),), upgrades=(chosen, chosen), stop_first=True)


def released(version: Version, folder: Path) -> Beginning:
    """Its values are kept, in each of the two ways that helm has; but for the images."""
    chart, images = version.tree / "charts" / "batchwright", ("--set", "image.operator.tag=dev,image.worker.tag=dev")
    install = (str(chart), "--values", str(values(version, folder)))
    ways = ((*images, "--reuse-values"), (*images, "--reset-then-reuse-values"))
    return Beginning(install=install, upgrades=ways, stop_first=False)


@pytest.mark.parametrize(
    ("commit", "begun"), [(RELEASED, released), (CHARTLESS, chartless)], ids=["0.1.0", "chartless"]
)
def test_every_step_of_a_release_leaves_a_cluster_that_works(
    place: Place, tmp_path: Path, commit: str, begun: Callable[[Version, Path], Beginning]
) -> None:
    before = older(commit, tmp_path)
    beginning = begun(before, tmp_path)
    place.load(before)
    place.load(present())
    life = Life(place, place.data(ITEMS))
    life.step("installed", "install", *beginning.install, "--create-namespace")
    made = life.deployment()["metadata"]
    replicas = place.models()
    if beginning.stop_first:
        place.stop_operator()
    first, second = beginning.upgrades
    life.step("upgraded", "upgrade", str(CHART), *first)
    assert place.models() == replicas, "the upgrade replaced model pods"
    life.step("rolled-back", "rollback", "1")
    life.step("upgraded-again", "upgrade", str(CHART), *second)
    replicas = place.models()

    life.helm("uninstall", "--wait")
    gone = wait_for(
        lambda: True if place.kubectl.find("namespace", AGENTS) is None else None, what="agents gone", timeout_s=120
    )
    assert gone
    assert place.kubectl.find("deployment", "batchwright-operator", "-n", SYSTEM) is None
    assert life.deployment()["metadata"]["uid"] == made["uid"]  # crds.keep
    assert place.models() == replicas
    for pod in place.pods("app.kubernetes.io/component=model"):
        assert answer(pod["status"]["podIP"]) == 200  # served on without anybody who manages them

    chosen = ("--values", str(values(present(), tmp_path)))
    life.step("installed-again", "install", str(CHART), *chosen, "--take-ownership")
    assert life.deployment()["metadata"]["uid"] == made["uid"]
    assert place.models() == replicas
    print(json.dumps([(name, round(rollout), round(job)) for name, rollout, job in life.steps]))
    assert place.get("inferencejob", "installed") is not None, f"a job of the beginning is gone from {PLACE}"


def answer(address: str) -> int:
    """The status of an inference request to a model pod."""
    url = f"http://{address}:8000/v2/models/echo/infer"
    with urllib.request.urlopen(urllib.request.Request(url, data=json.dumps(BODY).encode()), timeout=10) as said:
        return int(said.status)
