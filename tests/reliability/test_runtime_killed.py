"""A runtime killed under load costs no caller its answer, and only the batch in flight a second try."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.reliability.callers import traffic
from tests.reliability.fates import fated_model, journal, manifest
from tests.reliability.pod import pod

pytestmark = pytest.mark.slow


async def test_every_caller_is_answered_once_across_kills(tmp_path: Path) -> None:
    documents = manifest("killed", [fated_model(tmp_path, "m", fixed_ms=4.0, per_row_ms=0.2, maxSize=8)])
    killed = []
    async with pod(documents) as here:
        await here.start_runtime()
        await here.start_sidecar()
        await here.ready()
        async with traffic(here.http, callers=32) as load:
            for _ in range(4):
                await load.more(150)
                killed.append(here.runtime)
                os.kill(killed[-1], signal.SIGKILL)
            await load.more(150)
        slots = here.slots
    assert len(set(killed)) == 4
    assert (load.wrongs, load.lost, len(load.rights)) == ({}, set(), load.asked)
    book = journal(tmp_path, "m")
    again = {number for number, times in book.begun().items() if times > 1}
    in_flight = set().union(*(book.last(pid, batches=2) for pid in killed))
    assert again <= in_flight
    assert len(again) <= 4 * 2 * 8, "two batches of eight may be in flight"
    assert len(slots) <= 2
    assert max(load.seconds) < 30
