"""The deployment of the protocol tests behind uvicorn: the tests of this folder are those of the folder above."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.protocol.serving import DATATYPES, Served, emulated_model, held_model, known_models, manifest, serving


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The same models as above."""
    folder = tmp_path_factory.mktemp("uvicorn")
    models = [*known_models(folder, DATATYPES), emulated_model("slow", fixed_ms=150), held_model(folder)]
    options = ("--http-front-end=uvicorn", "--sidecar-option=--max-body-bytes=4194304")
    with serving(folder, manifest("protocol", models), *options) as served:
        yield served
