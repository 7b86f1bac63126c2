"""The workflows for GitHub call targets that there are, and build every image; a bill of materials is made of each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.release.chart import ROOT
from e2e.release.sbom import OF_IMAGES

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        yield from job["steps"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_they_run_is_there(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    commands = [step["run"] for step in steps(path) if "run" in step]
    assert {word for text in commands for word in re.findall(r"\bmake ([a-z-]+)", text)} <= targets
    assert all((ROOT / name).exists() for text in commands for name in re.findall(r"(?<!\S)\.ci/\w+", text))
    assert all(re.fullmatch(r"[\w/-]+@v\d+", step["uses"]) for step in steps(path) if "uses" in step)


def test_every_image_is_built_and_listed() -> None:
    release = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    files = {path.name.removesuffix(".Dockerfile") for path in (ROOT / "images").glob("*.Dockerfile")}
    assert set(release["images"]["strategy"]["matrix"]["image"]) == files == set(OF_IMAGES)
    assert release["files"]["needs"] == "images"  # what is published names images that are there


@pytest.mark.parametrize("image", OF_IMAGES)
def test_an_image_is_made_from_its_own_lock(image: str) -> None:
    text = (ROOT / "images" / f"{image}.Dockerfile").read_text()
    assert f"-t batchwright-{image}:" in text
    assert f"-r /tmp/locks/{image}.txt" in text


def test_one_onnxruntime_is_in_the_image_for_gpus() -> None:
    lock = (ROOT / "locks" / "worker-cuda.txt").read_text()
    installed = re.findall(r"^(onnxruntime[a-z-]*)==\S+ (?!; sys_platform == 'never')", lock, flags=re.M)
    assert installed == ["onnxruntime-gpu"]
    assert re.search(r"^torch==", lock, flags=re.M)
