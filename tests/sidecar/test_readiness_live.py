"""A broken model beside a good one, in a pod that has been ready before and in one that has not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.protocol.serving import Served, emulated_model, manifest, started


def settled(served: Served) -> bool:
    """Is it ready, once every model was tried?"""
    revision = -1
    for _ in range(50):
        state = served.state(after=revision, waitSeconds=20)
        if "Loading" not in [model["state"] for model in state["models"]] and state["models"]:
            return served.get("/v2/health/ready")[0] == 200
        revision = state["revision"]
    raise AssertionError("it loads for ever")


@pytest.mark.parametrize(
    ("readiness", "was_ready", "ready"), [("All", False, False), ("All", True, True), ("Any", False, True)]
)
def test_a_broken_model_takes_no_other_down(readiness: str, was_ready: bool, ready: bool, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    broken = {"name": "broken", "artifacts": [{"format": "onnx", "uri": (tmp_path / "broken.onnx").as_uri()}]}
    manifests = tmp_path / "deployment.yaml"
    manifests.write_text(yaml.safe_dump_all(manifest("d", [emulated_model("good", 1), broken], readiness=readiness)))
    note = tmp_path / "was-ready"
    if was_ready:
        note.touch()
    with started(manifests, f"--sidecar-option=--was-ready-file={note}") as served:
        assert settled(served) is ready
        assert served.get("/v2/models/good/ready")[0] == 200
        assert served.get("/v2/models/broken/ready")[0] == 503
    assert note.exists() is ready
