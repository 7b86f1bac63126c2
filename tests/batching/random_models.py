"""Random models as functions of arrays: some work row by row, some look across the rows, some have no rows at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from hypothesis import strategies as st

from batchwright_worker.inference.runtime import TensorSpec
from tests.batching.functions import FunctionModel, tensor

F = np.float32
Step = Callable[[Any], Any]


def centred(x: Any) -> Any:
    axes = tuple(range(1, x.ndim))
    return x - x.mean(axes, keepdims=True) if axes else x


ROW_WISE: Final[dict[str, Step]] = {
    "neg": np.negative,
    "double": lambda x: x * F(2),
    "relu": lambda x: np.maximum(x, 0),
    "centred": centred,
    "flat": lambda x: x.reshape(len(x), -1),
    "sum of a row": lambda x: x.reshape(len(x), -1).sum(1),
}
ACROSS: Final[dict[str, Step]] = {
    "softmax": lambda x: np.exp(x - x.max(0)) / np.exp(x - x.max(0)).sum(0),
    "running sum": lambda x: np.cumsum(x, 0, dtype=F),
    "centred over rows": lambda x: x - x.mean(0),
    "sorted": lambda x: np.sort(x, 0),
    "reversed": lambda x: x[::-1].copy(),
    "scaled if large": lambda x: x / np.maximum(F(100), np.abs(x).max()),
    "by place": lambda x: x + np.arange(len(x), dtype=F).reshape(-1, *[1] * (x.ndim - 1)),
    "by count": lambda x: x * F(len(x)),
}
WITHOUT_ROWS: Final[dict[str, Step]] = {
    "sum": lambda x: np.asarray(x.sum(), F),
    "sum over rows": lambda x: x.sum(0),
    "the first": lambda x: x[:1],
    "twice": lambda x: np.concatenate([x, x]),
    "what is large": lambda x: x[x.reshape(len(x), -1).max(1) > 0.5],
    "turned": lambda x: x.T.copy(),
    "shape": lambda x: np.array(x.shape, F),
}
STEPS: Final = {**ROW_WISE, **ACROSS, **WITHOUT_ROWS}
JOINED: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "added": lambda x, h: x + h,
    "times its sum": lambda x, h: x * h.sum(),
    "times its first": lambda x, h: x * h.reshape(-1)[0],
}


@dataclass(frozen=True)
class RandomModel:
    """`steps` by name, over x (and h, where `joined` says how)."""

    first: int
    inner: tuple[int, ...]
    steps: tuple[str, ...]
    joined: str
    setting: tuple[int, ...]
    second: str
    """A second output, `z`, is this step of the first; empty: none."""

    def made(self) -> FunctionModel:
        inputs = [tensor("x", self.first, *self.inner)]
        if self.joined:
            inputs.append(tensor("h", *self.setting))
        return FunctionModel(self._call, inputs, self._outputs())

    def _call(self, x: Any, h: Any = None) -> dict[str, Any]:
        y = x if h is None else JOINED[self.joined](x, h)
        for step in self.steps:
            y = STEPS[step](y)
        outputs = {"y": np.asarray(y, F)}
        if self.second:
            outputs["z"] = np.asarray(STEPS[self.second](y), F)
        return outputs

    def _outputs(self) -> list[TensorSpec]:
        """What a careless export says of them."""
        return [tensor("y", -1), *([tensor("z", -1)] if self.second else [])]


models = st.builds(
    RandomModel,
    first=st.sampled_from([-1, -1, -1, 1, 2, 3]),
    inner=st.sampled_from([(2,), (3,), (-1,), (2, 2), ()]),
    steps=st.lists(st.sampled_from([*ROW_WISE, *ROW_WISE, *STEPS]), min_size=1, max_size=3).map(tuple),
    joined=st.sampled_from(["", "", *JOINED]),
    setting=st.sampled_from([(), (1,), (3,), (-1,), (2, -1, 2), (-1, 2)]),
    second=st.sampled_from(["", "", "", *STEPS]),
)
