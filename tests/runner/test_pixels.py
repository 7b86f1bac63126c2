"""Pictures as they are: right, or an error that names the argument that decides."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.runner.test_builtin_functions import PIXELS, item, png, run

RAMP = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
RED = (255, 0, 0)


def encoded(image: Any, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def see_through() -> Any:
    """Red, of which the left half is transparent."""
    image = Image.new("RGBA", (4, 2), (*RED, 255))
    image.paste((*RED, 0), (0, 0, 2, 2))
    return image


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(kind: str) -> None:
    pixels = item("decode", encoded(Image.fromarray(RAMP), kind), mode="L")
    assert np.array_equal(pixels[:, :, 0], np.rint(RAMP / 257).astype(np.uint8))
    assert abs(float(item("decode", encoded(Image.fromarray(RAMP), kind)).mean()) - 127.5) < 1.0


def test_of_sixteen_bits_a_part_may_be_meant() -> None:
    pixels = item("decode", encoded(Image.fromarray(RAMP), "PNG"), mode="L", value_range=[0, 4095])
    assert (pixels[2:] == 255).all()
    assert pixels[0, 8, 0] == np.rint(RAMP[0, 8] / 4095 * 255)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_floats_and_long_numbers_want_a_range(dtype: Any) -> None:
    data = encoded(Image.fromarray(np.full((2, 2), 1, dtype)), "TIFF")
    with pytest.raises(ValueError, match=r"args\.value_range \[low, high\] says what is black"):
        item("decode", data)
    assert (item("decode", data, value_range=[0, 2]) == 128).all()


def test_floats_that_are_none_are_refused() -> None:
    data = encoded(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF")
    with pytest.raises(ValueError, match="NaN or infinity"):
        item("decode", data, value_range=[0, 1])


def test_of_several_pages_the_manifest_says_which() -> None:
    pages = [Image.new("L", (3, 2), shade) for shade in (10, 20, 30)]
    data = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=r"3 frames or pages: args\.frame says which one"):
        item("decode", data)
    assert (item("decode", data, frame=2) == 30).all()
    assert [int(page[0, 0, 0]) for page in item("decode", data, frame="all")] == [10, 20, 30]
    with pytest.raises(ValueError, match="frame is 3, the file has 3"):
        item("decode", data, frame=3)


def test_an_animation_has_frames_too() -> None:
    frames = [Image.new("L", (3, 2), shade) for shade in (10, 200)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="2 frames"):
        item("decode", data)
    assert (item("decode", data, frame=1) == 200).all()


@pytest.mark.parametrize("palette", [False, True])
def test_what_transparent_pixels_lie_on_is_not_guessed(palette: bool) -> None:
    image = see_through()
    data = encoded(image.quantize() if palette else image, "PNG")
    with pytest.raises(ValueError, match=r"args\.background \[red, green, blue\]"):
        item("decode", data)
    pixels = item("decode", data, background=[255, 255, 255])
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 3].tolist() == list(RED)
    assert item("decode", data, mode="RGBA").shape == (2, 4, 4)


def test_alpha_that_hides_nothing_wants_no_ground() -> None:
    assert (item("decode", encoded(Image.new("RGBA", (4, 2), (*RED, 255)), "PNG")) == RED).all()


def test_inverted_cmyk_of_a_jpeg_is_seen_as_it_is_meant() -> None:
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert np.abs(item("decode", data).astype(int) - RED).max() < 8


def test_one_bit_is_black_and_white() -> None:
    data = encoded(Image.new("1", (3, 2), 1), "PNG")
    assert (item("decode", data, mode="L") == 255).all()


def test_normalise_turns_channels_and_dimensions() -> None:
    array = run("normalise", PIXELS, layout="NHWC", channels="BGR", scale=1.0, mean=[1.0, 2.0, 3.0])
    assert array.dtype == np.float32
    assert np.array_equal(array, PIXELS[:, :, ::-1].astype(np.float32) - [1.0, 2.0, 3.0])
    assert array.flags.c_contiguous


def test_normalise_may_leave_pixels_as_they_are() -> None:
    assert np.array_equal(run("normalise", PIXELS, layout="NHWC", dtype="uint8"), PIXELS)
    assert run("normalise", PIXELS, dtype="float16").dtype == np.float16


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"layout": "HWC"}, "NCHW or NHWC"),
        ({"channels": "GBR"}, "RGB, or BGR"),
        ({"dtype": "int8"}, "float16 or uint8"),
    ],
)
def test_normalise_says_what_it_knows(args: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run("normalise", PIXELS, **args)


def test_resize_covers_and_cuts_the_middle_out() -> None:
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = 255
    assert (run("resize", image, height=20, width=20, cover=True, filter="nearest") == 255).all()
    with pytest.raises(ValueError, match="write one of them"):
        run("resize", image, height=2, width=2, cover=True, keep_ratio=True)


def test_decoding_costs_nothing_where_nothing_is_special() -> None:
    assert np.array_equal(item("decode", png(PIXELS)), PIXELS)
