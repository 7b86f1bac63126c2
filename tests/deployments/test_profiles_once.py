"""What follows from all profiles is worked out once per change of one of them, not once per pass."""

from __future__ import annotations

from collections.abc import Iterable

from batchwright_operator.deployments.profiles import Profiles
from batchwright_operator.deployments.reconciler import ModelDeploymentReconciler
from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, MODEL_DEPLOYMENT, Raw
from batchwright_operator.reconcile.cache import Store
from batchwright_operator.reconcile.decisions import Key
from batchwright_operator.reconcile.live_state import LiveState
from batchwright_operator.settings import Settings
from tests.placement.placement_objects import deployment, profile


def test_it_is_worked_out_once_per_kind() -> None:
    asked: list[str] = []

    def work_out(profiles: Iterable[Raw], kind: str) -> int:
        asked.append(kind)
        return len(list(profiles))

    profiles = Profiles([profile("a"), profile("b")])
    assert [profiles.of_kind(kind, work_out) for kind in ("cpu", "cpu", "gpu")] == [2, 2, 2]
    assert asked == ["cpu", "gpu"]


def test_passes_share_the_profiles_until_one_changes() -> None:
    store = Store()
    reconciler = ModelDeploymentReconciler(Settings(), LiveState(control_key=b"k" * 32))
    for watch in reconciler.watches():
        store.register(watch)
    store.written(MODEL_DEPLOYMENT, versioned(deployment(), 1))
    store.written(ACCELERATOR_PROFILE, versioned(profile("a"), 2))
    key = Key(reconciler=reconciler.name, namespace="user", name="ocr")
    first, second = reconciler.observe(store, key), reconciler.observe(store, key)
    store.written(ACCELERATOR_PROFILE, versioned(profile("a", "7.0"), 3))
    third = reconciler.observe(store, key)
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.profiles is second.profiles
    assert [each["status"]["processors"][0]["capacityImagesPerSecond"] for each in third.profiles] == ["7.0"]


def versioned(raw: Raw, version: int) -> Raw:
    return {**raw, "metadata": {"uid": raw["metadata"]["name"], **raw["metadata"], "resourceVersion": str(version)}}
