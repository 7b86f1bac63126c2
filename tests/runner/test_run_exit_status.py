"""`batchwright-worker run`: its exit status and its summary say whether the data set is whole, and what failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from batchwright_worker.local.run import command


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A job that takes a field out of three records, of which one lacks it."""
    (tmp_path / "in.jsonl").write_text('{"id":"a","v":1}\n{"id":"b"}\n{"id":"c","v":3}\n')
    spec: dict[str, Any] = {
        "input": {"uri": (tmp_path / "in.jsonl").as_uri(), "format": "jsonl"},
        "output": {"uri": (tmp_path / "out").as_uri()},
        "tasks": [{"name": "v", "cpu": {"function": "json-fields", "args": {"fields": ["v"], "single": True}}}],
        "runner": {"cpuWorkers": 1},
    }
    document = {"apiVersion": "batchwright.dev/v1alpha1", "kind": "InferenceJob", "metadata": {"name": "j"}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(document | {"spec": spec}))
    return tmp_path / "job.yaml"


def run(manifest: Path, *options: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(command, ["-f", str(manifest), "--json", *options])
    return result.exit_code, json.loads(result.stdout)


def test_failed_items_are_told_again_and_again(manifest: Path) -> None:
    for _ in range(2):
        status, told = run(manifest)
        assert (status, told["succeeded"], told["failed"]) == (3, 2, 1)
        assert told["failures"][0]["item"] == "b"
        assert "no field 'v'" in told["failures"][0]["message"]


def test_another_input_is_refused_until_the_user_says_overwrite(manifest: Path) -> None:
    run(manifest)
    (manifest.parent / "in.jsonl").write_text('{"id":"a","v":1}\n')
    status, told = run(manifest)
    assert (status, told["reason"]) == (42, "InputChanged")
    status, told = run(manifest, "--overwrite")
    assert (status, told["succeeded"]) == (0, 1)


def test_what_the_manifest_lacks_is_said_with_a_reason(manifest: Path) -> None:
    manifest.write_text(manifest.read_text().replace("fields:", "feilds:"))
    status, told = run(manifest)
    assert (status, told["reason"]) == (42, "InvalidTask")
    assert "args may have fields" in told["error"]
