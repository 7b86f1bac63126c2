"""The worked example of docs/how-to-add.md: a new model format is a row, a loader and `make generate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.house.additions import Copy
from tests.protocol.serving import manifest, serving

ROW = """\
    ModelFormat(name="csv-linear", loader="csv_linear", platform="csv", backend="numpy", preload=("numpy",)),
"""
LOADER = '''
"""Linear models: a CSV file of weights, one line per input and one column per output."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from batchwright_worker.inference.requests import Array
from batchwright_worker.backends.base import Host, LoadError
from batchwright_worker.inference.runtime import TensorSpec
from batchwright_worker.ipc.messages import ModelSource


class CsvLinearModel:
    """See the module."""

    def __init__(self, weights: Array) -> None:
        self._weights = weights
        inputs, outputs = weights.shape
        self.inputs = [TensorSpec(name="x", datatype="FP32", shape=(inputs,))]
        self.outputs = [TensorSpec(name="y", datatype="FP32", shape=(outputs,))]

    def run(self, inputs: Mapping[str, Array], rows: int) -> Mapping[str, Array]:
        """As LoadedModel.run."""
        return {"y": inputs["x"] @ self._weights}

    def close(self) -> None:
        """The weights are on this process's heap."""


def load(source: ModelSource, host: Host) -> CsvLinearModel:
    """Raises LoadError for a file that is missing or no table of numbers."""
    try:
        return CsvLinearModel(np.loadtxt(source.path, np.float32, delimiter=",", ndmin=2))
    except (OSError, ValueError) as error:
        raise LoadError(f"{source.path} is no CSV file of weights: {error}") from error
'''


@pytest.fixture
def product(tmp_path: Path) -> Copy:
    """With the new format."""
    product = Copy(tmp_path / "product")
    product.add_row("api/formats.py", "_ROWS", ROW)
    product.write("backends/csv_linear.py", LOADER)
    product.run("-m", "batchwright_operator.crds.generate", "--write")
    return product


def test_a_new_format_is_validated_loaded_and_served(
    product: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "- csv-linear" in (product.folder / "crds" / "modeldeployments.yaml").read_text()
    for name, value in product.environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "w.csv").write_text("1,2\n3,4\n")
    model = {"name": "m", "artifacts": [{"format": "csv-linear", "uri": (tmp_path / "w.csv").as_uri()}]}
    with serving(tmp_path, manifest("d", [model])) as served:
        _, _, metadata = served.get("/v2/models/m")
        request = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 0, 1, 1]}]}
        _, _, answer = served.get("/v2/models/m/infer", json.dumps(request).encode())
    assert json.loads(metadata)["platform"] == "csv"
    assert json.loads(answer)["outputs"][0]["data"] == [1, 2, 4, 6]
