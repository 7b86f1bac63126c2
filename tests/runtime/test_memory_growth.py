"""The meter of host memory notices what a batch has kept, at the price of one read."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.runtime.rig import file_source, running, spec, write_script

GROWS = """
import numpy as np
from batchwright_worker.host.memory import HostMeter

meter = HostMeter(0)
before = meter.used()
kept = np.ones(8 << 20, dtype=np.float64)
grown = meter.growth()
assert 60 << 20 < grown < 80 << 20, grown
assert abs(meter.used() - before - kept.nbytes) < 8 << 20
assert abs(meter.growth()) < 1 << 20
"""


def test_growth_is_seen_since_the_last_measurement() -> None:
    # In a process of its own: another one may have so much free memory that an array takes none from the kernel.
    subprocess.run([sys.executable, "-c", GROWS], check=True, timeout=60)


KEEPS = """
import numpy as np


class Model:
    def __init__(self, weights):
        self.kept = []

    def infer(self, inputs):
        self.kept.append(np.ones(40 << 20, np.uint8))
        return {"y": inputs["x"]}
"""


async def test_what_a_model_keeps_is_known_after_the_batch_that_took_it(tmp_path: Path) -> None:
    """40 MB a batch; measured at every 64th alone, eight batches went unnoticed."""
    write_script(tmp_path, "keeps.py", KEEPS)
    weights = tmp_path / "weights"
    weights.touch()
    source = file_source(weights, "python", [spec("x", (2,))], [spec("y", (2,))], "keeps.py")
    async with asyncio.timeout(100), running(tmp_path) as rig:
        await rig.client.load("m", source)
        before = (await rig.client.memory()).used_bytes
        for number in range(1, 9):
            result = await rig.client.run("m", [{"x": np.ones((1, 2), np.float32)}], 1)
            grown = (await rig.client.memory()).used_bytes - before
            assert abs(grown - number * (40 << 20)) < 12 << 20
        assert result.retained_bytes > 200 << 20
