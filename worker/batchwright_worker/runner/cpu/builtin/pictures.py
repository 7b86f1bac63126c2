"""Built-ins for images, with Pillow and numpy: decode, resize, normalise, crop."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchwright_worker.runner.cpu.builtin.source import image_of, value_of

MAX_PIXELS = 64_000_000


def decode(
    inputs: Mapping[str, Any], *, of: str | None = None, mode: str = "RGB", max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """The image of a file's bytes: uint8, height x width x channels (1 for mode L), EXIF orientation applied.

    Its size is checked before a pixel is decoded, so a decompression bomb costs nothing. Raises ValueError.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    data = value_of(inputs, of)
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ValueError(f"wanted the bytes of an image file, given {type(data).__name__}; input.format must be images")  # noqa: TRY004
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                _check_size(image.size, max_pixels)
                pixels = np.asarray(ImageOps.exif_transpose(image).convert(mode))
    except UnidentifiedImageError as error:
        raise ValueError("not an image that Pillow can read: the file is corrupt or of another type") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"the image is too large: {error}") from error
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"the image is corrupt: {error}") from error
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise ValueError(
            f"the image has {size[0]} x {size[1]} pixels, more than max_pixels ({max_pixels}): shrink it, or raise "
            "args.max_pixels and the runner's memory"
        )


def resize(
    inputs: Mapping[str, Any],
    *,
    height: int,
    width: int,
    of: str | None = None,
    keep_ratio: bool = False,
    multiple: int = 1,
) -> NDArray[np.uint8]:
    """The image at height x width (bilinear, antialiased). `keep_ratio`: the largest size of its own shape that fits
    in. `multiple`: both sides are rounded to multiples of it."""
    from PIL import Image

    image = image_of(inputs, of)
    wanted_height, wanted_width = float(height), float(width)
    if keep_ratio:
        scale = min(height / image.shape[0], width / image.shape[1])
        wanted_height, wanted_width = image.shape[0] * scale, image.shape[1] * scale
    size = (_rounded(wanted_width, multiple), _rounded(wanted_height, multiple))
    if image.shape[2] == 1:
        return np.asarray(Image.fromarray(image[:, :, 0]).resize(size, Image.Resampling.BILINEAR))[:, :, None]
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def _rounded(length: float, multiple: int) -> int:
    return max(multiple, round(length / multiple) * multiple)


def normalise(
    inputs: Mapping[str, Any],
    *,
    of: str | None = None,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    scale: float = 1.0 / 255.0,
    name: str | None = None,
) -> Any:
    """(image * scale - mean) / std as float32, channels x height x width; mean and std per channel or one for all.

    With `name` it is a row {name: array} for a model of several inputs, else the array alone.
    """
    image = image_of(inputs, of)
    for title, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, image.shape[2]):
            raise ValueError(f"args.{title} has {len(values)} numbers, the image has {image.shape[2]} channels")
    factor = np.float32(scale) / np.asarray(std, np.float32)
    offset = np.asarray(mean, np.float32) / np.asarray(std, np.float32)
    array = np.ascontiguousarray((image.astype(np.float32) * factor - offset).transpose(2, 0, 1))
    return array if name is None else {name: array}


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
