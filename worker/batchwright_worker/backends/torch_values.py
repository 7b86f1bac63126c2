"""Arrays as torch tensors and back, and a model's answer as a list of its declared outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import torch

from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import TensorSpec, WrongOutputs


def tensor_of(array: Array) -> torch.Tensor:
    """Without a copy."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def array_of(value: Any) -> Array:
    """Without a copy where it is in host memory."""
    tensor = value.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        array: Array = tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
        return array
    plain: Array = tensor.numpy()
    return plain


def flat(value: Any, outputs: Sequence[TensorSpec]) -> list[Any]:
    """In the order of the declared outputs. Raises WrongOutputs where there are others."""
    if isinstance(value, dict):
        missing = [spec.name for spec in outputs if spec.name not in value]
        if missing:
            raise WrongOutputs(f"the model returned {sorted(value)} and not the declared output {missing[0]!r}")
        return [value[spec.name] for spec in outputs]
    values = list(value) if isinstance(value, tuple | list) else [value]
    if len(values) != len(outputs):
        raise WrongOutputs(f"the model returned {len(values)} outputs, {len(outputs)} are declared")
    return values
