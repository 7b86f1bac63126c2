"""One `serve` for the tests of the control port that only look."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.protocol.serving import Served, emulated_model, linear_onnx, manifest, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Models: linear (onnx) and slow (emulated)."""
    folder = tmp_path_factory.mktemp("serve")
    linear = {"name": "linear", "artifacts": [{"format": "onnx", "uri": linear_onnx(folder / "linear.onnx").as_uri()}]}
    with serving(folder, manifest("control", [linear, emulated_model("slow", fixed_ms=150)])) as served:
        yield served
