"""Built-ins for images, with Pillow and numpy: resize, normalise, crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from batchwright_worker.runner.cpu.builtin.source import image_of, value_of

Layout = Literal["NCHW", "NHWC"]
Order = Literal["RGB", "BGR"]
Filter = Literal["nearest", "bilinear", "bicubic", "lanczos"]


def resize(  # noqa: PLR0913 - the arguments of a manifest
    inputs: Mapping[str, Any],
    *,
    height: int,
    width: int,
    of: str | None = None,
    keep_ratio: bool = False,
    cover: bool = False,
    multiple: int = 1,
    filter: Filter = "bilinear",  # noqa: A002 - the name of the argument in a manifest
) -> NDArray[np.uint8]:
    """The image at height x width (antialiased). `keep_ratio`: the largest size of its own shape that fits in;
    `cover`: the smallest that covers it, of which the middle is cut out. `multiple`: both sides are rounded to
    multiples of it. `filter`: nearest, bilinear, bicubic or lanczos."""
    image = image_of(inputs, of)
    if keep_ratio and cover:
        raise ValueError("args.keep_ratio fits the whole image in, args.cover cuts it: write one of them")
    sides = (height / image.shape[0], width / image.shape[1])
    if not (keep_ratio or cover):
        return _resized(image, _rounded(height, multiple), _rounded(width, multiple), filter)
    scale = max(sides) if cover else min(sides)
    tall, wide = _rounded(image.shape[0] * scale, multiple), _rounded(image.shape[1] * scale, multiple)
    whole = _resized(image, tall, wide, filter)
    if not cover:
        return whole
    top, left = max(0, (tall - height) // 2), max(0, (wide - width) // 2)
    return np.ascontiguousarray(whole[top : top + height, left : left + width])


def _resized(image: NDArray[np.uint8], height: int, width: int, name: Filter) -> NDArray[np.uint8]:
    from PIL import Image

    if name not in ("nearest", "bilinear", "bicubic", "lanczos"):
        raise ValueError(f"args.filter is {name!r}: write nearest, bilinear, bicubic or lanczos")
    method = Image.Resampling[name.upper()]
    if image.shape[2] == 1:
        return np.asarray(Image.fromarray(image[:, :, 0]).resize((width, height), method))[:, :, None]
    return np.asarray(Image.fromarray(image).resize((width, height), method))


def _rounded(length: float, multiple: int) -> int:
    return max(multiple, round(length / multiple) * multiple)


def normalise(  # noqa: PLR0913 - the arguments of a manifest
    inputs: Mapping[str, Any],
    *,
    of: str | None = None,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    scale: float = 1.0 / 255.0,
    layout: Layout = "NCHW",
    channels: Order = "RGB",
    dtype: Literal["float32", "float16", "uint8"] = "float32",
    name: str | None = None,
) -> Any:
    """(image * scale - mean) / std: channels x height x width, or height x width x channels for layout NHWC. `channels`
    BGR turns their order first; mean and std are in the order that comes out, or one for all. dtype uint8 takes the
    pixels as they are. With `name` it is a row {name: array} for a model of several inputs, else the array alone.
    """
    image = _ordered(image_of(inputs, of), channels)
    for title, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, image.shape[2]):
            raise ValueError(f"args.{title} has {len(values)} numbers, the image has {image.shape[2]} channels")
    if layout not in ("NCHW", "NHWC"):
        raise ValueError(f"args.layout is {layout!r}: write NCHW or NHWC")
    pixels = image if dtype == "uint8" else _scaled(image, mean, std, scale).astype(_float(dtype), copy=False)
    array = np.ascontiguousarray(pixels.transpose(2, 0, 1) if layout == "NCHW" else pixels)
    return array if name is None else {name: array}


def _ordered(image: NDArray[np.uint8], channels: str) -> NDArray[np.uint8]:
    if channels == "RGB":
        return image
    if channels != "BGR" or image.shape[2] != 3:
        raise ValueError(f"args.channels is {channels!r}, the image has {image.shape[2]}: write RGB, or BGR for three")
    return image[:, :, ::-1]


def _scaled(image: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float], scale: float) -> NDArray[np.float32]:
    deviation: NDArray[np.float32] = np.asarray(std, np.float32)
    factor: NDArray[np.float32] = np.asarray(scale, np.float32) / deviation
    offset: NDArray[np.float32] = np.asarray(mean, np.float32) / deviation
    scaled = image.astype(np.float32) * factor
    return scaled - offset


def _float(name: str) -> Any:
    if name not in ("float32", "float16"):
        raise ValueError(f"args.dtype is {name!r}: write float32, float16 or uint8")
    return np.dtype(name)


def crop(
    inputs: Mapping[str, Any], *, of: str | None = None, box: Sequence[int] | None = None, boxes: str | None = None
) -> Any:
    """Cut out [left, top, right, bottom]: one image for `box`, a list for the list of boxes that task `boxes` made.

    Boxes are cut off at the image's edges. Raises ValueError for an empty one.
    """
    image = image_of(inputs, of)
    if (box is None) == (boxes is None):
        raise ValueError("give either args.box, [left, top, right, bottom], or args.boxes, the task that makes boxes")
    if box is not None:
        return _cut(image, box)
    return [_cut(image, one) for one in value_of(inputs, boxes)]


def _cut(image: NDArray[np.uint8], box: Sequence[int]) -> NDArray[np.uint8]:
    left, top, right, bottom = (int(value) for value in box)
    cut = image[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
    if not cut.size:
        raise ValueError(f"box {list(box)} holds no pixel of an image of {image.shape[1]} x {image.shape[0]}")
    return np.ascontiguousarray(cut)
