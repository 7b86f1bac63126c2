"""A plain greedy batcher on uvicorn: whatever waits when the device frees is the next batch, at most `max_size`.

    BENCH_PEER_MODEL=JSON python -m e2e.bench.peers.plain PORT

POST / with the raw row as body; the answer's body is the raw output row. No timer, no admission, no limit of the queue.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn

from e2e.bench.peers.model import Forward, described, forward_of


class Batcher:
    """One queue, one thread that drives the device."""

    def __init__(self, forward: Forward, max_size: int) -> None:
        self._forward = forward
        self._max_size = max_size
        self._waiting: deque[tuple[bytes, asyncio.Future[bytes]]] = deque()
        self._arrived = asyncio.Event()

    async def answer(self, body: bytes) -> bytes:
        """Of one row, with whatever else waits."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append((body, future))
        self._arrived.set()
        return await future

    async def serve(self) -> None:
        """For ever: wait for a row, take what is there, run it."""
        loop, device = asyncio.get_running_loop(), ThreadPoolExecutor(1)
        while True:
            await self._arrived.wait()
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_size))]
            if not self._waiting:
                self._arrived.clear()
            answers = await loop.run_in_executor(device, self._forward, [body for body, _ in batch])
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)


class App:
    """ASGI: GET is health, POST is a row."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", scope["type"] == "http" and scope["method"] == "POST"
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        answer = await self._batcher.answer(body) if body else b"ready"
        headers = [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


async def main() -> None:
    """Until SIGTERM."""
    model = described()
    batcher = Batcher(forward_of(model), model.max_size)
    options: dict[str, Any] = {"log_level": "warning", "access_log": False, "lifespan": "off", "backlog": 4096}
    config = uvicorn.Config(App(batcher), port=int(sys.argv[1]), timeout_keep_alive=600, **options)
    serving = asyncio.create_task(batcher.serve())
    await uvicorn.Server(config).serve()
    serving.cancel()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
