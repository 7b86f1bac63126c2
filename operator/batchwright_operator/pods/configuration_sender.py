"""Sends pods the newest text of their configuration, by the control port that their state is read from.

Nothing is remembered over a restart, and nothing has to be: what a pod serves by is in the state that it reports, and
what it should serve by in its ConfigMap. While they differ, the text is sent again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from batchwright_operator.pods.state_follower import FollowedPod, SessionFactory
from batchwright_worker.api.names import CONFIGURATION_PATH

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 2.0
LAST_PAUSE_S: Final = 60.0
"""Between two attempts to send the same text: what has been taken over shows in the next state, some tenths of a second
later."""
AT_ONCE: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationText:
    """A text and its `names.configuration_digest`."""

    text: str
    digest: str


@dataclass(slots=True)
class _Attempt:
    digest: str
    pause_s: float = FIRST_PAUSE_S
    again_at: float = 0.0


@dataclass(slots=True, kw_only=True)
class ConfigurationSender:
    """An async context manager: it sends while it is entered."""

    session_factory: SessionFactory
    _session: aiohttp.ClientSession | None = None
    _attempts: dict[str, _Attempt] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> None:
        self._session = self.session_factory()

    async def __aexit__(self, *_: object) -> None:
        tasks, session = list(self._tasks), self._session
        self._session = None
        self._attempts.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if session is not None:
            await session.close()

    def look(self, behind: Iterable[tuple[FollowedPod, ConfigurationText]]) -> None:
        """These pods, and no others, serve by another text than they should; called again and again."""
        attempts: dict[str, _Attempt] = {}
        for target, wanted in behind:
            attempt = self._attempts.get(target.uid)
            if attempt is None or attempt.digest != wanted.digest:
                attempt = _Attempt(wanted.digest)
            attempts[target.uid] = attempt
            if time.monotonic() >= attempt.again_at and len(self._tasks) < AT_ONCE:
                attempt.again_at = time.monotonic() + attempt.pause_s
                attempt.pause_s = min(LAST_PAUSE_S, 2 * attempt.pause_s)
                self._start(target, wanted)
        self._attempts = attempts

    def _start(self, target: FollowedPod, wanted: ConfigurationText) -> None:
        if self._session is not None:
            task = asyncio.create_task(_send(self._session, target, wanted), name=f"configure {target.uid}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _send(session: aiohttp.ClientSession, target: FollowedPod, wanted: ConfigurationText) -> None:
    """One attempt. What comes of it the pod's next state says; why it failed is in the log for whoever looks."""
    try:
        async with session.put(
            f"http://{target.address}{CONFIGURATION_PATH}",
            data=wanted.text.encode(),
            headers={"Authorization": f"Bearer {target.token}", "Content-Type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=10, connect=5),
            allow_redirects=False,
        ) as answer:
            if answer.status != 200:
                said = (await answer.content.read(1000)).decode(errors="replace")
                log.warning("pod %s keeps its configuration: it answered %d: %s", target.uid, answer.status, said)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        log.debug("configuration of pod %s: %s", target.uid, error)
