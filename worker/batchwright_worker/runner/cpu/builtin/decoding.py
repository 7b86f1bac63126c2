"""Built-in decode: the pixels of an image file as they are, or an error that names the argument that decides."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from batchwright_worker.runner.cpu.builtin.source import value_of

MAX_PIXELS: Final = 64_000_000
_SIXTEEN_BITS: Final = ("I;16", "I;16L", "I;16B", "I;16N")
_WITH_ALPHA: Final = ("RGBA", "RGBa", "LA", "La", "PA")


def decode(  # noqa: PLR0913 - the arguments of a manifest
    inputs: Mapping[str, Any],
    *,
    of: str | None = None,
    mode: str = "RGB",
    max_pixels: int = MAX_PIXELS,
    frame: int | Literal["all"] | None = None,
    background: Sequence[int] | None = None,
    value_range: Sequence[float] | None = None,
) -> NDArray[np.uint8] | list[NDArray[np.uint8]]:
    """The image of a file's bytes: uint8, height x width x channels (1 for mode L, 4 for RGBA), EXIF orientation
    applied. 16 bits are scaled to 8.

    What cannot be told from the file is not guessed: `frame` chooses one of several frames or pages (from 0; "all": a
    list of them), `background` [red, green, blue] is what transparent pixels lie on in a mode without alpha,
    `value_range` [low, high] is what numbers of 32 bits and floats are scaled from. Its size is checked before a pixel
    is decoded, so a decompression bomb costs nothing. Raises ValueError.
    """
    from PIL import Image, UnidentifiedImageError

    data = value_of(inputs, of)
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ValueError(f"wanted the bytes of an image file, given {type(data).__name__}; input.format must be images")  # noqa: TRY004
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                _check_size(image.size, max_pixels)
                frames = _frames(image, frame)
                pixels = [_pixels(_at(image, number), mode, background, value_range) for number in frames]
    except UnidentifiedImageError as error:
        raise ValueError("not an image that Pillow can read: the file is corrupt or of another type") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"the image is too large: {error}") from error
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"the image is corrupt: {error}") from error
    return pixels if frame == "all" else pixels[0]


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise ValueError(
            f"the image has {size[0]} x {size[1]} pixels, more than max_pixels ({max_pixels}): shrink it, or raise "
            "args.max_pixels and the runner's memory"
        )


def _frames(image: Any, frame: int | str | None) -> Sequence[int]:
    # the second picture of a camera's MPO file is a preview or the other eye's
    count = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    if frame == "all":
        return range(count)
    if frame is None and count > 1:
        raise ValueError(f'the file has {count} frames or pages: args.frame says which one (0 is the first), or "all"')
    number = int(frame or 0)
    if not 0 <= number < count:
        raise ValueError(f"args.frame is {number}, the file has {count} frames or pages")
    return [number]


def _at(image: Any, number: int) -> Any:
    from PIL import ImageOps

    if number:
        image.seek(number)
    return ImageOps.exif_transpose(image)


def _pixels(
    image: Any, mode: str, background: Sequence[int] | None, value_range: Sequence[float] | None
) -> NDArray[np.uint8]:
    if image.mode in (*_SIXTEEN_BITS, "I", "F"):
        image = _of_eight_bits(image, value_range)
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        image = _on_ground(image, mode, background)
    pixels = np.asarray(image.convert(mode))
    if pixels.dtype != np.uint8:  # modes of one bit are booleans
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _of_eight_bits(image: Any, value_range: Sequence[float] | None) -> Any:
    from PIL import Image

    if value_range is None and image.mode not in _SIXTEEN_BITS:
        kind = "floats" if image.mode == "F" else "whole numbers of 32 bits"
        raise ValueError(f"the pixels are {kind}: args.value_range [low, high] says what is black and what is white")
    low, high = value_range if value_range is not None else (0.0, 65535.0)
    if not high > low:
        raise ValueError(f"args.value_range is [{low}, {high}]: the second must be larger")
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("the pixels hold NaN or infinity, which no image can show: replace them in the file")
    return Image.fromarray(np.rint(np.clip((values - low) / (high - low), 0.0, 1.0) * 255.0).astype(np.uint8))


def _on_ground(image: Any, mode: str, background: Sequence[int] | None) -> Any:
    from PIL import Image

    whole = image.convert("RGBA")
    if mode in _WITH_ALPHA or np.asarray(whole)[:, :, 3].min(initial=255) == 255:
        return whole
    if background is None:
        raise ValueError(
            "the image has transparent pixels: args.background [red, green, blue] says what they lie on, or args.mode "
            "RGBA keeps them"
        )
    ground = Image.new("RGBA", whole.size, (*(int(value) for value in background), 255))
    return Image.alpha_composite(ground, whole)
