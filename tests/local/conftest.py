"""Manifests of small jobs, and the command as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from batchwright_worker.local.run import command

FIELD_V = {"name": "v", "cpu": {"function": "json-fields", "args": {"fields": ["v"], "single": True}}}


@dataclass(slots=True, kw_only=True)
class World:
    """A folder with `in.jsonl`, `job.yaml` (made from `spec` at each run) and what comes of it."""

    folder: Path
    documents: list[dict[str, Any]] = field(default_factory=list)
    spec: dict[str, Any] = field(default_factory=dict)

    @property
    def manifest(self) -> Path:
        return self.folder / "job.yaml"

    @property
    def output(self) -> Path:
        return self.folder / "out"

    def write_items(self, count: int, *, bad: tuple[int, ...] = ()) -> None:
        """`{"id": "i7", "v": 7}`; the bad ones lack v."""
        records = [{"id": f"i{n}"} if n in bad else {"id": f"i{n}", "v": n} for n in range(count)]
        (self.folder / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    def write_manifest(self) -> None:
        head = {"apiVersion": "batchwright.dev/v1alpha1", "kind": "InferenceJob", "metadata": {"name": "j"}}
        self.manifest.write_text(yaml.safe_dump_all([head | {"spec": self.spec}, *self.documents]))

    def run(self, *options: str) -> tuple[int, dict[str, Any]]:
        """Exit status and what --json says."""
        self.write_manifest()
        result = CliRunner().invoke(command, ["-f", str(self.manifest), "--json", *options])
        assert not result.exception or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, json.loads(result.stdout)

    def text(self, *options: str) -> tuple[int, str]:
        """Exit status and what people read."""
        self.write_manifest()
        result = CliRunner().invoke(command, ["-f", str(self.manifest), *options])
        return result.exit_code, result.stdout

    def values(self, folder: Path | None = None) -> list[Any]:
        """Of task v, in order."""
        parts = sorted((folder or self.output).glob("part-*.jsonl"))
        return [json.loads(line)["v"] for part in parts for line in part.read_text().splitlines()]


MakeWorld = Callable[..., World]


@pytest.fixture
def world(tmp_path: Path) -> MakeWorld:
    """A job that takes field v of `count` records, of which the bad ones fail."""

    def make(count: int = 10, *, bad: tuple[int, ...] = (), **spec: Any) -> World:
        made = World(folder=tmp_path)
        made.write_items(count, bad=bad)
        made.spec = {
            "input": {"uri": (tmp_path / "in.jsonl").as_uri(), "format": "jsonl", "shardSize": 4},
            "output": {"uri": (tmp_path / "out").as_uri()},
            "tasks": [FIELD_V],
            "runner": {"cpuWorkers": 1},
        } | spec
        return made

    return make
