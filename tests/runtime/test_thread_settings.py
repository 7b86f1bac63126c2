"""Threads of the libraries in a runtime: as many as it may use, asleep while they wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SETTINGS = """
import json, os
from batchwright_worker.host.threads import pin_libraries
pin_libraries()
print(json.dumps({name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")}))
"""
# A thread that spins uses up its core while the other has work: as a share of the work's own time that shows anywhere.
WAITING = """
import os, time
from batchwright_worker.host.threads import pin_libraries
pin_libraries()
import torch
torch.set_num_threads(2)
values = torch.zeros(1 << 17)
values.tanh_()
spent = time.process_time()
for _ in range(45):
    values.tanh_()
    time.sleep(0.02)
print(time.process_time() - spent)
"""


def run(script: str, **more: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP", "KMP", "GOMP"))}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=environment | more, check=True, capture_output=True, text=True).stdout


def test_waiting_threads_sleep_unless_the_user_says_otherwise() -> None:
    assert json.loads(run(SETTINGS, BATCHWRIGHT_CPU_MILLIS="2000")) == {
        "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",
        "KMP_BLOCKTIME": "0",
    }
    assert json.loads(run(SETTINGS, OMP_WAIT_POLICY="ACTIVE"))["OMP_WAIT_POLICY"] == "ACTIVE"


@pytest.mark.slow
def test_torch_rests_between_its_operations() -> None:
    active = float(run(WAITING, OMP_WAIT_POLICY="ACTIVE", GOMP_SPINCOUNT="10000000"))
    assert float(run(WAITING)) < 0.5 * active
