"""`layerwise profile | run | trace` on small networks from files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from batchwright_worker.layerwise.tools.command import command
from tests.layerwise.test_split_onnx import conv_net

pytestmark = pytest.mark.slow


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    files = [conv_net(tmp_path / f"{name}.onnx") for name in ("a", "b")]
    named = [word for file in files for word in ("--model", f"{file.stem}={file}")]
    return [*named, "--budget", "320Ki", "--rows", "a=3", "--cache", str(tmp_path / "cache")]


def test_run_compares_ways_and_outputs_are_bitwise_equal(options: list[str], tmp_path: Path) -> None:
    out = CliRunner().invoke(command, ["run", *options, "--requests", "2", "--json"], catch_exceptions=False)
    assert out.exit_code == 0, out.output
    ways = {way["way"]: way for way in json.loads(out.stdout)}
    assert list(ways) == ["balanced", "literal", "fifo", "whole model"]
    for name in ("balanced", "literal", "fifo"):
        assert ways[name]["bitwiseEqual"]
        assert ways[name]["peakBytes"] <= 320 << 10
    out = CliRunner().invoke(command, ["trace", *options, str(tmp_path / "t.json")], catch_exceptions=False)
    assert out.exit_code == 0, out.output
    assert "balanced" in out.output
    assert {event["ph"] for event in json.loads((tmp_path / "t.json").read_bytes())["traceEvents"]} == {"M", "X"}


def test_profile_lists_the_units(options: list[str]) -> None:
    out = CliRunner().invoke(command, ["profile", *options], catch_exceptions=False)
    assert out.exit_code == 0, out.output
    assert "a: 3 units" in out.output
    assert "20 runs each" in out.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--budget", "8Ki"], "raise it"),
        (["--budget", "3 bags"], "is no size"),
        (["--rows", "c=1"], "name a model (a, b)"),
        (["--policies", "luck"], "no policy 'luck'"),
    ],
)
def test_mistakes_are_told(options: list[str], words: list[str], told: str) -> None:
    out = CliRunner().invoke(command, ["run", *options, *words])
    assert out.exit_code != 0
    assert told in out.output
