"""The processor's load table as the sidecar is given it."""

from __future__ import annotations

import json

import pytest

from batchwright_worker.sidecar.settings import load_table_of


def row(size: object, rate: float) -> dict[str, object]:
    return {"batchSize": size, "imagesPerSecond": rate, "maxServices": 1}


def test_the_rows_of_the_annotation_are_read() -> None:
    assert load_table_of(json.dumps([row(1, 83.3), row(8, 307.7)])) == [(1, 83.3), (8, 307.7)]


@pytest.mark.parametrize("text", ["", "[", "{}", json.dumps([row("x", 1.0)]), json.dumps([row(0, 1.0)])])
def test_what_is_no_table_is_left_out(text: str) -> None:
    assert load_table_of(text) == []
