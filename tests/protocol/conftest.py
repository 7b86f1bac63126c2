"""One `serve` for all protocol tests that only send requests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.protocol.serving import DATATYPES, Served, echo_model, emulated_model, linear_onnx, manifest, serving


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Models: linear (onnx), one echo per datatype (x and y, [-1]), pair (two inputs... in the emulated `slow`)."""
    folder = tmp_path_factory.mktemp("serve")
    marker = folder / "marker"
    marker.touch()
    models = [
        {"name": "linear", "artifacts": [{"format": "onnx", "uri": linear_onnx(folder / "linear.onnx").as_uri()}]},
        *(echo_model(f"echo-{datatype.lower()}", datatype, [-1], marker) for datatype in DATATYPES),
        emulated_model("slow", fixed_ms=150),
    ]
    with serving(folder, manifest("protocol", models), "--sidecar-option=--max-body-bytes=4194304") as served:
        yield served
