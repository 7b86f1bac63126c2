"""One process that answers for the sidecars of all simulated pods, and changes what each says every second.

    python -m e2e.bench.scale.sidecars < ADDRESSES

It listens on the control port of these addresses, one per line: simulated pods have some of the loopback network.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import sys
import time

import msgspec
from aiohttp import web

from batchwright_worker.api.messages import LATENCY_BOUNDS_MS, DeviceState, ModelState, SidecarState
from batchwright_worker.api.names import CONTROL_PORT, STATE_PATH

CHANGE_S = 1.0


def state(revision: int, rng: random.Random) -> bytes:
    """A busy replica's state: load, latency and queue wander from second to second."""
    counts = [0] * (len(LATENCY_BOUNDS_MS) + 1)
    middle = rng.randint(20, 30)
    for bucket in range(middle - 5, middle + 5):
        counts[bucket] = rng.randint(1, 40)
    model = ModelState(
        name="echo", state="Ready", mode="Rows", batch_size=rng.choice((8, 8, 8, 9)), searching=False,
        throughput=rng.uniform(50, 150), queue_length=rng.randint(0, 20), latency_counts=counts,
    )  # fmt: skip
    device = DeviceState(
        kind="cpu", device="0", busy_ratio=rng.uniform(0.2, 0.9), memory_used_bytes=1 << 20, memory_bytes=1 << 30
    )
    return msgspec.json.encode(
        SidecarState(revision=revision, time=time.time(), ready=True, models=[model], devices=[device])
    )


async def answer(request: web.Request) -> web.Response:
    """A long-poll as a sidecar answers it: at once for an old revision, else at the next change."""
    sockname = request.transport.get_extra_info("sockname") if request.transport else ("", 0)
    seed = hash(sockname[0]) % 1000 / 1000
    after = int(request.query.get("after", "-1"))
    revision = int((time.time() + seed) / CHANGE_S)
    if after == revision:
        left_s = (revision + 1) * CHANGE_S - time.time() - seed
        await asyncio.sleep(max(0.0, left_s))
        revision += 1
    return web.Response(body=state(revision, random.Random(f"{sockname[0]} {revision}")))  # noqa: S311 - load


async def serve(addresses: list[str]) -> None:
    """Serves until the process is ended."""
    app = web.Application()
    app.router.add_get(STATE_PATH, answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    for address in addresses:
        await web.TCPSite(runner, address, CONTROL_PORT).start()
    await asyncio.Event().wait()


def main() -> None:
    """One socket per pod, and one per connection."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(sys.stdin.read().split()))


if __name__ == "__main__":
    main()
