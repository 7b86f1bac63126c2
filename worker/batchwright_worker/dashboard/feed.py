"""The newest overview, for as many open pages as there are: whoever reads slowly gets several changes as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from batchwright_worker.dashboard.history import History, Sample
from batchwright_worker.dashboard.overview import Overview
from batchwright_worker.dashboard.updates import Encoded, encoded, update

PACE_S: Final = 0.5
"""Shortest time between two events of one page."""
SILENCE_S: Final = 15.0
"""After so long a page is told that the server is still there."""
SAMPLE_S: Final = 5.0


class Feed:
    """What pages are told. `publish` as often as anything changes, `sample` every SAMPLE_S."""

    def __init__(self) -> None:
        self.overview: Overview | None = None
        self.history = History()
        self._encoded: Encoded = {}
        self._sample: tuple[float, Sample] | None = None
        self._changed = asyncio.Event()

    def publish(self, overview: Overview) -> None:
        """A newer overview."""
        self.overview, self._encoded = overview, encoded(overview)
        self._wake()

    def sample(self) -> None:
        """Keep the present values for the charts."""
        if self.overview is not None:
            self._sample = (self.overview.time, self.history.add(self.overview))
            self._wake()

    async def events(self, *, pace_s: float = PACE_S, silence_s: float = SILENCE_S) -> AsyncIterator[bytes]:
        """Server-sent events for one page: the history, all of the overview, then what changes."""
        before: Encoded | None = None
        sampled = self._sample
        yield event("history", msgspec.json.encode(self.history.as_json()))
        while True:
            changed, now, sample = self._changed, self._encoded, self._sample
            if self.overview is not None and now is not before:
                yield event("update", update(before, now, self.overview.time))
                before = now
            if sample is not None and sample is not sampled:
                yield event("sample", msgspec.json.encode({"time": sample[0], "values": sample[1]}))
                sampled = sample
            try:
                async with asyncio.timeout(silence_s):
                    await changed.wait()
            except TimeoutError:
                yield b": still here\n\n"
            await asyncio.sleep(pace_s)

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def event(name: str, data: bytes) -> bytes:
    """In the format of server-sent events; `data` is one line."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)
