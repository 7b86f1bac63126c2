"""A model whose targets and bounds change while it is served: what waits and what was learned stays."""

from __future__ import annotations

from dataclasses import replace

from batchwright_worker.scheduler.batch_size.tuning import TuningConfig
from batchwright_worker.scheduler.devices import DeviceConfig
from batchwright_worker.scheduler.scheduler import Scheduler
from batchwright_worker.scheduler.served_model import ModelConfig
from batchwright_worker.scheduler.steps import Batch, QueueRequest, Refusal

CONFIG = ModelConfig(name="m", tuning=TuningConfig(max_size=16, latency_s=0.1), queue_limit=100)


def busy() -> Scheduler:
    """Batches of 1 to 16 rows have run, at 10 + 1 ms per row; the newest still does."""
    made = Scheduler()
    made.add_device(DeviceConfig(name="d", kind="cpu"), up=True)
    made.add_model(CONFIG, 0.0)
    made.assume_resident("d", "m", 1)
    now = 0.0
    for _ in range(4):
        for rows in (1, 2, 4, 8, 16):
            made.warm_up_ran("m", rows, 0.010 + 0.001 * rows, 0)
    made.warmed_up("m")
    for rows in (1, 1):
        made.offer(QueueRequest(model="m", rows=rows, arrival=now), now)
        batch = made.next(now).action
        assert isinstance(batch, Batch)
        made.batch_ended(batch, 0.011, 0, now := now + 0.011)
        made.answered("m", 1, 0.011)
    made.close_window("m", now)
    made.offer(QueueRequest(model="m", rows=1, arrival=now), now)
    assert isinstance(made.next(now).action, Batch)
    return made


def taken(made: Scheduler, now: float, rows: int = 1, deadline: float | None = None) -> int:
    key = made.offer(QueueRequest(model="m", rows=rows, arrival=now, deadline=deadline), now)
    assert isinstance(key, int)
    return key


def with_tuning(**parts: object) -> ModelConfig:
    return replace(CONFIG, tuning=replace(CONFIG.tuning, **parts))  # type: ignore[arg-type]


def test_what_was_learned_and_what_waits_stays() -> None:
    made = busy()
    served, waits = made.models["m"], [taken(made, 0.03) for _ in range(3)]
    curve, window, offered = served.overall.curve, served.window, served.offered
    made.reconfigure(with_tuning(latency_s=0.05, throughput=10.0, max_size=8))
    assert list(served.queue.entries) == waits
    assert (served.overall.curve, served.window, served.offered) == (curve, window, offered)
    assert not served.tuner.opening
    assert served.tuner.searching, "the size is looked for by the new targets"


def test_the_size_stays_within_the_new_bounds_and_is_otherwise_where_it_was() -> None:
    made = busy()
    size = made.models["m"].tuner.size
    assert size > 3
    assert made.reconfigure(with_tuning(latency_s=0.2)) == size
    assert made.reconfigure(with_tuning(max_size=3)) == 3
    assert made.models["m"].bounds(0.03).cap <= 3
    assert made.reconfigure(with_tuning(min_size=5)) == 5


def test_admission_goes_by_the_new_target_at_once() -> None:
    made = busy()
    for _ in range(20):
        taken(made, 0.03)
    made.reconfigure(with_tuning(latency_s=0.03))
    refused = made.offer(QueueRequest(model="m", rows=1, arrival=0.03), 0.03)
    assert isinstance(refused, Refusal)
    assert "is 30 ms" in refused.message
    made.reconfigure(with_tuning(latency_s=None))
    taken(made, 0.03, rows=60)


def test_what_was_accepted_is_not_given_up_by_a_tighter_target_and_has_the_time_of_a_looser_one() -> None:
    made = busy()
    key, own = taken(made, 0.03), taken(made, 0.03, deadline=0.07)
    entries = made.models["m"].queue.entries
    promised, its_own = entries[key].drop_after, entries[own].drop_after
    assert promised is not None
    assert its_own == 0.07
    made.reconfigure(with_tuning(latency_s=0.05))
    assert entries[key].drop_after == promised
    made.reconfigure(CONFIG)
    made.reconfigure(with_tuning(latency_s=1.0))
    later = entries[key].drop_after
    assert later is not None
    assert later > 0.9
    assert entries[own].drop_after == 0.07
    made.reconfigure(with_tuning(latency_s=None))
    assert entries[key].drop_after is None
    assert made.models["m"].queue.groups[()].bounded == 1


def test_a_shorter_queue_keeps_what_is_in_it_and_takes_no_more() -> None:
    made = busy()
    waits = [taken(made, 0.03) for _ in range(5)]
    made.reconfigure(replace(CONFIG, queue_limit=3))
    assert list(made.models["m"].queue.entries) == waits
    refused = made.offer(QueueRequest(model="m", rows=1, arrival=0.03), 0.03)
    assert isinstance(refused, Refusal)
    assert refused.reason == "QueueFull"
    made.reconfigure(replace(CONFIG, queue_limit=6))
    taken(made, 0.03)


def test_a_model_that_is_served_whole_stays_so() -> None:
    made = busy()
    made.serve_whole("m")
    assert made.reconfigure(with_tuning(min_size=4, latency_s=0.5)) == 1
    served = made.models["m"]
    assert (served.config.tuning.max_size, served.config.tuning.latency_s) == (1, 0.5)


def test_the_same_values_change_nothing() -> None:
    made = busy()
    tuner = made.models["m"].tuner
    made.reconfigure(CONFIG)
    assert made.models["m"].tuner is tuner


def test_before_the_first_window_the_first_size_is_that_of_the_new_values() -> None:
    made = Scheduler()
    served = made.add_model(CONFIG, 0.0)
    assert made.reconfigure(replace(CONFIG, initial_size=6)) == 6
    assert served.tuner.opening
