"""The benchmark's ResNet-50 as a torch module: images FP32 [n, 3, 224, 224] -> logits [n, 1000]."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from batchwright_worker.benchmark import reference_model as resnet
from batchwright_worker.benchmark.engines.torch import TensorOps


class ResNet50(nn.Module):  # type: ignore[misc]
    """Random weights from the benchmark's seed."""

    def __init__(self) -> None:
        super().__init__()
        self._names = []
        for name, array in resnet.parameters():
            self._names.append(name)
            self.register_parameter(_slug(name), nn.Parameter(torch.from_numpy(array), requires_grad=False))

    def forward(self, images: Any) -> Any:
        ops = TensorOps({name: getattr(self, _slug(name)) for name in self._names})
        return resnet.forward(ops, images)


def _slug(name: str) -> str:
    return name.replace(".", "_")
