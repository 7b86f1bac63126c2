"""The meter of host memory notices what a batch has kept, at the price of one read."""

from __future__ import annotations

import numpy as np

from batchwright_worker.host.memory import HostMeter


def test_growth_is_seen_since_the_last_measurement() -> None:
    meter = HostMeter(0)
    before = meter.used()
    kept = np.ones(8 << 20, dtype=np.float64)
    grown = meter.growth()
    assert 60 << 20 < grown < 80 << 20
    assert abs(meter.used() - before - kept.nbytes) < 8 << 20
    assert abs(meter.growth()) < 1 << 20
