"""An open-loop load in steps: requests at an offered rate, whatever the server does; bounded in time."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from types import TracebackType

import aiohttp

BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0.0, 0.0, 1.0, 0.0]}]}
LONGEST_S = 600


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: when it was due, how long it took from then, its status (0: none)."""

    due: float
    latency_ms: float
    status: int


class SteppedLoad:
    """Offers a rate of one-row requests to one model until it is closed (at most LONGEST_S)."""

    def __init__(self, base: str, model: str) -> None:
        self._url = f"{base}/v2/models/{model}/infer"
        self._rate = 0.0
        self._stop = threading.Event()
        self.answers: list[Answer] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> SteppedLoad:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(timeout=60)

    def offer(self, rate: float) -> None:
        """Requests per second from now on."""
        self._rate = rate

    def in_time_share(self, *, last_seconds: float, target_ms: float) -> float:
        """Share of the requests due in the last seconds that were answered 200 within the target."""
        newest = max(answer.due for answer in self.answers)
        last = [answer for answer in self.answers if answer.due > newest - last_seconds]
        return sum(answer.status == 200 and answer.latency_ms <= target_ms for answer in last) / len(last)

    async def _run(self) -> None:
        end = time.monotonic() + LONGEST_S
        connector = aiohttp.TCPConnector(limit=512)
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as tasks:
            due = time.monotonic()
            while not self._stop.is_set() and time.monotonic() < end:
                if not self._rate:
                    await asyncio.sleep(0.05)
                    due = time.monotonic()
                    continue
                due += 1 / self._rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                tasks.create_task(self._ask(session, due))

    async def _ask(self, session: aiohttp.ClientSession, due: float) -> None:
        try:
            async with session.post(self._url, json=BODY, timeout=aiohttp.ClientTimeout(total=20)) as response:
                await response.read()
                status = response.status
        except (TimeoutError, aiohttp.ClientError):
            status = 0
        self.answers.append(Answer(due, (time.monotonic() - due) * 1e3, status))
