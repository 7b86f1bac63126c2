"""Schemathesis over docs/openapi.yaml against a served model: every status, header and body is as the document says,
nothing crashes, and no request is answered 500."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchwright_worker.language.routes import CALLS_WITH_TEXTS
from e2e.peers import peer_python
from tests.protocol.serving import Served

pytestmark = pytest.mark.slow
DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.yaml"
INFER = ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer")
NOT_OURS = ("not_a_server_error", "positive_data_acceptance", "negative_data_rejection")
"""503 and 504 are documented answers (500 is taken out of the document instead); what data fit which model the document
cannot say; unknown fields are allowed by the protocol."""

Document = dict[str, Any]


def document() -> Document:
    """Without the one 500 that it has (a model that raises: these models do not), and without the calls with texts,
    which a server has whose models have tasks."""
    whole: Document = json.loads(json.dumps(yaml.safe_load(DOCUMENT.read_text())))
    whole["paths"] = {path: item for path, item in whole["paths"].items() if not path.startswith(CALLS_WITH_TEXTS)}
    for path in INFER:
        del whole["paths"][path]["post"]["responses"]["500"]
    return whole


def anything(_document: Document) -> None:
    """Names of models are made up too."""


def of_real_models(whole: Document) -> None:
    """Models, version and input that exist, with any tensors."""
    parameters, schemas = whole["components"]["parameters"], whole["components"]["schemas"]
    parameters["model"]["schema"] = {"enum": ["linear", "echo-fp32", "echo-bytes"]}
    parameters["version"]["schema"] = {"enum": ["1"]}
    schemas["InferInput"]["properties"]["name"] = {"enum": ["x"]}


def right(whole: Document) -> None:
    """What `linear` takes, and only inference."""
    of_real_models(whole)
    parameters, schemas = whole["components"]["parameters"], whole["components"]["schemas"]
    parameters["model"]["schema"] = {"enum": ["linear"]}
    numbers = {
        "type": "array",
        "items": {"type": "number", "minimum": -1e6, "maximum": 1e6},
        "minItems": 16,
        "maxItems": 16,
    }
    schemas["InferInput"]["required"] = ["name", "datatype", "shape", "data"]
    schemas["InferInput"]["properties"] |= {
        "datatype": {"enum": ["FP32"]},
        "shape": {"enum": [[1, 16]]},
        "data": numbers,
    }
    schemas["InferInput"]["properties"]["parameters"] = {"type": "object", "maxProperties": 0}
    schemas["InferInput"]["additionalProperties"] = False
    schemas["InferRequest"]["properties"]["inputs"]["maxItems"] = 1
    schemas["InferRequest"]["properties"]["outputs"]["maxItems"] = 1  # of `linear`, and each may be named once
    schemas["InferRequest"]["additionalProperties"] = False
    schemas["RequestedOutput"]["properties"]["name"] = {"enum": ["y"]}
    schemas["Parameters"]["properties"]["timeout"]["minimum"] = 60_000_000
    schemas["Parameters"]["additionalProperties"] = False
    schemas["RequestedOutput"]["properties"]["parameters"] = {
        "type": "object",
        "properties": {"binary_data": {"type": "boolean"}},
        "additionalProperties": False,
    }
    whole["paths"] = {path: whole["paths"][path] for path in INFER}
    for path in whole["paths"].values():
        path["post"]["parameters"] = []
        del path["post"]["requestBody"]["content"]["application/octet-stream"]


def schemathesis(
    served: Served, folder: Path, narrow: Callable[[Document], None], *options: str
) -> subprocess.CompletedProcess[str]:
    """One worker: several of them meet a fault of CPython 3.11's parser."""
    whole = document()
    narrow(whole)
    (folder / "openapi.json").write_text(json.dumps(whole))
    program = peer_python("schemathesis").with_name("schemathesis")
    command = [str(program), "run", "openapi.json", "-u", served.url, "-w", "1", "--no-color", "--continue-on-failure"]
    command += ["--phases", "coverage,fuzzing", "--checks", "all", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=3000, check=False)


def goes_on(served: Served) -> None:
    assert served.get("/v2/health/ready")[0] == 200
    [counts] = json.loads(served.get("/v2/models/linear/stats")[2])["model_stats"]
    assert counts["name"] == "linear"


@pytest.mark.parametrize("narrow", [anything, of_real_models])
def test_every_answer_is_as_documented(
    served: Served, tmp_path: Path, narrow: Callable[[Document], None], capfd: pytest.CaptureFixture[str]
) -> None:
    told = schemathesis(
        served, tmp_path, narrow, "-n", "10", "--generation-deterministic", "--exclude-checks", ",".join(NOT_OURS)
    )
    assert told.returncode == 0, told.stdout
    assert " passed" in told.stdout
    assert "internal error" not in capfd.readouterr().err
    goes_on(served)


def test_right_requests_are_all_answered(served: Served, tmp_path: Path) -> None:
    told = schemathesis(served, tmp_path, right, "-n", "25", "--generation-deterministic", "--mode", "positive")
    assert told.returncode == 0, told.stdout
    goes_on(served)


@pytest.mark.soak
@pytest.mark.parametrize("narrow", [anything, of_real_models])
def test_every_answer_is_as_documented_for_minutes(
    served: Served, tmp_path: Path, narrow: Callable[[Document], None]
) -> None:
    told = schemathesis(
        served,
        tmp_path,
        narrow,
        "--max-time",
        "180",
        "--generation-database",
        ":memory:",
        "--exclude-checks",
        ",".join(NOT_OURS),
    )
    assert told.returncode == 0, told.stdout
    goes_on(served)
