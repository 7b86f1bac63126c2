"""The GPU's bench without its GPU: all of it runs on the stand-in, so that only the device is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from e2e.bench.gpu import layerwise

pytestmark = pytest.mark.slow


def test_the_bench_runs_dry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = tmp_path / "facts.json"
    monkeypatch.setattr(sys, "argv", ["layerwise", "--dry-run", "--json", str(told)])
    with pytest.raises(SystemExit) as ended:
        layerwise.main()
    assert ended.value.code == 0, capsys.readouterr().out
    facts = json.loads(told.read_text())
    assert sum(facts["weightBytes"].values()) > facts["arenaBytes"]
    assert all(way["equal"] for way in facts["ways"].values())
    assert facts["dtype"] == "bfloat16"
    assert facts["sleepWakeS"] > 0
    assert facts["residentS"] > 0
