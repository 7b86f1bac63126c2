"""Where the demo runs: the embedded cluster, kind where Docker answers, or a cluster of the user's own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import yaml

from e2e.cluster import Cluster, ClusterSpec, NodeSpec, kubectl_path, teardown
from e2e.cluster.build import components, images
from e2e.cluster.machine import preflight, tools
from e2e.demo.kubectl import Kubectl

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = ROOT / "manifests" / "overlays"
IMAGES = ("operator", "worker", "ocr")
IMAGE_INPUTS = ("pyproject.toml", "README.md", "LICENSE", "operator", "worker", "locks")
KIND_VOLUMES = 4
KIND_NODE = "kindest/node:v1.33.1"


class TargetError(RuntimeError):
    """The demo cannot run there; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A cluster to talk to, and what tells one build of the images from another (the tags stay the same)."""

    kubectl: Kubectl
    build: str = ""


class Target(Protocol):
    """A place for the demo."""

    @property
    def name(self) -> str:
        """The cluster's name."""

    @property
    def why(self) -> str:
        """Why this place was chosen."""

    def up(self, say: Callable[[str], None]) -> Ready:
        """A cluster with the product's images in it."""

    def down(self) -> None:
        """Remove what `up` made."""

    def overlay(self) -> Path:
        """The kustomization that installs the product there."""


def choose(environ: Mapping[str, str], *, name: str) -> Target:
    """CLUSTER=current|kind|embedded decides; else kind where Docker answers and kind is there, else embedded.

    Raises TargetError for an unknown CLUSTER, or `current` without IMAGE.
    """
    asked = environ.get("CLUSTER", "")
    if asked == "current":
        return Current(image=environ.get("IMAGE", ""))
    if asked == "kind":
        return Kind(name=name, why="CLUSTER=kind")
    if asked == "embedded":
        return Embedded(name=name, why="CLUSTER=embedded")
    if asked:
        raise TargetError(f"CLUSTER={asked}: use embedded, kind, or current (with IMAGE=registry/prefix)")
    if docker_answers() and shutil.which("kind"):
        return Kind(name=name, why="Docker answers and kind is installed")
    missing = "kind is not installed" if docker_answers() else "Docker does not answer"
    return Embedded(name=name, why=f"{missing}, so Kubernetes itself is started from pinned Go modules")


def docker_answers() -> bool:
    """Is there a Docker engine behind the client?"""
    if not shutil.which("docker"):
        return False
    asked = subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=30)
    return asked.returncode == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """A real Kubernetes on this machine, built by e2e/cluster."""

    why: str
    name: str = "demo"
    nodes: tuple[NodeSpec, ...] = field(
        default=(NodeSpec(name="fast", cpus=1.0, emulated=1), NodeSpec(name="slow", cpus=0.5))
    )

    def up(self, say: Callable[[str], None]) -> Ready:
        """Builds, starts, loads images; on a second run finds all of it there."""
        preflight.require_images()
        preflight.require_nodes(compiling=not components.CATALOGUE["containerd"].built)
        with ThreadPoolExecutor(max_workers=1) as beside:  # compiling and installing packages wait for different things
            building = beside.submit(lambda: [build_archive(name, say) for name in IMAGES])
            cluster = Cluster.up(ClusterSpec(name=self.name, nodes=self.nodes, audit_log=True))
            archives = building.result()
        say("   loading the images into the nodes")
        cluster.load_image(*archives)
        kubectl = Kubectl(binary=kubectl_path(), kubeconfig=cluster.kubeconfig)
        return Ready(kubectl=kubectl, build="-".join(archive.stem[-8:] for archive in archives))

    def down(self) -> None:
        """Leaves nothing of the cluster behind; the cache of binaries and images stays."""
        teardown.remove_cluster(self.name)

    def overlay(self) -> Path:
        """Local image names."""
        return OVERLAYS / "embedded"


def build_archive(name: str, say: Callable[[str], None]) -> Path:
    """An OCI archive of one of the product's images, from the cache when nothing changed."""
    say(f"   image {name}")
    return images.build_image(_tag(name), dockerfile=_dockerfile(name), context=ROOT, inputs=IMAGE_INPUTS)


def archived(name: str) -> bool:
    """Whether `build_archive` finds the image in the cache."""
    return images.archived(_tag(name), dockerfile=_dockerfile(name), context=ROOT, inputs=IMAGE_INPUTS)


def _tag(image: str) -> str:
    return f"localhost/batchwright-{image}:dev"


def _dockerfile(image: str) -> Path:
    return ROOT / "images" / f"{image}.Dockerfile"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind cluster: two worker nodes, their containers limited to 1.0 and 0.5 cores."""

    name: str
    why: str

    def up(self, say: Callable[[str], None]) -> Ready:
        """Creates the cluster unless it is there, builds and loads the images."""
        tools.require("docker", "kind", "kubectl")
        if self.name not in _output("kind", "get", "clusters").split():
            self._create(say)
        built = []
        for image in IMAGES:
            tag = _tag(image)
            say(f"   image {image}")
            _stream("docker", "build", "-q", "-t", tag, "-f", str(_dockerfile(image)), str(ROOT))
            _stream("kind", "load", "docker-image", tag, "--name", self.name)
            built.append(_output("docker", "inspect", "--format", "{{.Id}}", tag).strip()[-8:])
        return Ready(kubectl=self._kubectl(), build="-".join(built))

    def _create(self, say: Callable[[str], None]) -> None:
        shared = Path(tempfile.gettempdir()) / f"batchwright-{self.name}-shared"
        for folder in (shared, *(shared / str(number) for number in range(KIND_VOLUMES))):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o777)  # pods write as a user without a name
        mounts = [{"hostPath": str(shared), "containerPath": "/var/lib/batchwright-shared"}]
        workers = [{"role": "worker", "extraMounts": mounts} for _ in range(2)]
        config = {
            "kind": "Cluster",
            "apiVersion": "kind.x-k8s.io/v1alpha4",
            "nodes": [{"role": "control-plane"}, *workers],
        }
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(config, file)
            file.flush()
            _stream("kind", "create", "cluster", "--name", self.name, "--image", KIND_NODE, "--config", file.name)
        for worker, cpus in ((f"{self.name}-worker", "1.0"), (f"{self.name}-worker2", "0.5")):
            say(f"   {worker}: {cpus} cores")
            _stream("docker", "update", "--cpus", cpus, worker)
        self._kubectl().run("apply", "--server-side", "-f", str(OVERLAYS / "kind" / "volumes.yaml"))

    def _kubectl(self) -> Kubectl:
        return Kubectl(binary=tools.find("kubectl"), context=f"kind-{self.name}")

    def down(self) -> None:
        """Deletes the kind cluster and its shared folder."""
        tools.require("docker", "kind")
        _stream("kind", "delete", "cluster", "--name", self.name)
        shutil.rmtree(Path(tempfile.gettempdir()) / f"batchwright-{self.name}-shared", ignore_errors=True)

    def overlay(self) -> Path:
        """Local image names."""
        return OVERLAYS / "kind"


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """The cluster of the current kubectl context, because the user said so; IMAGE is a registry prefix to push to."""

    image: str
    name: str = "current"
    why: str = (
        "CLUSTER=current: the current context of your kubectl is used, and nothing in it is deleted but the demo's"
    )

    def up(self, say: Callable[[str], None]) -> Ready:
        """Checks that the images can be named; they must have been built and pushed."""
        if not self.image:
            raise TargetError(
                "CLUSTER=current needs IMAGE=registry/prefix: the images IMAGE-operator:dev, IMAGE-worker:dev "
                "and IMAGE-ocr:dev, built from images/*.Dockerfile and pushed where the nodes can pull"
            )
        kubectl = Kubectl(binary=tools.find("kubectl"))
        say(f"   context {kubectl.run('config', 'current-context').strip()}")
        return Ready(kubectl=kubectl)

    def down(self) -> None:
        """Deletes the demo's namespaces and the product's objects."""
        kubectl = Kubectl(binary=tools.find("kubectl"))
        kubectl.run("delete", "-k", str(ROOT / "examples" / "ocr"), "--ignore-not-found", timeout_s=300)
        kubectl.run("delete", "-k", str(self.overlay()), "--ignore-not-found", timeout_s=300)

    def overlay(self) -> Path:
        """An overlay of the base with IMAGE's names, written below build/."""
        folder = ROOT / "build" / "demo" / "overlay"
        folder.mkdir(parents=True, exist_ok=True)
        renamed = [{"name": f"batchwright-{i}", "newName": f"{self.image}-{i}", "newTag": "dev"} for i in IMAGES]
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": ["../../../manifests/base"],
            "images": renamed,
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return folder


def _output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout


def _stream(*argv: str) -> None:
    subprocess.run(argv, check=True, timeout=1800)
