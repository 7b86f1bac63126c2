"""The controller: one pass per key: observe once, decide purely, act, write the status once, record Events."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

from batchwright_operator.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    Contended,
    Forbidden,
    Invalid,
    NameTaken,
    Unavailable,
    WebhookFailed,
)
from batchwright_operator.kube.circuit_breaker import CircuitBreaker
from batchwright_operator.reconcile.applier import ActionFailed, Applier, Sending
from batchwright_operator.reconcile.cache import Store
from batchwright_operator.reconcile.decisions import Action, Decision, Event, Key
from batchwright_operator.reconcile.event_recorder import EventRecorder
from batchwright_operator.reconcile.interfaces import Detached, Reconciler, Stepwise
from batchwright_operator.reconcile.live_state import LiveState, Rejection
from batchwright_operator.reconcile.metrics import Metrics
from batchwright_operator.reconcile.pass_budget import PassBudget
from batchwright_operator.reconcile.passes import UNTOLD, Passes, current
from batchwright_operator.reconcile.workqueue import LAST_DELAY_S, WorkQueue

logger = logging.getLogger(__name__)
T = TypeVar("T")

SLICE_S: Final = 0.01
"""A pass that decides in steps lets others have a turn after this long,"""
PASS_S: Final = 0.25
"""and ends after this long; the next one follows at once, from newer facts."""
SHARE_OF_A_CORE: Final = 0.05
"""What the passes of one key may take, whatever happens: the next one waits until the last is this part of the time
since. A deployment of 5,000 replicas takes 100 ms per pass, and each of its pods changes five times as it starts."""
IDLE_REST_S: Final = 0.05
"""How long a key rests that decides in steps and has nothing to decide: a pod that was placed changes five times until
it runs, and each would be a pass to see that nobody waits."""
FORBIDDEN_LASTS_S: Final = 10.0
"""A 403 that goes on for this long is a quota or a missing permission. An API server that has just started responds 403
to everything until it has synced its RBAC. A webhook that is rolled out is away for less, too."""
CONFLICT_DELAY_S: Final = 1.0
"""The newest state was read already, so that there is no reason to wait for long."""
NAME_TAKEN_DELAY_S: Final = 15.0
"""How often a name that is somebody else's is looked at, as that object need not have a label that we watch; and
whether a webhook answers again."""
REASONS: Final[dict[type[ApiError], str]] = {
    NameTaken: "NameTaken",
    Contended: "ChildContended",
    WebhookFailed: "WebhookFailed",
}
"""Reasons of refusals, in conditions and Events; of all others: Rejected."""


class Controller:
    """Runs the passes of all reconcilers. `now` is Unix seconds; `circuit_breaker` is that of the client's writes."""

    def __init__(  # noqa: PLR0913 - it is where everything meets
        self,
        reconcilers: Iterable[Reconciler[Any]],
        store: Store,
        queue: WorkQueue,
        applier: Applier,
        recorder: EventRecorder,
        *,
        live: LiveState,
        metrics: Metrics,
        circuit_breaker: CircuitBreaker,
        now: Callable[[], float],
        passes: Passes = UNTOLD,
    ) -> None:
        self._passes = passes
        self._reconcilers = {reconciler.name: reconciler for reconciler in reconcilers}
        self._stepwise = {name: one for name, one in self._reconcilers.items() if isinstance(one, Stepwise)}
        self._detached = {name: one for name, one in self._reconcilers.items() if isinstance(one, Detached)}
        self._store = store
        self._queue = queue
        self._applier = applier
        self._recorder = recorder
        self._live = live
        self._metrics = metrics
        self._circuit_breaker = circuit_breaker
        self._now = now
        self._turn = asyncio.Lock()
        """Held while somebody decides: one pass per turn of the event loop, so that nobody waits for sixteen."""
        self._thread = asyncio.Lock()
        """Held while somebody decides in a thread: two would only take the time from each other."""
        self._forbidden_since: dict[Key, float] = {}
        self._budget = PassBudget(time.monotonic())

    async def run(self, workers: int) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(workers):
                tasks.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            try:
                # During an outage keys wait here, not in their back-off: they go on as soon as a probe succeeds.
                await self._circuit_breaker.ready()
                with self._metrics.pass_seconds.labels(key.reconciler).time():
                    result = await self._try(key)
                self._metrics.passes.labels(key.reconciler, result).inc()
            finally:
                self._queue.done(key)

    async def _try(self, key: Key) -> str:
        """One pass with its failures handled; its result as the metrics name it."""
        try:
            await self.reconcile(key)
        except ActionFailed as failure:
            return await self._failed(key, failure)
        except Exception:
            delay = self._queue.failed(key)
            logger.exception("%s: next try in %.1f s", _text(key), delay)
            return "error"
        self._queue.succeeded(key)
        self._forbidden_since.pop(key, None)
        if self._live.rejections.pop(key, None):
            self._queue.add(key)  # this pass still decided with the rejection in sight: the status says Rejected
        return "success"

    async def reconcile(self, key: Key) -> None:
        """One pass. Raises ActionFailed."""
        with self._passes.passing(key):
            await self._reconcile(key)

    async def _reconcile(self, key: Key) -> None:
        stepwise = self._stepwise.get(key.reconciler)
        decision = await (self._at_once(key) if stepwise is None else self._in_steps(key, stepwise))
        if decision is None:
            self._metrics.decided(key, {})
            return
        await self._report(key, decision)
        if decision.requeue_after_s is not None:
            self._queue.add(key, after_s=decision.requeue_after_s)

    async def _at_once(self, key: Key) -> Decision | None:
        detached = self._detached.get(key.reconciler)
        async with self._turn:
            await asyncio.sleep(0)
            began, decision = time.thread_time(), None
            observed = self._observe(key)
            is_long = observed is not None and detached is not None and detached.takes_long(observed)
            if observed is not None and not is_long:
                decision = self._decide(key, observed)
            spent_s = time.thread_time() - began
        if is_long:
            async with self._thread:
                decision, more_s = await asyncio.to_thread(_timed, self._decide, key, observed)
            spent_s += more_s
        rest_s = self._budget.take(spent_s, time.monotonic())
        self._queue.rest(key, max(rest_s, spent_s * (1 / SHARE_OF_A_CORE - 1)))
        if decision is not None:
            await self._applier.perform(decision.actions)
        return decision

    async def _in_steps(self, key: Key, reconciler: Stepwise[Any]) -> Decision | None:
        """Carries out each step while the next ones are decided, and looks again from time to time. Raises ActionFailed
        when the API server does not answer; a refusal concerns its own object, and nobody else waits for it."""

        def on_answer(action: Action, failure: ActionFailed | None) -> None:
            cause = None if failure is None else failure.cause
            is_refusal = cause is not None and not isinstance(cause, Conflict | Unavailable)
            reconciler.answered(action, str(cause) if is_refusal else "", self._now())

        async with self._applier.sending(on_answer) as sending:
            decision = await self._cycle(key, reconciler, sending)
            while decision is not None and decision.requeue_after_s == 0 and not sending.is_broken:
                await self._report(key, decision)
                decision = await self._cycle(key, reconciler, sending)
        if sending.is_broken:
            sending.raise_worst()
        if decision is None:
            self._queue.rest(key, IDLE_REST_S)
        if sending.failures:  # what was told of them is to be decided on
            self._queue.add(key, after_s=CONFLICT_DELAY_S)
        return decision

    async def _cycle(self, key: Key, reconciler: Stepwise[Any], sending: Sending) -> Decision | None:
        async with self._turn:
            await asyncio.sleep(0)
            observed = self._observe(key)
        if observed is None:
            return None
        steps = reconciler.steps(observed, self._now())
        until = time.monotonic() + PASS_S
        pause_at = time.monotonic() + SLICE_S
        for actions in _told(steps):
            sent = [await sending.send(action) for action in actions]
            now = time.monotonic()
            if now >= until or not all(sent):
                break
            if now >= pause_at:
                await asyncio.sleep(0)
                pause_at = time.monotonic() + SLICE_S
        return steps.outcome()

    def _observe(self, key: Key) -> Any:
        with current.get().step("observe"):
            return self._reconcilers[key.reconciler].observe(self._store, key)

    def _decide(self, key: Key, observed: Any) -> Decision:
        with current.get().step("decide"):
            return self._reconcilers[key.reconciler].decide(observed, self._now())

    async def _report(self, key: Key, decision: Decision) -> None:
        self._metrics.decided(key, decision.metrics)
        self._metrics.observed(decision.observations)
        self._metrics.counted(decision.counts)
        if decision.status is not None:
            await self._applier.write_status(decision.status, key)
            current.get().wrote(decision.status)
        for event in decision.events:
            self._recorder.record(event)

    async def _failed(self, key: Key, failure: ActionFailed) -> str:
        if isinstance(failure.cause, Conflict):
            delay = self._queue.failed(key, at_most_s=CONFLICT_DELAY_S)
            logger.debug("%s: %s; deciding again in %.3f s", _text(key), failure, delay)
            return "conflict"
        reason = REASONS.get(type(failure.cause), "Rejected")
        delay = self._queue.failed(key, at_most_s=LAST_DELAY_S if reason == "Rejected" else NAME_TAKEN_DELAY_S)
        if not self._is_final(key, failure):
            logger.info("%s: %s; next try in %.1f s", _text(key), failure, delay)
            return "unavailable"
        before = self._live.rejections.get(key)
        rejection = Rejection(
            what=failure.what,
            message=failure.cause.message,
            at=self._now(),
            reason=reason,
            is_final=not isinstance(failure.cause, Forbidden | WebhookFailed),
        )
        is_known = before is not None and before.text == rejection.text
        level = logging.DEBUG if is_known else logging.WARNING
        logger.log(level, "%s: %s; next try in %.1f s", _text(key), failure, delay)
        self._live.rejections[key] = rejection
        await self._report_rejection(key, rejection)
        return "rejected"

    def _is_final(self, key: Key, failure: ActionFailed) -> bool:
        if isinstance(failure.cause, Invalid | AlreadyExists | NameTaken | Contended):
            return True
        if not isinstance(failure.cause, Forbidden | WebhookFailed):
            return False
        since = self._forbidden_since.setdefault(key, self._now())
        return self._now() - since >= FORBIDDEN_LASTS_S

    async def _report_rejection(self, key: Key, rejection: Rejection) -> None:
        """Writes the status (and Events) as decided with the rejection in sight; performs no actions."""
        try:
            observed = self._observe(key)
            if observed is None:
                return
            decision = self._decide(key, observed)
            await self._report(key, decision)
            if decision.status is not None:
                self._recorder.record(
                    Event(
                        regarding=decision.status.regarding,
                        reason=rejection.reason,
                        message=rejection.text,
                        type="Warning",
                    )
                )
        except ActionFailed as second:
            logger.info("%s: %s", _text(key), second)
        except Exception:
            logger.exception("%s: deciding after a rejection", _text(key))


def _told(steps: Iterable[T]) -> Iterator[T]:
    """The same; each is a step of the pass that is being done."""
    here, left = current.get(), iter(steps)
    while True:
        with here.step("decide"):
            found = next(left, None)
        if found is None:
            return
        yield found


def _timed(decide: Callable[[Key, Any], Decision], key: Key, observed: Any) -> tuple[Decision, float]:
    """The decision and the seconds of CPU that it took this thread."""
    began = time.thread_time()
    return decide(key, observed), time.thread_time() - began


def _text(key: Key) -> str:
    return "/".join(part for part in (key.reconciler, key.namespace, key.name) if part)
