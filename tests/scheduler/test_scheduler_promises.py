"""Properties of the whole scheduler over random stories: offers with deadlines and priorities, callers that leave,
batches that are lost and tried again, loads, on devices that take up to two batches at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from batchwright_worker.api.deployment import QueueOrder
from batchwright_worker.inference.runtime import LoadReport, MemoryReport
from batchwright_worker.scheduler.batch_size.tuning import TuningConfig
from batchwright_worker.scheduler.devices import DeviceConfig
from batchwright_worker.scheduler.dispatch import LoadModel
from batchwright_worker.scheduler.queues import MIDDLE_PRIORITY, QueuedRequest
from batchwright_worker.scheduler.scheduler import Scheduler
from batchwright_worker.scheduler.served_model import ModelConfig
from batchwright_worker.scheduler.steps import Batch, QueueRequest, Refusal

NAMES = ("a", "b", "c")
MODEL_BYTES = 100

stories = st.lists(
    st.one_of(
        st.tuples(
            st.just("offer"),
            st.sampled_from(NAMES),
            st.integers(1, 6),
            st.sampled_from([0, 0, 1, 5]),
            st.sampled_from([None, None, 0.03, 0.2]),
        ),
        st.tuples(st.just("cancel"), st.integers(0, 60)),
        st.tuples(st.just("fail")),
        st.tuples(st.just("pass"), st.integers(1, 40)),
    ),
    max_size=60,
)


@dataclass
class Story:
    """Devices do what they are asked one after the other; `rows_left` counts what each request still waits for."""

    order: QueueOrder
    depth: int
    overlaps: bool
    latency_s: float | None
    now: float = 0.0
    scheduler: Scheduler = field(init=False)
    offers: dict[int, QueueRequest] = field(default_factory=dict)
    rows_left: dict[int, int] = field(default_factory=dict)
    ends: dict[int, list[str]] = field(default_factory=dict)
    work: dict[str, list[tuple[float, Batch | LoadModel]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(order=self.order)
        for name in ("x", "y"):
            config = DeviceConfig(name=name, kind="test", depth=self.depth, overlaps_loads=self.overlaps)
            self.scheduler.add_device(config, up=True)
            self.scheduler.memory_measured(name, MemoryReport(total_bytes=150, used_bytes=0, free_bytes=150))
            self.work[name] = []
        for name in NAMES:
            config = ModelConfig(
                name=name, tuning=TuningConfig(latency_s=self.latency_s), initial_size=8, load_bytes=MODEL_BYTES
            )
            self.scheduler.add_model(config, 0.0).footprint.load_s = 0.02
            for rows in (1, 2, 4, 8):
                self.scheduler.warm_up_ran(name, rows, 0.010 + 0.002 * rows, 0)

    def play(self, story: list[tuple[object, ...]]) -> None:
        for what, *arguments in story:
            getattr(self, f"do_{what}")(*arguments)
            self.decide()
        for _ in range(1000):
            if not self.rows_left and not any(self.work.values()):
                break
            self.do_pass(10)
        assert not self.rows_left
        assert all(len(ends) == 1 for ends in self.ends.values())
        assert set(self.ends) == set(self.offers)
        assert all(served.queue.rows == 0 and not served.queue.entries for served in self.scheduler.models.values())
        assert not self.scheduler._model_of

    def do_offer(self, model: str, rows: int, priority: int, patience_s: float | None) -> None:
        deadline = None if patience_s is None else self.now + patience_s
        offer = QueueRequest(model=model, rows=rows, arrival=self.now, priority=priority, deadline=deadline)
        key = self.scheduler.offer(offer, self.now)
        if not isinstance(key, Refusal):
            self.offers[key], self.rows_left[key] = offer, rows

    def do_cancel(self, number: int) -> None:
        if number in self.rows_left:
            self.scheduler.cancel(number)
            self.end(number, "left")

    def do_fail(self) -> None:
        """The batch that runs is lost; its rows are queued again in their old place."""
        for device, work in self.work.items():
            if work and isinstance(work[0][1], Batch):
                batch = work.pop(0)[1]
                assert isinstance(batch, Batch)
                self.scheduler.batch_failed(batch, self.now)
                for part in batch.slices:
                    self.again(part.key, part.start, part.rows, batch.run.model)
                assert len(self.scheduler.devices[device].timeline.in_flight) < self.depth
                return

    def again(self, key: int, start: int, rows: int, model: str) -> None:
        if key not in self.rows_left:
            return
        offer = self.offers[key]
        entry = QueuedRequest(
            key=0,
            rows=start + rows,
            start=start,
            arrival=offer.arrival,
            priority=offer.priority,
            drop_after=offer.deadline,
        )
        new = self.scheduler.requeue(entry, model)
        self.offers[new], self.rows_left[new] = offer, rows
        self.rows_left[key] -= rows
        if self.rows_left[key] == 0:
            self.end(key, "again")

    def do_pass(self, milliseconds: int) -> None:
        until = self.now + milliseconds / 1e3
        while True:
            due = min(((work[0][0], name) for name, work in self.work.items() if work), default=None)
            if due is None or due[0] > until:
                break
            self.now = max(self.now, due[0])
            self.finish(due[1])
            self.decide()
        self.now = until
        self.decide()

    def finish(self, device: str) -> None:
        _, done = self.work[device].pop(0)
        if isinstance(done, LoadModel):
            report = LoadReport(memory_bytes=MODEL_BYTES, bytes_per_row=0, seconds=0.02, inputs=(), outputs=())
            self.scheduler.load_ended(done, report, self.now)
            return
        self.scheduler.batch_ended(done, done.predicted_s, 0, self.now)
        for part in done.slices:
            if part.key in self.rows_left:
                self.rows_left[part.key] -= part.rows
                if self.rows_left[part.key] == 0:
                    self.end(part.key, "answered")

    def decide(self) -> None:
        for _ in range(50):
            step = self.scheduler.next(self.now)
            for key in step.late:
                self.end(key, "late")
            if not isinstance(step.action, Batch | LoadModel):
                return
            self.begin(step.action)
        raise AssertionError("50 decisions at one moment")

    def begin(self, action: Batch | LoadModel) -> None:
        device = action.run.device if isinstance(action, Batch) else action.device
        state, work = self.scheduler.devices[device], self.work[device]
        assert len(state.timeline.in_flight) <= self.depth
        assert MODEL_BYTES * (len(state.memory.residents) + bool(state.timeline.expects)) <= 150
        takes = action.predicted_s if isinstance(action, Batch) else 0.02
        if isinstance(action, Batch):
            assert state.holds(action.run.model) or action.run.model == state.timeline.expects
            self.check_order(action)
        busy_until = (
            0.0 if self.overlaps and isinstance(action, LoadModel) else max((end for end, _ in work), default=0.0)
        )
        work.append((max(self.now, busy_until) + takes, action))
        work.sort(key=lambda entry: entry[0])

    def check_order(self, batch: Batch) -> None:
        """By priority, then arrival; and nobody in front of them is left behind."""
        assert sum(part.rows for part in batch.slices) == batch.run.rows <= 8
        ranks = [self.rank(part.key) for part in batch.slices]
        assert ranks == sorted(ranks)
        waiting = self.scheduler.models[batch.run.model].queue.entries
        assert all(self.rank(key) >= ranks[-1] for key in waiting)

    def rank(self, key: int) -> tuple[int, float]:
        offer = self.offers[key]
        return (offer.priority or MIDDLE_PRIORITY, offer.arrival)

    def end(self, key: int, how: str) -> None:
        assert key in self.rows_left
        del self.rows_left[key]
        self.ends.setdefault(key, []).append(how)


@settings(max_examples=120, deadline=None)
@given(
    stories,
    st.sampled_from(get_args(QueueOrder)),
    st.integers(1, 2),
    st.booleans(),
    st.sampled_from([None, 0.1]),
)
def test_every_offer_ends_exactly_once_in_order_within_memory(
    story: list[tuple[object, ...]], order: QueueOrder, depth: int, overlaps: bool, latency_s: float | None
) -> None:
    Story(order, depth, overlaps, latency_s).play(story)


def test_rows_that_are_tried_again_count_for_those_that_come_after_them() -> None:
    scheduler = Scheduler()
    scheduler.add_device(DeviceConfig(name="x", kind="test"), up=True)
    scheduler.add_model(ModelConfig(name="m", tuning=TuningConfig(latency_s=0.1), initial_size=8), 0.0)
    scheduler.assume_resident("x", "m", 0)
    for rows in (1, 2, 4, 8):
        scheduler.warm_up_ran("m", rows, 0.010 + 0.002 * rows, 0)
    before = scheduler.expected_wait_s("m", 0.0)
    for number in range(32):
        scheduler.requeue(QueuedRequest(key=0, rows=1, arrival=-0.01 * number), "m")
    assert scheduler.expected_wait_s("m", 0.0) >= before + 4 * 0.026 - 1e-9
    assert isinstance(scheduler.offer(QueueRequest(model="m", rows=1, arrival=0.0), 0.0), Refusal)
