"""ResNet-50 (v1.5, batch normalisation folded into the convolutions) once, for any library.

`forward` walks the network with the operations of `Ops`; values are tensors, names in a graph, or shapes. Weights are
random from a fixed seed, scaled so that activations keep their size through 50 layers (no overflow, no denormals).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

IMAGE_SHAPE: Final = (3, 224, 224)
CLASSES: Final = 1000
SEED: Final = 50
_STAGES: Final = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))
"""Blocks, inner channels, stride of the first block."""
_EXPANSION: Final = 4
_BRANCH_GAIN: Final = 0.2
"""Scale of the last convolution of a block, so that 16 residual sums do not add up to large numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv:
    """A convolution with bias: weight [outputs, inputs, kernel, kernel]."""

    name: str
    inputs: int
    outputs: int
    kernel: int = 1
    stride: int = 1
    gain: float = 1.0

    @property
    def padding(self) -> int:
        return self.kernel // 2

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (self.outputs, self.inputs, self.kernel, self.kernel)


class Ops(Protocol[T]):
    """What a library must be able to do."""

    def conv(self, x: T, conv: Conv) -> T: ...

    def relu(self, x: T) -> T: ...

    def add(self, x: T, y: T) -> T: ...

    def max_pool(self, x: T) -> T:
        """3x3, stride 2, padding 1."""

    def mean(self, x: T) -> T:
        """Over height and width: [n, c, h, w] -> [n, c]."""

    def linear(self, x: T, name: str, inputs: int, outputs: int) -> T:
        """x @ weight + bias, weight [inputs, outputs]."""


def forward(ops: Ops[T], x: T) -> T:
    """Logits [n, CLASSES] of images [n, 3, 224, 224]."""
    x = ops.relu(ops.conv(x, Conv(name="stem", inputs=3, outputs=64, kernel=7, stride=2)))
    x = ops.max_pool(x)
    channels = 64
    for stage, (blocks, inner, stride) in enumerate(_STAGES, start=1):
        for block in range(blocks):
            x = _block(ops, x, f"{stage}.{block}", (channels, inner), stride if block == 0 else 1)
            channels = inner * _EXPANSION
    return ops.linear(ops.mean(x), "head", channels, CLASSES)


def _block(ops: Ops[T], x: T, name: str, channels: tuple[int, int], stride: int) -> T:
    inputs, inner = channels
    outputs = inner * _EXPANSION
    y = ops.relu(ops.conv(x, Conv(name=f"{name}.reduce", inputs=inputs, outputs=inner)))
    y = ops.relu(ops.conv(y, Conv(name=f"{name}.spatial", inputs=inner, outputs=inner, kernel=3, stride=stride)))
    y = ops.conv(y, Conv(name=f"{name}.expand", inputs=inner, outputs=outputs, gain=_BRANCH_GAIN))
    if inputs != outputs:
        x = ops.conv(x, Conv(name=f"{name}.project", inputs=inputs, outputs=outputs, stride=stride))
    return ops.relu(ops.add(y, x))


class _Recorder:
    """Lists the parameters in the order of the network."""

    def __init__(self) -> None:
        self.convs: list[Conv] = []
        self.head: tuple[str, int, int] = ("", 0, 0)

    def conv(self, x: None, conv: Conv) -> None:
        self.convs.append(conv)

    def relu(self, x: None) -> None: ...

    def add(self, x: None, y: None) -> None: ...

    def max_pool(self, x: None) -> None: ...

    def mean(self, x: None) -> None: ...

    def linear(self, x: None, name: str, inputs: int, outputs: int) -> None:
        self.head = (name, inputs, outputs)


def parameters() -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every parameter as (name, float32 array), one at a time: 25.5 million values in all."""
    rng = np.random.default_rng(SEED)
    recorder = _Recorder()
    forward(recorder, None)
    for conv in recorder.convs:
        fan_in = conv.inputs * conv.kernel**2
        yield f"{conv.name}.weight", _normal(rng, conv.shape, conv.gain * sqrt(2.0 / fan_in))
        yield f"{conv.name}.bias", np.zeros(conv.outputs, np.float32)
    name, inputs, outputs = recorder.head
    yield f"{name}.weight", _normal(rng, (inputs, outputs), sqrt(1.0 / inputs))
    yield f"{name}.bias", np.zeros(outputs, np.float32)


def images(batch: int) -> NDArray[np.float32]:
    """A batch of random images from the fixed seed."""
    return np.random.default_rng(SEED).standard_normal((batch, *IMAGE_SHAPE), dtype=np.float32)


def _normal(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> NDArray[np.float32]:
    values = rng.standard_normal(shape, dtype=np.float32)
    values *= np.float32(scale)
    return values
