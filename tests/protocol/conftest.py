"""One `serve` for all protocol tests that only send requests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.protocol.serving import DATATYPES, Served, emulated_model, held_model, known_models, manifest, serving


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Models: linear (onnx), one echo per datatype (x and y, [-1]), `slow` (emulated), `held` and `narrow`
    (which `held` holds)."""
    folder = tmp_path_factory.mktemp("serve")
    models = [*known_models(folder, DATATYPES), emulated_model("slow", fixed_ms=150), held_model(folder)]
    models.append(held_model(folder, "narrow", maxSize=1, maxQueueLength=8))
    with serving(folder, manifest("protocol", models), "--sidecar-option=--max-body-bytes=4194304") as served:
        yield served
