"""Every field that a user or an administrator may set is read by the code; one that nobody reads does nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from batchwright_operator.settings import Settings
from batchwright_worker.api.deployment import ModelDeploymentSpec
from batchwright_worker.api.job import InferenceJobSpec
from tests.house.field_reads import Field, leaves, reads

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = [ROOT / "operator" / "batchwright_operator", ROOT / "worker" / "batchwright_worker"]
Found = tuple[set[Field], set[str]]

LAYERWISE: Final = "worker/batchwright_worker/layerwise/serving/settings.py"
BY_HAND: Final = {
    "ModelDeployment.spec.tls.serverName": ("operator/batchwright_operator/jobs/facts.py", 'tls.get("serverName")'),
    "ModelDeployment.spec.tls.jobsSecretRef": (
        "operator/batchwright_operator/jobs/facts.py",
        'tls.get("jobsSecretRef")',
    ),
    "ModelDeployment.spec.tls.jobsSecretRef.name": (
        "operator/batchwright_operator/jobs/facts.py",
        '(tls.get("jobsSecretRef") or {}).get("name")',
    ),
    "ModelDeployment.spec.layerwise.skipLimit": (LAYERWISE, "skip_limit: int | None"),
    "ModelDeployment.spec.layerwise.memoryBudgetBytes": (LAYERWISE, "memory_budget_bytes: int"),
}
"""Fields that are read from an object's JSON: path -> file, and what stands there."""


@pytest.fixture(scope="module")
def found() -> Found:
    """What the product reads."""
    return reads(PACKAGES)


def unread(struct: Any, name: str, found: Found) -> list[str]:
    """Paths of leaves that nobody reads: from the top, each field on the way must be read, unless a struct above it is
    read as a whole."""
    fields, whole = found
    paths = []
    for path, steps in leaves(struct, name):
        for step in steps:
            if any(owner in whole for owner, _ in step):
                break
            if not fields.intersection(step):
                paths.append(path)
                break
    return sorted(set(paths) - BY_HAND.keys())


@pytest.mark.parametrize(
    ("struct", "name"),
    [(ModelDeploymentSpec, "ModelDeployment.spec"), (InferenceJobSpec, "InferenceJob.spec"), (Settings, "settings")],
)
def test_every_field_is_read(struct: Any, name: str, found: Found) -> None:
    assert unread(struct, name, found) == []


@pytest.mark.parametrize("path", BY_HAND)
def test_what_is_read_by_hand_is(path: str) -> None:
    file, text = BY_HAND[path]
    assert text in (ROOT / file).read_text()


PRODUCT = """
from __future__ import annotations
import msgspec

class Inner(msgspec.Struct, frozen=True):
    used: int = 0
    forgotten: int = 0

class Handed(msgspec.Struct, frozen=True):
    anything: int = 0

class Base(msgspec.Struct, frozen=True):
    inherited: int = 0

class Spec(Base, frozen=True):
    inner: Inner = Inner()
    handed: Handed = Handed()
    also_forgotten: str = ""

class Other(msgspec.Struct):
    forgotten: int = 0
    also_forgotten: str = ""

def work(spec: Spec, base: Base, other: Other | None) -> object:
    msgspec.to_builtins(spec.handed)
    if other is not None:
        print(other.forgotten, other.also_forgotten)
    return [spec.inner.used, base.inherited]
"""


def test_a_field_of_the_same_name_elsewhere_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "read_product"
    package.mkdir()
    (package / "__init__.py").write_text(PRODUCT)
    monkeypatch.syspath_prepend(str(tmp_path))
    import read_product  # type: ignore[import-not-found]

    names = unread(read_product.Spec, "spec", reads([package]))
    assert names == ["spec.also_forgotten", "spec.inner.forgotten"]
