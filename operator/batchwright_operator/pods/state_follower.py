"""Follows the state that pods serve, by one open long-poll each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Collection, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

import aiohttp
import msgspec
from yarl import URL

from batchwright_operator.kube.objects import Raw
from batchwright_operator.reconcile.decisions import Key
from batchwright_operator.reconcile.interfaces import Queue, StoreView
from batchwright_operator.reconcile.live_state import Received
from batchwright_worker.api.names import CONTROL_PORT, STATE_PATH

SessionFactory = Callable[[], aiohttp.ClientSession]
"""Makes an HTTP session for pods (not for the API server); the caller closes it."""

log = logging.getLogger(__name__)

WAIT_S = 25
_TIMEOUT: Final = aiohttp.ClientTimeout(total=WAIT_S + 10, connect=5)

ANSWER_LIMIT_BYTES = 8 << 20
"""A sidecar's state takes up to 3 kB per model."""

POLLED_BYTES_PER_S = 500_000
"""A state of 500 models takes a sidecar 65 ms to write (537 kB), time in which it answers no request: it is asked for
once a second. One of a few models is below 10 kB and never waits for this."""

SCAN_S = 0.5
"""How often the cache is read for pods that came or went; nothing is sent then."""


class Revised(Protocol):
    """A state with a revision that grows."""

    @property
    def revision(self) -> int: ...


S = TypeVar("S", bound=Revised)


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedPod:
    """One pod whose state is followed, and what is reconciled when it changes."""

    uid: str
    address: str
    token: str
    key: Key
    config: str = ""
    """Name of the ConfigMap that it mounts as its configuration; empty where that never changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PollPolicy:
    """Least time between two polls of a pod, and between two reconciliations that polls ask for; of many pods and keys
    both are longer, so that all together are bounded."""

    poll_s: float = 0.1
    notify_s: float = 0.0
    polls_per_s: float = 100.0
    """A poll takes the operator 0.4 ms; what a pod serves is about the newest window, so that nothing is lost."""
    notified_per_s: float = 20.0
    """A pass of a ModelDeployment takes some ms, and of many objects each is written about less often than this
    anyway (`status/write_policy`)."""
    numbers_per_s: float = 10.0
    """The same of news in numbers alone: they are written about once a minute, and looked at by autoscalers."""

    def pause_s(self, pods: int) -> float:
        """Least time between two polls of one of so many pods."""
        return max(self.poll_s, pods / self.polls_per_s)

    def notify_pause_s(self, keys: int) -> float:
        """Least time between two reconciliations of one of so many keys."""
        return max(self.notify_s, keys / self.notified_per_s)

    def numbers_pause_s(self, keys: int) -> float:
        """The same of news in numbers alone."""
        return max(self.notify_s, keys / self.numbers_per_s)

    first_backoff_s: float = 0.2
    last_backoff_s: float = 10.0


@dataclass(slots=True, kw_only=True)
class StateFollower(Generic[S]):
    """A `Background`: keeps `states` (pod uid -> newest state) true while it runs.

    `targets` names the pods to follow; a pod that it names no longer loses its task and its entry.
    """

    targets: Callable[[StoreView], Iterable[FollowedPod]]
    message: type[S]
    states: MutableMapping[str, Received[S]]
    session_factory: SessionFactory
    on_state: Callable[[FollowedPod, S], None] | None = None
    words: Callable[[S], object] = lambda state: state
    """What of a state is no number: where it differs, the reconciliation is not put off as one for numbers is."""
    policy: PollPolicy = field(default_factory=PollPolicy)
    now: Callable[[], float] = time.time
    _tasks: dict[FollowedPod, asyncio.Task[None]] = field(default_factory=dict)
    _matched: Collection[FollowedPod] | None = None
    _notified: dict[tuple[Key, bool], float] = field(default_factory=dict)
    """(key, for words) -> when a reconciliation was last asked for."""
    _keys: int = 0
    """How many are followed for."""

    async def run(self, store: StoreView, queue: Queue) -> None:
        """Runs until cancelled; survives its own errors; leaves no task behind."""
        async with self.session_factory() as session:
            try:
                while True:
                    self._match(session, store, queue)
                    await asyncio.sleep(SCAN_S)
            finally:
                self._matched = None
                await self._end(list(self._tasks))

    def _match(self, session: aiohttp.ClientSession, store: StoreView, queue: Queue) -> None:
        try:
            found = self.targets(store)
            if found is self._matched:
                return
            wanted = set(found)
        except Exception:
            log.exception("the pods to follow could not be read; trying again")
            return
        self._matched = found if isinstance(found, Collection) else None
        for target in [each for each in self._tasks if each not in wanted]:
            self._tasks.pop(target).cancel()
            self.states.pop(target.uid, None)
        for target in wanted - self._tasks.keys():
            self._tasks[target] = asyncio.create_task(self._follow(session, target, queue), name=f"follow {target.uid}")
        keys = {target.key for target in wanted}
        self._keys = len(keys)
        self._notified = {at: when for at, when in self._notified.items() if at[0] in keys}

    async def _end(self, targets: list[FollowedPod]) -> None:
        tasks = [self._tasks.pop(target) for target in targets]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _follow(self, session: aiohttp.ClientSession, target: FollowedPod, queue: Queue) -> None:
        after, backoff_s = -1, self.policy.first_backoff_s
        said: object = None
        ask = _Question(target)
        while True:
            began = time.monotonic()
            try:
                state, size = await self._ask(session, ask, after)
            except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError, OSError, ValueError) as error:
                log.debug("state of pod %s: %s", target.uid, error)
                after = -1
                await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                backoff_s = min(2 * backoff_s, self.policy.last_backoff_s)
                continue
            backoff_s = self.policy.first_backoff_s
            if state.revision != after or target.uid not in self.states:
                after = state.revision
                self.states[target.uid] = Received(state=state, received_at=self.now())
                if self.on_state is not None:
                    self.on_state(target, state)
                before, said = said, self.words(state)
                self._notify(queue, target.key, in_words=before != said)
            pause_s = self.policy.pause_s(len(self._tasks)) - (time.monotonic() - began)
            await asyncio.sleep(max(0.0, pause_s, size / POLLED_BYTES_PER_S - self.policy.poll_s))

    async def _ask(self, session: aiohttp.ClientSession, ask: _Question, after: int) -> tuple[S, int]:
        """The state and its size in bytes."""
        async with session.get(ask.url(after), headers=ask.headers, timeout=_TIMEOUT, allow_redirects=False) as answer:
            body = await _body(answer)
            if answer.status != 200:
                raise ValueError(f"answered {answer.status}: {body[:200]!r}")
            return msgspec.json.decode(body, type=self.message), len(body)

    def _notify(self, queue: Queue, key: Key, *, in_words: bool) -> None:
        """Ask for a reconciliation, but not more often than the policy allows."""
        now, last = time.monotonic(), self._notified.get((key, in_words), float("-inf"))
        if last <= now:
            pause_s = self.policy.notify_pause_s if in_words else self.policy.numbers_pause_s
            due = max(now, last + pause_s(self._keys))
            self._notified[key, in_words] = due
            if in_words:  # which is one for numbers too
                self._notified[key, False] = max(due, self._notified.get((key, False), due))
            queue.add(key, after_s=due - now)


class _Question:
    """What a pod is asked again and again; the parts that stay the same are made once."""

    def __init__(self, target: FollowedPod) -> None:
        self._url = f"http://{target.address}{STATE_PATH}?after="
        self.headers = {"Authorization": f"Bearer {target.token}"}

    def url(self, after: int) -> URL:
        """With the revision that is known, -1: none, which is answered at once."""
        return URL(f"{self._url}{after}&waitSeconds={WAIT_S if after >= 0 else 0}", encoded=True)


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    """The whole body; ValueError when it is longer than any honest state."""
    if (answer.content_length or ANSWER_LIMIT_BYTES) < ANSWER_LIMIT_BYTES and "Content-Encoding" not in answer.headers:
        return await answer.read()
    body = bytearray()
    async for chunk in answer.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > ANSWER_LIMIT_BYTES:
            raise ValueError(f"the answer is longer than {ANSWER_LIMIT_BYTES} bytes")
    return bytes(body)


def control_address(pod: Raw) -> str | None:
    """host:port of the pod's control port, None while it has no address."""
    ip = str((pod.get("status") or {}).get("podIP") or "")
    if not ip:
        return None
    return f"[{ip}]:{CONTROL_PORT}" if ":" in ip else f"{ip}:{CONTROL_PORT}"
