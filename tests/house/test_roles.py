"""Each role runs with the packages of its own extra: nothing else is asked for, so an image need not have more."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = ("batchwright", "batchwright_operator", "batchwright_worker")
ROLES = {
    "agent": ["batchwright_worker.agent.command", "batchwright_worker.agent.nvidia"],
    "benchmark": ["batchwright_worker.benchmark.command", "batchwright_worker.benchmark.engines.onnx"],
    "fetch": [
        "batchwright_worker.fetch.command",
        "batchwright_worker.fetch.hub",
        "batchwright_worker.fetch.objectstore",
        "batchwright_worker.fetch.registry",
        "batchwright_worker.fetch.web",
        "obstore.store",
    ],
    "operator": ["batchwright_operator.process.command", "batchwright_operator.process.operator", "kopf"],
    "runner": [
        "batchwright_worker.runner.command",
        "batchwright_worker.runner.steps.commit",
        "batchwright_worker.runner.steps.plan",
        "batchwright_worker.runner.steps.shard",
        "batchwright_worker.runner.storage.bucket_files",
        "batchwright_worker.runner.outputs.part_files",
    ],
    "runtime": [
        "batchwright_worker.runtime.command",
        "batchwright_worker.runtime.process",
        "batchwright_worker.backends.onnx",
        "batchwright_worker.backends.emulated",
        "batchwright_worker.backends.triton_python",
    ],
    "sidecar": ["batchwright_worker.sidecar.command", "batchwright_worker.sidecar.process"],
}
HEAVY = {
    "agent": {"numpy"},
    "fetch": {"numpy"},
    "operator": {"numpy"},
    "runner": {"grpcio", "onnx", "onnxruntime", "scipy"},
    "runtime": {"grpcio", "onnx", "pyarrow", "scipy"},
    "serving": {"pillow", "pyarrow", "scipy"},
    "sidecar": {"onnx", "onnxruntime", "pillow", "pyarrow", "scipy"},
    "worker": {"scipy"},
}

ALONE = """
import importlib, importlib.machinery, sys
allowed, modules = set(sys.argv[1].split(",")), sys.argv[2].split(",")

class Installed:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in allowed or top in sys.stdlib_module_names or top.startswith("_sysconfigdata"):
            return importlib.machinery.PathFinder.find_spec(name, path, target)

sys.meta_path = [Installed() if each is importlib.machinery.PathFinder else each for each in sys.meta_path]
for module in modules:
    importlib.import_module(module)
"""


def wanted_by(extra: str) -> Iterator[Requirement]:
    """What an extra asks for, with the extras that it is made of."""
    for text in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            for part in requirement.extras:
                yield from wanted_by(part)
        else:
            yield requirement


def distributions(extra: str) -> set[str]:
    """All that pip installs for the extra, by canonical names."""
    found: set[str] = set()
    pending = [*wanted_by(extra), *map(Requirement, PROJECT["dependencies"])]
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})):
            continue
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # of another platform
        found.add(name)
        pending += map(Requirement, needs)
    return found


def modules_of(names: set[str]) -> set[str]:
    owners = metadata.packages_distributions()
    return {module for module, owner in owners.items() if {canonicalize_name(each) for each in owner} & names}


def imported(modules: list[str], allowed: set[str]) -> subprocess.CompletedProcess[str]:
    """In a process that has no other packages."""
    command = [sys.executable, "-c", ALONE, ",".join({*allowed, *OURS}), ",".join(modules)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_asks_for_nothing_beyond_its_extra(role: str) -> None:
    done = imported(ROLES[role], modules_of(distributions(role)))
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_an_extra_lacks_is_missed() -> None:
    done = imported(ROLES["runner"], modules_of(distributions("fetch")))
    assert "No module named" in done.stderr


@pytest.mark.parametrize("extra", HEAVY)
def test_what_is_heavy_is_only_where_it_is_used(extra: str) -> None:
    assert distributions(extra) & HEAVY[extra] == set()


@pytest.mark.parametrize("lock", ["operator", "serving", "worker"])
def test_the_lock_of_an_image_is_that_of_its_extra(lock: str) -> None:
    lines = [line for line in (ROOT / "locks" / f"{lock}.txt").read_text().splitlines() if "==" in line]
    everywhere = {canonicalize_name(line.partition("==")[0]) for line in lines if ";" not in line}
    wanted = distributions(lock) | distributions("otlp")
    assert everywhere <= wanted <= {canonicalize_name(line.partition("==")[0]) for line in lines}
