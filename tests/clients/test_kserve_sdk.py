"""The KServe Python SDK, unmodified, in an environment of its own: every call of both of its clients."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2e.peers import peer_python
from tests.protocol.serving import WEIGHTS, Served

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("kserve_calls.py")


@pytest.fixture(scope="module")
def told(served: Served) -> dict[str, Any]:
    """What the SDK got."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(peer_python("kserve")), str(SCRIPT), str(served.http), str(served.grpc)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def test_it_is_the_locked_version(told: dict[str, Any]) -> None:
    assert told["version"] == "0.21.0"


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("binary", [True, False])
def test_it_gets_right_answers(told: dict[str, Any], protocol: str, binary: bool) -> None:
    wanted = np.array(told["rows"], np.float32) @ WEIGHTS
    np.testing.assert_allclose(told[protocol][f"binary={binary}"], wanted, rtol=1e-4, atol=1e-5)
    assert told[protocol]["id"] == "k-1"


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_it_sees_health_and_readable_errors(told: dict[str, Any], protocol: str) -> None:
    assert [told[protocol][name] for name in ("live", "ready", "model_ready")] == [True, True, True]
    assert "must be FP32 [-1, 16]" in told[protocol]["error"]


def test_it_carries_half_floats_and_words_and_many_at_once(told: dict[str, Any]) -> None:
    assert told["http"]["fp16"] == np.array(told["rows"], np.float16)[:, :3].tolist()
    assert told["http"]["bytes"] == ["a", "straße"]
    assert told["http"]["together"] == 1
