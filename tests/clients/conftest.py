"""One `serve` for other people's clients, which run as processes of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.protocol.serving import Served, known_models, manifest, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Models: linear (onnx) and an echo for FP16, FP32 and BYTES; callers may load, unload and use regions."""
    folder = tmp_path_factory.mktemp("clients")
    models = known_models(folder, ("FP16", "FP32", "BYTES"))
    with serving(folder, manifest("clients", models, repositoryControl=True), "--shared-memory") as served:
        yield served
