"""Texts as rows, and what becomes of outputs: pure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.language.rows import Tokens, rounded, rows_of
from batchwright_worker.language.tensors import TextTensors
from batchwright_worker.language.vectors import cosines, pooled, scores, unit


def tensors(*names: str, tokens: int = -1) -> TextTensors:
    return TextTensors(
        datatypes=dict.fromkeys(names, "INT64"), tokens=tokens, output="y", row_elements=1, per_token=False
    )


MASKED = tensors("input_ids", "attention_mask", "token_type_ids")


@given(st.integers(1, 9000), st.integers(0, 9000))
def test_a_row_is_never_shorter_than_its_text_nor_longer_than_the_model_takes(count: int, more: int) -> None:
    length = rounded(count, count + more)
    assert count <= length <= count + more
    assert length <= max(8, count * 1.25 + 8)


def test_lengths_are_few() -> None:
    assert len({rounded(count, 512) for count in range(1, 513)}) <= 20


@given(st.lists(st.lists(st.integers(5, 90), min_size=1, max_size=40), min_size=1, max_size=30))
def test_every_text_is_in_one_row_and_its_filler_is_masked(texts: list[list[int]]) -> None:
    found = list(rows_of([Tokens(ids, [1] * len(ids)) for ids in texts], MASKED, 0, 40))
    assert sorted(number for rows in found for number in rows.texts) == list(range(len(texts)))
    for rows in found:
        for place, number in enumerate(rows.texts):
            count = len(texts[number])
            assert rows.inputs["input_ids"][place, :count].tolist() == texts[number]
            assert not rows.inputs["input_ids"][place, count:].any()
            for name in ("attention_mask", "token_type_ids"):
                assert rows.inputs[name][place].sum() == rows.mask[place].sum() == count


def test_without_a_mask_nothing_is_filled_up() -> None:
    texts = [Tokens([1] * count) for count in (3, 5, 3)]
    found = list(rows_of(texts, tensors("input_ids"), 0, 40))
    assert [(rows.texts, rows.inputs["input_ids"].shape) for rows in found] == [((0, 2), (2, 3)), ((1,), (1, 5))]


def test_a_fixed_length_is_kept() -> None:
    [rows] = rows_of([Tokens([1]), Tokens([1] * 7)], tensors("input_ids", "attention_mask", tokens=16), 9, 16)
    assert rows.inputs["input_ids"].shape == (2, 16)
    assert (rows.inputs["input_ids"] == 9).sum() == 32 - 8


VECTORS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
MASK = np.array([[1, 1, 0], [1, 1, 1]])


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ("Mean", [VECTORS[0, :2].mean(0), VECTORS[1].mean(0)]),
        ("Max", [VECTORS[0, 1], VECTORS[1, 2]]),
        ("Cls", [VECTORS[0, 0], VECTORS[1, 0]]),
        ("LastToken", [VECTORS[0, 1], VECTORS[1, 2]]),
    ],
)
def test_what_is_masked_does_not_count(how: str, wanted: list[np.ndarray]) -> None:
    np.testing.assert_allclose(pooled(VECTORS, MASK, how), wanted, rtol=1e-6)  # type: ignore[arg-type]


def test_scores_of_large_logits_do_not_overflow() -> None:
    logits = np.array([[-1000], [-2], [0], [1000]], np.float16)
    np.testing.assert_allclose(scores(logits, "Sigmoid"), [0, 1 / (1 + np.exp(2)), 0.5, 1], rtol=1e-3, atol=1e-7)
    assert scores(logits, "Identity").tolist() == [-1000, -2, 0, 1000]


def test_lengths_and_angles() -> None:
    assert unit(np.array([[3, 4], [0, 0]], np.float32)).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]
    np.testing.assert_allclose(cosines(np.array([2, 0.0]), np.array([[9, 0], [0, 5], [-1, 0.0]])), [1, 0, -1])
