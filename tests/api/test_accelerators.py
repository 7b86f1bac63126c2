"""Which extended resources are processors, and how a node's devices are named."""

from __future__ import annotations

import pytest

from batchwright_worker.api.accelerators import is_gpu, is_processor, offered_as, vendor_of
from batchwright_worker.backends.base import Host, LoadError, accelerator_for
from batchwright_worker.host.accelerators import accelerator_of
from batchwright_worker.host.memory import EmulatedMemory


@pytest.mark.parametrize(
    "kind",
    ["nvidia.com/gpu", "nvidia.com/gpu.shared", "nvidia.com/mig-1g.10gb", "nvidia.com/mig-3g.40gb.shared",
     "amd.com/gpu", "amd.com/cpx_nps4", "huawei.com/Ascend910", "gpu.intel.com/xe", "habana.ai/gaudi",
     "google.com/tpu", "aws.amazon.com/neuron", "batchwright.dev/emulated"],
)  # fmt: skip
def test_devices_parts_of_them_and_shares_are_processors(kind: str) -> None:
    assert is_processor(kind)


@pytest.mark.parametrize(
    "name",
    ["nvidia.com/hostdev", "nvidia.com/cc.capable", "gpu.intel.com/i915_monitoring", "gpu.intel.com/millicores",
     "amd.com/", "huawei.com/roce", "devices.kubevirt.io/kvm", "cpu", "memory", ""],
)  # fmt: skip
def test_other_resources_are_none(name: str) -> None:
    assert not is_processor(name)


@pytest.mark.parametrize("kind", ["nvidia.com/gpu.shared", "nvidia.com/mig-1g.10gb", "nvidia.com/mig-1g.10gb.shared"])
def test_parts_and_shares_of_a_gpu_are_served_on_the_gpu_and_not_on_the_cpu(kind: str) -> None:
    found = accelerator_of(kind)
    assert found is not None
    assert (found.torch_device, found.onnx_provider) == ("cuda:0", "CUDAExecutionProvider")
    assert is_gpu(kind)
    assert vendor_of(kind) is not None


def test_a_kind_that_the_runtime_does_not_know_is_refused_and_never_served_from_the_cpu() -> None:
    host = Host(kind="amd.com/gpu", threads=1, emulated_memory=EmulatedMemory(1))
    with pytest.raises(LoadError, match=r"cannot run models on amd\.com/gpu.*open-inference"):
        accelerator_for(host)


@pytest.mark.parametrize(
    ("reported", "offered", "name"),
    [
        ("nvidia.com/gpu", ("nvidia.com/gpu",), "nvidia.com/gpu"),
        ("nvidia.com/gpu", ("nvidia.com/gpu.shared",), "nvidia.com/gpu.shared"),
        ("nvidia.com/mig-1g.10gb", ("nvidia.com/gpu",), "nvidia.com/gpu"),
        ("nvidia.com/mig-1g.10gb", ("nvidia.com/gpu", "nvidia.com/mig-1g.10gb"), "nvidia.com/mig-1g.10gb"),
        ("nvidia.com/mig-1g.10gb", ("nvidia.com/mig-1g.10gb.shared",), "nvidia.com/mig-1g.10gb.shared"),
        ("nvidia.com/mig-1g.10gb", ("cpu",), None),
        ("amd.com/gpu", ("amd.com/gpu",), "amd.com/gpu"),
    ],
)
def test_a_device_counts_under_the_name_that_its_node_offers(
    reported: str, offered: tuple[str, ...], name: str | None
) -> None:
    assert offered_as(reported, offered) == name
