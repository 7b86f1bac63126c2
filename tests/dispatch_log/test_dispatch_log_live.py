"""`serve --dispatch-log` and `replay`, as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.protocol.serving import emulated_model, manifest, serving

pytestmark = pytest.mark.slow


def replay(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "batchwright_worker", "replay", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_a_server_decided_is_decided_again(tmp_path: Path) -> None:
    log = tmp_path / "dispatch.log"
    models = [emulated_model("fast", 3, 0.5), emulated_model("bounded", 30, maxQueueLength=2, maxSize=1)]
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 8], "data": [1.0] * 8}
    body = json.dumps({"inputs": [tensor]}).encode()
    with (
        serving(tmp_path, manifest("logged", models), f"--dispatch-log={log}") as served,
        ThreadPoolExecutor(16) as pool,
    ):
        asked = [pool.submit(served.get, f"/v2/models/{name}/infer", body) for name in ("fast", "bounded") * 60]
        statuses = [future.result()[0] for future in asked]
        assert served.stop() < 8
    assert set(statuses) == {200, 503}
    told = replay(log)
    assert told.returncode == 0, told.stderr
    assert "the scheduler took the same" in told.stdout
    assert f"{statuses.count(503)} QueueFull" in told.stdout

    lines = log.read_bytes().splitlines(keepends=True)
    number = max(number for number, line in enumerate(lines) if b'"RunBatch"' in line)
    lines[number] = lines[number].replace(b'"device":"runtime-0"', b'"device":"runtime-7"', 1)
    log.write_bytes(b"".join(lines))
    told = replay(log)
    assert told.returncode == 1
    assert f"line {number + 1}, " in told.stderr
    assert '"device": "runtime-7"' in told.stderr


def test_a_file_that_is_no_log_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("hello\n")
    told = replay(tmp_path / "other")
    assert told.returncode == 1
    assert "other: line 1 is no head of a dispatch log" in told.stderr
