"""LoadGen's open loop and the closed loop against the plain peer, as processes."""

from __future__ import annotations

import sys

import pytest

from e2e.bench.client.load import drive, drive_all, spec_for
from e2e.bench.device import Device
from e2e.bench.run import device_truth
from e2e.bench.servers import Cores, peer, peer_model

DEVICE = Device(fixed_ms=4, per_row_ms=1)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="LoadGen is locked for Linux on x86-64 alone"),
]


@pytest.mark.parametrize("protocol", ["plain", "mosec"])
def test_every_request_of_both_loops_is_answered_right(protocol: str) -> None:
    with peer(protocol, peer_model(DEVICE), Cores()) as server:  # type: ignore[arg-type]
        run = drive(spec_for(server, 100, 2), Cores())
        assert 130 <= run.count <= 270
        assert run.answered.all()
        assert (run.latency_s >= run.done_s - run.sent_s).all(), "LoadGen counts from the scheduled arrival"
        closed = drive(spec_for(server, 0, 1, connections=8), Cores())
        assert closed.answered.all()
        assert closed.count > 8, "each connection asks again"
        for one in (run, closed):
            assert device_truth(one, DEVICE).holds


def test_loads_begin_on_one_clock_and_the_device_changes_meanwhile() -> None:
    slower = Device(fixed_ms=40, per_row_ms=1)
    with peer("plain", peer_model(DEVICE), Cores()) as server:
        changed: list[float] = []
        specs = [spec_for(server, 50, 3, seed=1), spec_for(server, 50, 1, seed=2, start_at=1.0)]
        long, short = drive_all(specs, Cores(), lambda _: changed.append(server.set_speed(slower)))
    assert 0.5 <= short.scheduled_s.min() - long.scheduled_s.min() <= 2.0
    after = long.scheduled_s > changed[0]
    assert after.any()
    assert (long.latency_s[after] >= 0.040).all()
