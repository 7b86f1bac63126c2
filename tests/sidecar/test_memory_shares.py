"""The sidecar's memory limit divided: nothing that it holds may add up to more than the container has."""

from __future__ import annotations

import pytest

from batchwright_worker.sidecar.memory_shares import LEAST_BYTES, OWN_BYTES, memory_shares

MIB = 1 << 20


@pytest.mark.parametrize("limit_mib", [256, 512, 1024, 8192])
@pytest.mark.parametrize("runtimes", [1, 4])
def test_the_shares_leave_room_for_the_process_and_for_outputs(limit_mib: int, runtimes: int) -> None:
    shares = memory_shares(limit_mib * MIB, 64 << 30, runtimes, None)
    slots = max(shares.slots_bytes, LEAST_BYTES + 1) * runtimes if shares.slots_bytes > LEAST_BYTES else 0
    assert OWN_BYTES + shares.requests_bytes + slots + shares.decoding_bytes <= 0.95 * limit_mib * MIB
    assert shares.requests_bytes >= 56 * MIB


def test_without_a_limit_the_machine_bounds_it() -> None:
    assert memory_shares(0, 16 << 30, 1, None) == memory_shares(4 << 30, 1 << 40, 1, None)


def test_what_is_set_holds() -> None:
    assert memory_shares(256 * MIB, 1 << 40, 1, 1000).requests_bytes == 1000
