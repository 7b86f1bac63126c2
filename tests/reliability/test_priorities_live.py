"""Priorities under twice the load that can be served, through the whole of `serve`."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import defaultdict
from pathlib import Path

import aiohttp
import pytest

from tests.protocol.serving import emulated_model, manifest, serving

TARGET_S = 0.4
SECONDS = 20.0
RATE = 220.0
"""A device of 40 + 8 n ms answers 108 rows per second in batches of 32."""
SHARE = 0.05


def body(priority: int) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 8], "data": [0] * 8}
    return json.dumps({"inputs": [tensor], "parameters": {"priority": priority}}).encode()


@pytest.mark.timed
def test_priority_1_is_answered_in_time_at_twice_the_load(tmp_path: Path) -> None:
    model = emulated_model("m", fixed_ms=40, per_row_ms=8)
    model["targets"] = {"latencyMilliseconds": int(TARGET_S * 1000)}
    bodies = {priority: body(priority) for priority in (1, 10)}
    fates: dict[int, list[tuple[int, float]]] = defaultdict(list)

    async def ask(session: aiohttp.ClientSession, url: str, priority: int) -> None:
        began = time.perf_counter()
        async with session.post(f"{url}/v2/models/m/infer", data=bodies[priority]) as response:
            await response.read()
        fates[priority].append((response.status, time.perf_counter() - began))

    async def load(url: str) -> None:
        chance, calls = random.Random(1), []
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            due = time.perf_counter()
            while due < begin + SECONDS:
                due += chance.expovariate(RATE)
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                calls.append(asyncio.ensure_future(ask(session, url, 1 if chance.random() < SHARE else 10)))
            await asyncio.gather(*calls)

    with serving(tmp_path, manifest("priorities", [model])) as served:
        begin = time.perf_counter()
        asyncio.run(load(served.url))
    shares = {}
    for priority, answers in sorted(fates.items()):
        good = [seconds for status, seconds in answers if status == 200 and seconds <= TARGET_S]
        shares[priority] = len(good) / len(answers)
        print(f"priority {priority}: {len(answers)} asked, {100 * shares[priority]:.1f} % in time")
    assert shares[1] > 0.95
    assert shares[10] < 0.7 * shares[1]
