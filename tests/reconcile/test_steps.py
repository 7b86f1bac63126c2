"""A reconciler that decides in steps: nobody waits for it, and what it decided is sent while it decides on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, cast

import pytest

from batchwright_operator.errors import ApiError, Conflict, Forbidden, Unavailable
from batchwright_operator.kube.circuit_breaker import CircuitBreaker
from batchwright_operator.kube.objects import POD, Raw, Resource
from batchwright_operator.reconcile.applier import ActionFailed, Applier
from batchwright_operator.reconcile.cache import Store
from batchwright_operator.reconcile.controller import IDLE_REST_S, SHARE_OF_A_CORE, Controller
from batchwright_operator.reconcile.decisions import Action, Decision, Key, Patch
from batchwright_operator.reconcile.event_recorder import EventRecorder
from batchwright_operator.reconcile.interfaces import StoreView, Watch
from batchwright_operator.reconcile.live_state import LiveState
from batchwright_operator.reconcile.metrics import Metrics
from batchwright_operator.reconcile.workqueue import WorkQueue

KEY = Key(reconciler="steps")


def patch(number: int) -> Patch:
    return Patch(resource=POD, namespace="n", name=f"p{number}", patch={})


class Counting:
    """Decides on `left` numbers, each of which takes a while; observes again until none is left."""

    name = "steps"

    def __init__(self, left: int, step_s: float = 0.0) -> None:
        self.left, self.step_s = left, step_s
        self.observed = 0
        self.answers: list[tuple[str, str]] = []
        self.taken: list[float] = []

    def watches(self) -> Iterable[Watch]:
        return ()

    def observe(self, store: StoreView, key: Key) -> Counting | None:
        self.observed += 1
        return self if self.left else None

    def decide(self, observed: Counting, now: float) -> Decision:
        raise AssertionError("it decides in steps")

    def steps(self, observed: Counting, now: float) -> Counting:
        return self

    def __iter__(self) -> Iterator[tuple[Action, ...]]:
        while self.left:
            time.sleep(self.step_s)
            self.left -= 1
            self.taken.append(time.monotonic())
            yield (patch(self.left),)

    def outcome(self) -> Decision:
        return Decision(requeue_after_s=0.0 if self.left else None)

    def answered(self, action: Action, refusal: str, now: float) -> None:
        assert isinstance(action, Patch)
        self.answers.append((action.name, refusal))


class Api:
    """Takes patches; `errors` by name."""

    def __init__(self, errors: dict[str, ApiError] | None = None, answer_s: float = 0.0) -> None:
        self.errors, self.answer_s = errors or {}, answer_s
        self.sent: list[float] = []

    async def patch(self, resource: Resource, namespace: str, name: str, patch: Raw, **_: Any) -> Raw:
        self.sent.append(time.monotonic())
        await asyncio.sleep(self.answer_s)
        if name in self.errors:
            raise self.errors[name]
        return {"metadata": {"name": name, "namespace": namespace, "uid": name, "resourceVersion": "2"}}

    async def get(self, resource: Resource, namespace: str, name: str) -> Raw:
        return {"metadata": {"name": name, "namespace": namespace, "uid": name, "resourceVersion": "3"}}


def controller(reconciler: Any, api: Api) -> tuple[Controller, WorkQueue]:
    loop, live = asyncio.get_running_loop(), LiveState()
    metrics, queue = Metrics(live), WorkQueue(loop.time)
    store = Store(queue.add)
    made = Controller(
        [reconciler], store, queue, Applier(cast(Any, api), store, metrics),
        EventRecorder(cast(Any, api), metrics, "i", time.time),
        live=live, metrics=metrics, circuit_breaker=CircuitBreaker(loop.time), now=time.time,
    )  # fmt: skip
    return made, queue


async def test_decisions_are_on_their_way_long_before_the_last_one() -> None:
    reconciler, api = Counting(40, step_s=0.005), Api()
    await controller(reconciler, api)[0].reconcile(KEY)
    assert len(api.sent) == 40
    assert api.sent[0] < reconciler.taken[20]


async def test_others_have_their_turns_while_it_decides() -> None:
    reconciler, api = Counting(60, step_s=0.005), Api()
    deciding = asyncio.ensure_future(controller(reconciler, api)[0].reconcile(KEY))
    turns = 0
    while not deciding.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10


async def test_it_looks_again_from_time_to_time_and_keeps_what_is_on_its_way() -> None:
    reconciler, api = Counting(80, step_s=0.005), Api(answer_s=0.02)
    await controller(reconciler, api)[0].reconcile(KEY)
    assert reconciler.observed >= 2
    assert sorted(reconciler.answers) == sorted((f"p{number}", "") for number in range(80))


async def test_a_refusal_concerns_its_own_object() -> None:
    reconciler = Counting(5)
    api = Api({"p3": Forbidden("a webhook denied it", code=403), "p2": Conflict("changed", code=409)})
    made, queue = controller(reconciler, api)
    await made.reconcile(KEY)
    answers = dict(reconciler.answers)
    assert {name for name, refusal in answers.items() if not refusal} == {"p4", "p2", "p1", "p0"}
    assert "a webhook denied it" in answers["p3"]
    assert queue.schedule.next_at() is not None, "what was told of it is to be decided on"


async def test_nothing_more_is_sent_to_a_server_that_does_not_answer() -> None:
    reconciler = Counting(500)
    api = Api({f"p{number}": Unavailable("nobody answers") for number in range(500)})
    made, _ = controller(reconciler, api)
    with pytest.raises(ActionFailed, match="nobody answers"):
        await made.reconcile(KEY)
    assert 0 < len(api.sent) < 50
    assert len(reconciler.answers) == len(api.sent)


async def test_what_takes_long_is_decided_in_a_thread_while_others_have_their_turns() -> None:
    class Large:
        name, decided_in = "steps", 0

        def watches(self) -> Iterable[Watch]:
            return ()

        def observe(self, store: StoreView, key: Key) -> int:
            return 1

        def takes_long(self, observed: int) -> bool:
            return True

        def decide(self, observed: int, now: float) -> Decision:
            self.decided_in, until = threading.get_ident(), time.thread_time() + 0.1
            while time.thread_time() < until:
                pass
            return Decision(actions=(patch(1),))

    reconciler, api = Large(), Api()
    made, queue = controller(reconciler, api)
    deciding, turns = asyncio.ensure_future(made.reconcile(KEY)), 0
    while not deciding.done():
        await asyncio.sleep(0.001)
        turns += 1
    await deciding
    assert reconciler.decided_in != threading.get_ident()
    assert turns > 5
    assert len(api.sent) == 1, "it is carried out like any other"
    queue.add(KEY)
    assert queue.schedule.next_at() is not None, "the thread's time counts"


async def test_a_key_that_takes_long_is_not_decided_on_all_the_time() -> None:
    class Slow:
        name = "steps"

        def watches(self) -> Iterable[Watch]:
            return ()

        def observe(self, store: StoreView, key: Key) -> int:
            began = time.thread_time()
            while time.thread_time() - began < 0.02:
                pass
            return 1

        def decide(self, observed: int, now: float) -> Decision:
            return Decision()

    made, queue = controller(Slow(), Api())
    queue.add(KEY)
    assert await queue.get() == KEY
    began = asyncio.get_running_loop().time()
    await made.reconcile(KEY)
    queue.done(KEY)
    before = queue.schedule
    queue.add(KEY)
    due = before.next_at()
    assert due is not None
    assert due - began > 0.02 * (1 / SHARE_OF_A_CORE - 1)


async def test_with_nothing_to_decide_a_look_is_not_taken_at_each_change() -> None:
    reconciler = Counting(0)
    made, queue = controller(reconciler, Api())
    queue.add(KEY)
    running, began = asyncio.ensure_future(made.run(2)), time.monotonic()
    try:
        while reconciler.observed < 4:
            queue.add(KEY)
            await asyncio.sleep(0)
        took_s = time.monotonic() - began
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert took_s >= 3 * IDLE_REST_S
