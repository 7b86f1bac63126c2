"""An older state of this repository, installed on the embedded cluster from images of its own."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.cluster.build import images
from e2e.demo.targets import IMAGE_INPUTS

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("operator", "worker")


@dataclass(frozen=True, slots=True)
class Version:
    """A source tree, and the tag that its images have in the nodes."""

    tree: Path
    tag: str

    def archives(self) -> list[Path]:
        """Built, or found in the cache."""
        return [
            images.build_image(
                f"localhost/batchwright-{name}:{self.tag}", dockerfile=self.tree / "images" / f"{name}.Dockerfile",
                context=self.tree, inputs=IMAGE_INPUTS,
            )
            for name in NAMES
        ]  # fmt: skip

    def overlay(self) -> Path:
        """What `kubectl apply -k` installs."""
        return self.tree / "manifests" / "overlays" / "embedded"


def older(commit: str, folder: Path) -> Version:
    """The tree of a commit; skips where the clone does not reach so far back."""
    known = subprocess.run(["git", "cat-file", "-e", commit], cwd=ROOT, capture_output=True, check=False)
    if known.returncode:
        pytest.skip(f"this clone has no commit {commit}: fetch the whole history")
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    tree = folder / "older"
    tree.mkdir()
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
    file = tree / "manifests" / "overlays" / "embedded" / "kustomization.yaml"
    file.write_text(file.read_text().replace("newTag: dev", "newTag: older"))
    return Version(tree, "older")


def present() -> Version:
    return Version(ROOT, "dev")
