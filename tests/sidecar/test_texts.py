"""Texts of foreign code: whatever is in them, they can be written anywhere."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.texts import presentable, text_of


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, as nearly always", "plain text, as nearly always"),
        ("café 漢字 🙂", "café 漢字 🙂"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        (os.fsdecode(b"caf\xe9.png"), "caf\\xe9.png"),
        ("half a pair \ud83d", "half a pair \\ud83d"),
        ("nul \x00, escape \x1b[31m, c1 \x9b", "nul \\x00, escape \\x1b[31m, c1 \\x9b"),
    ],
)
def test_what_is_unfit_is_escaped(text: str, shown: str) -> None:
    assert presentable(text) == shown


def test_a_long_text_is_cut_between_characters_and_shows_it() -> None:
    assert presentable("E" * 3_000_000, 10) == "EEEEEEE…"
    assert presentable("é" * 10, 10) == "ééé…"
    assert presentable("é" * 5, 10) == "ééééé"


@given(st.text(st.characters(categories=None, exclude_categories=()), max_size=300), st.integers(8, 200))
def test_every_text_can_be_encoded_within_the_bound_and_is_not_escaped_twice(text: str, most: int) -> None:
    shown = presentable(text, most)
    assert len(shown.encode()) <= most
    assert presentable(shown, most) == shown


def test_an_error_whose_text_raises_still_has_one() -> None:
    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert text_of(UnprintableError()) == "its text cannot be made: RuntimeError"
