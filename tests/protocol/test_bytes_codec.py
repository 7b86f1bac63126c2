"""BYTES tensors: the codec against one that goes element by element, with few elements and with many."""

from __future__ import annotations

import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from batchwright_worker.oip import byte_pages, datatypes
from batchwright_worker.oip.datatypes import BadBytesError, decode_bytes, encode_bytes, encoded_size

MANY = datatypes._MANY
elements_of = st.lists(st.one_of(st.binary(max_size=40), st.text(max_size=12)), max_size=20)


def naive_encode(elements: list[Any]) -> bytes:
    values = [element.encode() if isinstance(element, str) else bytes(element) for element in elements]
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def naive_decode(data: bytes, count: int) -> list[bytes] | None:
    """None: refused."""
    values = []
    for _ in range(count):
        if len(data) < 4 or len(data) - 4 < (length := int.from_bytes(data[:4], "little")):
            return None
        values.append(data[4 : 4 + length])
        data = data[4 + length :]
    return None if data else values


def array_of(elements: list[Any]) -> NDArray[Any]:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array


def decoded(data: bytes | memoryview, count: int) -> list[bytes] | None:
    try:
        array = decode_bytes(data, count)
    except BadBytesError:
        return None
    assert array.dtype == object
    assert array.shape == (count,)
    return list(array)


@given(elements_of)
def test_encoding_is_the_naive_one_and_decodes_to_the_same(elements: list[Any]) -> None:
    raw = encode_bytes(array_of(elements))
    assert raw == naive_encode(elements)
    assert len(raw) == encoded_size(array_of(elements))
    assert decoded(raw, len(elements)) == naive_decode(raw, len(elements))


@given(st.binary(max_size=60), st.integers(0, 20))
def test_any_bytes_decode_as_the_naive_codec_does(data: bytes, count: int) -> None:
    assert decoded(data, count) == naive_decode(data, count)
    assert decoded(memoryview(data), count) == naive_decode(data, count)


@given(elements_of, st.data())
def test_any_cut_or_change_is_taken_or_refused_as_by_the_naive_codec(elements: list[Any], data: st.DataObject) -> None:
    changed = _changed(naive_encode(elements), data)
    count = len(elements) + data.draw(st.integers(0, 2))
    assert decoded(changed, count) == naive_decode(changed, count)


@settings(max_examples=60)
@given(st.lists(st.one_of(st.binary(max_size=9), st.text(max_size=3)), min_size=1, max_size=9), st.data())
def test_many_elements_are_as_few_are(some: list[Any], data: st.DataObject) -> None:
    count = MANY + data.draw(st.integers(0, 100))
    elements = (some * count)[:count]
    raw = encode_bytes(array_of(elements))
    assert raw == naive_encode(elements)
    assert byte_pages.encode(array_of(elements)) == raw
    assert decoded(raw, count) == naive_decode(raw, count)
    assert byte_pages.decode(raw, count) is not None
    changed = _changed(raw, data)
    assert decoded(changed, count) == naive_decode(changed, count)


def _changed(raw: bytes, data: st.DataObject) -> bytes:
    """Cut, lengthened or with a few bytes overwritten, mostly near the front, where lengths are likely."""
    kind = data.draw(st.sampled_from(["cut", "more", "overwritten"]))
    if kind == "more" or not raw:
        return raw + data.draw(st.binary(min_size=1, max_size=9))
    at = data.draw(st.one_of(st.integers(0, len(raw) - 1), st.integers(0, min(len(raw), 64) - 1)))
    if kind == "cut":
        return raw[:at]
    return raw[:at] + data.draw(st.binary(min_size=1, max_size=8)) + raw[at + 1 :]


@pytest.mark.parametrize("count", [MANY, 20_000, 20_001, 150_000])
def test_every_number_of_elements_is_one_page(count: int) -> None:
    elements = [b"x" * (index % 7) for index in range(count)]
    raw = byte_pages.encode(array_of(elements))
    assert raw == naive_encode(elements)
    array = byte_pages.decode(raw, count)
    assert array is not None
    assert array.tolist() == elements


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda raw: raw[:-1], "element 4999 claims 3 bytes, 2 are left"),
        (lambda raw: raw[:-4], "it ends before element 4999 of 5000"),
        (lambda raw: raw + b"abc", "3 bytes follow the last of 5000 elements"),
        (lambda raw: b"\xff\xff\xff\xff" + raw[4:], "element 0 claims 4294967295 bytes, 34996 are left"),
        (lambda raw: b"\xff\xff\xff\x7f" + raw[4:], "element 0 claims 2147483647 bytes, 34996 are left"),
        (lambda raw: raw[:9_999], "it has 9999 bytes, too few for the lengths of 5000 elements"),
    ],
)
def test_refusals_name_the_element(damage: Any, said: str) -> None:
    raw = naive_encode([b"abc"] * 5000)
    with pytest.raises(BadBytesError, match=said):
        decode_bytes(damage(raw), 5000)


def test_a_count_beyond_the_data_is_refused_before_anything_is_allocated() -> None:
    with pytest.raises(BadBytesError, match="too few for the lengths"):
        decode_bytes(b"", 2**60)


@pytest.mark.parametrize("count", [3, MANY])
def test_arrays_of_any_layout_and_text_type(count: int) -> None:
    words = np.array([["ab", "c\u00e9"]] * count)
    for array in (words, words.T, words.astype(object), words.astype(object)[::-1], words.astype(object).T):
        assert encode_bytes(array) == naive_encode(array.reshape(-1).tolist())
        assert encoded_size(array) == len(encode_bytes(array))
    codes = np.array([b"ab", b"c"] * count)
    assert encode_bytes(codes) == naive_encode(codes.tolist())


@pytest.mark.parametrize("count", [3, MANY])
@pytest.mark.parametrize("odd", [None, 3, 1.5, [1, 2], "\ud800"])
def test_what_is_neither_bytes_nor_text_is_refused_for_any_count(count: int, odd: object) -> None:
    """A number is no number of zeros, as `bytes(3)` would have it."""
    with pytest.raises(BadBytesError):
        encode_bytes(array_of([b"x"] * (count - 1) + [odd]))


def test_long_elements_take_the_loop() -> None:
    elements = [bytes(1000)] * MANY
    assert byte_pages.encode(array_of(elements)) is None
    raw = encode_bytes(array_of(elements))
    assert raw == naive_encode(elements)
    assert byte_pages.decode(raw, MANY) is None
    assert decoded(raw, MANY) == elements


def test_an_image_without_pyarrow_encodes_and_decodes_many_elements_too() -> None:
    program = (
        "import sys; sys.modules['pyarrow'] = None;"
        "import numpy as np; from batchwright_worker.oip.datatypes import decode_bytes, encode_bytes;"
        f"a = np.array([b'%d' % n for n in range({2 * MANY})], dtype=object); raw = encode_bytes(a);"
        f"assert list(decode_bytes(raw, {2 * MANY})) == list(a); print(len(raw))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(naive_encode([b"%d" % number for number in range(2 * MANY)]))
