"""The GPU's bench without its GPU: all of it runs on the stand-in, so that only the device is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from e2e.bench.gpu import __main__ as both

pytestmark = pytest.mark.slow


@pytest.mark.timeout(1500)
def test_both_benches_run_dry_in_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer-wise one on the stand-in, and the served one on the CPU but for the pipelined arm."""
    path = tmp_path / "facts.json"
    monkeypatch.setattr(sys, "argv", ["gpu", "--dry-run", "--json", str(path)])
    with pytest.raises(SystemExit) as ended:
        both.main()
    told = json.loads(path.read_text())
    assert ended.value.code == 0, {bench: (each["status"], each["seconds"]) for bench, each in told.items()}
    assert sum(both.SECONDS.values()) < 8 * 60
    facts = told["layerwise"]["facts"]
    assert sum(facts["weightBytes"].values()) > facts["arenaBytes"]
    assert all(way["equal"] for way in facts["ways"].values())
    assert facts["dtype"] == "bfloat16"
    assert facts["sleepWakeS"] > 0
    assert facts["residentS"] > 0
    served = told["serving"]["facts"]
    assert [each["case"] for each in served] == ["resnet50", "transformer"]
    for each in served:
        assert each["failed"] == 0
        assert min(each["pipelined"], each["resident"], *each["direct"], *each["served"]) > 0
