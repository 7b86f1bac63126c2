"""The built-in functions, each on small inputs with known results."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from batchwright_worker.runner.cpu.builtin import BUILTINS
from batchwright_worker.runner.cpu.functions import resolve


def run(name: str, value: Any, /, **args: Any) -> Any:
    return resolve("t", name)({"before": value}, **args)


def item(name: str, data: Any, /, **args: Any) -> Any:
    return resolve("t", name)({"item": {"id": "i", "data": data}}, **args)


def png(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def test_every_built_in_can_be_resolved() -> None:
    assert all(callable(resolve("t", name)) for name in BUILTINS)


def test_decode_gives_height_width_channels() -> None:
    assert np.array_equal(item("decode", png(PIXELS)), PIXELS)
    assert item("decode", png(PIXELS), mode="L").shape == (4, 6, 1)


def test_decode_turns_the_image_as_its_exif_says() -> None:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(stream, "PNG", exif=exif)
    assert item("decode", stream.getvalue()).shape == (6, 4, 3)


def test_resize_fits_or_stretches_and_rounds_to_multiples() -> None:
    image = np.full((40, 100, 3), 7, np.uint8)
    assert run("resize", image, height=20, width=20).shape == (20, 20, 3)
    assert run("resize", image, height=20, width=20, keep_ratio=True).shape == (8, 20, 3)
    assert run("resize", image, height=90, width=90, multiple=32).shape == (96, 96, 3)
    assert (run("resize", image, height=9, width=9) == 7).all()


def test_normalise_scales_and_puts_channels_first() -> None:
    array = run("normalise", PIXELS, mean=[0.5, 0.0, 0.0], std=[0.5, 1.0, 2.0])
    assert array.dtype == np.float32
    assert array.shape == (3, 4, 6)
    assert np.allclose(array[0], (PIXELS[:, :, 0] / 255 - 0.5) / 0.5, atol=1e-6)
    assert np.allclose(array[2], PIXELS[:, :, 2] / 255 / 2, atol=1e-6)
    assert list(run("normalise", PIXELS, name="x")) == ["x"]


def test_crop_cuts_one_box_or_many() -> None:
    crop = resolve("t", "crop")
    assert np.array_equal(crop({"p": PIXELS}, box=[1, 0, 3, 2]), PIXELS[0:2, 1:3])
    cuts = crop({"p": PIXELS, "b": [[0, 0, 1, 1], [4, 2, 99, 99]]}, of="p", boxes="b")
    assert [cut.shape for cut in cuts] == [(1, 1, 3), (2, 2, 3)]
    with pytest.raises(ValueError, match="holds no pixel"):
        crop({"p": PIXELS}, box=[6, 0, 9, 2])


def test_argmax_gives_index_or_label() -> None:
    assert run("argmax", {"scores": np.array([0.1, 0.7, 0.2])}) == 1
    assert run("argmax", np.array([0.1, 0.7, 0.2]), labels=["a", "b", "c"]) == "b"
    with pytest.raises(ValueError, match="2 entries, there are 3"):
        run("argmax", np.array([1, 2, 3]), labels=["a", "b"])


def test_top_k_gives_the_largest_first_and_equals_by_index() -> None:
    found = run("top-k", {"s": np.array([1.0, 3.0, 3.0, 2.0])}, k=3, labels=list("abcd"))
    assert [(entry["index"], entry["label"], entry["score"]) for entry in found] == [
        (1, "b", 3.0),
        (2, "c", 3.0),
        (3, "d", 2.0),
    ]
    with pytest.raises(ValueError, match="at least k=5"):
        run("top-k", np.zeros(4), k=5)


def steps(*classes: int, count: int = 4) -> np.ndarray[Any, Any]:
    scores = np.full((len(classes), count), 0.1)
    scores[np.arange(len(classes)), classes] = 0.7
    return scores


@pytest.mark.parametrize(
    ("classes", "text"),
    [((1, 1, 0, 1, 2, 2, 3, 0), "aabc"), ((0, 0), ""), ((3,), "c"), ((2, 0, 2), "bb")],
)
def test_ctc_decode_joins_repeats_and_drops_blanks(classes: tuple[int, ...], text: str) -> None:
    found = run("ctc-decode", {"p": steps(*classes)}, characters=list("abc"))
    assert found["text"] == text
    assert found["score"] == pytest.approx(0.7 if text else 0.0)


def test_ctc_decode_takes_lists_of_rows_another_blank_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "alphabet.txt").write_text("a\nb\nc\n")
    rows = [{"p": steps(0, 3, 0)}, {"p": steps(2, 2)}]
    found = run("ctc-decode", rows, characters_file=str(tmp_path / "alphabet.txt"), blank=3)
    assert [row["text"] for row in found] == ["aa", "c"]
    with pytest.raises(ValueError, match=r"wanted steps x 3 scores"):
        run("ctc-decode", {"p": steps(1)}, characters=list("ab"))


def test_a_line_of_a_dictionary_ends_with_a_line_feed_alone(tmp_path: Path) -> None:
    """Entries that are line ends to Unicode do not move those after them."""
    (tmp_path / "alphabet.txt").write_text("a\n\u2028\n\x85\nb\r\n", newline="")
    assert run("ctc-decode", {"p": steps(4, count=5)}, characters_file=str(tmp_path / "alphabet.txt"))["text"] == "b"


RECORD = {"user": {"name": "Ada", "tags": ["x", "y"]}, "n": 3}


def test_json_fields_picks_renames_and_descends() -> None:
    assert item("json-fields", RECORD, fields=["n"]) == {"n": 3}
    assert item("json-fields", RECORD, fields={"who": "user.name", "tag": "user.tags.1"}) == {"who": "Ada", "tag": "y"}
    assert item("json-fields", RECORD, fields=["n"], single=True) == 3
    assert item("json-fields", RECORD, fields=["m"], default=None) == {"m": None}
    with pytest.raises(ValueError, match=r"no field 'user\.age': 'age' is not in"):
        item("json-fields", RECORD, fields=["user.age"])


@pytest.fixture
def vocabulary(tmp_path: Path) -> str:
    special, words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"], ["hello", ",", "!", "世", "界", "world", "##s", "cafe"]
    pieces = [*special, "un", "##aff", "##able", *words]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return str(tmp_path / "vocab.txt")


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("unaffable", [4, 5, 6]),
        ("Hello, worlds!", [7, 8, 12, 13, 9]),
        ("  café\t世界\u200b ", [14, 10, 11]),
        ("hellox", [1]),
        ("", []),
        ("x" * 101, [1]),
    ],
)
def test_tokenize_cuts_words_into_the_longest_pieces(vocabulary: str, text: str, ids: list[int]) -> None:
    row = item("tokenize", text, vocabulary=vocabulary, multiple=4)
    length = len(ids) + 2
    assert row["input_ids"].tolist()[:length] == [2, *ids, 3]
    assert row["input_ids"].shape[0] == -(-length // 4) * 4
    assert row["attention_mask"].tolist() == [1] * length + [0] * (row["input_ids"].shape[0] - length)
    assert row["input_ids"].dtype == np.int64


def test_tokenize_cuts_long_texts_and_renames_inputs(vocabulary: str) -> None:
    names = {"input_ids": "ids", "token_type_ids": ""}
    row = item("tokenize", "hello " * 50, vocabulary=vocabulary, max_length=8, multiple=1, names=names)
    assert sorted(row) == ["attention_mask", "ids"]
    assert row["ids"].tolist() == [2, 7, 7, 7, 7, 7, 7, 3]


@pytest.mark.parametrize(
    ("name", "value", "args", "words"),
    [
        ("normalise", np.zeros((2, 2)), {}, "wanted an image"),
        ("normalise", PIXELS, {"mean": [1.0, 2.0]}, "2 numbers, the image has 3 channels"),
        ("tokenize", {"text": "x"}, {"vocabulary": "v"}, "wanted text, given dict"),
        ("decode", "text", {}, "input.format must be images"),
        ("argmax", {"a": [1], "b": [2]}, {}, r"outputs \['a', 'b'\]: name one"),
        ("argmax", [1], {"of": "other"}, "args.of is 'other', dependsOn has before"),
    ],
)
def test_what_does_not_fit_is_said(name: str, value: Any, args: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(name, value, **args)
