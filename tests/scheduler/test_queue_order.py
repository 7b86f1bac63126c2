"""Which queue goes first: B4's orders, the default one's shares and deadlines, nobody starves."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchwright_worker.api.deployment import QueueOrder
from batchwright_worker.scheduler.batch_size.tuning import TuningConfig
from batchwright_worker.scheduler.devices import DeviceConfig, ResidentModel
from batchwright_worker.scheduler.dispatch import PASS_LIMIT
from batchwright_worker.scheduler.order import OLDEST_SHARE, ORDERS, Choice, FairShareState, ordered
from batchwright_worker.scheduler.scheduler import Scheduler
from batchwright_worker.scheduler.served_model import ModelConfig
from batchwright_worker.scheduler.steps import Batch, QueueRequest


def choice(
    model: str,
    *,
    rows: int = 1,
    run_s: float = 1.0,
    head_arrival: float = 0.0,
    last_served: float = 0.0,
    due: float | None = None,
    use: float = 0.0,
) -> Choice:
    return Choice(
        model=model,
        bucket=(),
        rows=rows,
        waiting_rows=rows,
        run_s=run_s,
        last_served=last_served,
        head_arrival=head_arrival,
        due=due,
        use=use,
    )


def names(choices: list[Choice]) -> list[str]:
    return [one.model for one in choices]


@pytest.mark.parametrize(
    ("order", "first"),
    [("Longest", "many"), ("Oldest", "neglected"), ("Balanced", "worthwhile")],
)
def test_each_order_has_its_own_first(order: QueueOrder, first: str) -> None:
    choices = [
        choice("many", rows=50, run_s=10, last_served=9, head_arrival=2),
        choice("neglected", rows=2, run_s=3, last_served=1, head_arrival=1),
        choice("worthwhile", rows=9, run_s=0.5, last_served=8, head_arrival=3),
    ]
    shares = FairShareState()
    shares.balance_s = -1
    assert ordered(choices, ORDERS[order], shares, 5.0)[0].model == first


def test_equals_go_by_the_older_head_then_by_name() -> None:
    choices = [choice("c", head_arrival=1), choice("b", head_arrival=0), choice("a", head_arrival=1)]
    assert names(ordered(choices, ORDERS["Longest"], FairShareState(), 2.0)) == ["b", "a", "c"]


def test_device_time_is_shared_between_the_oldest_row_and_the_most_worthwhile_queue() -> None:
    shares, spent = FairShareState(), {"old": 0.0, "worthy": 0.0}
    seconds = {"old": 0.3, "worthy": 0.1}
    for _ in range(1000):
        choices = [choice("old", run_s=0.3, head_arrival=1), choice("worthy", rows=9, run_s=0.1, head_arrival=2)]
        first = ordered(choices, ORDERS["Balanced"], shares, 5.0)[0].model
        shares.spent(first, seconds[first], loads=False)
        spent[first] += seconds[first]
    assert spent["old"] / sum(spent.values()) == pytest.approx(OLDEST_SHARE, abs=0.01)


def test_what_was_loaded_for_the_oldest_row_is_served_next() -> None:
    shares = FairShareState()
    choices = [choice("old", head_arrival=1), choice("worthy", rows=9, head_arrival=2)]
    assert ordered(choices, ORDERS["Balanced"], shares, 5.0)[0].model == "old"
    shares.spent("old", 0.5, loads=True)
    assert shares.balance_s < 0
    assert ordered(choices, ORDERS["Balanced"], shares, 5.5)[0].model == "old"
    shares.spent("old", 0.1, loads=False)
    assert ordered(choices, ORDERS["Balanced"], shares, 5.6)[0].model == "worthy"


def test_nobody_is_made_late_for_the_sake_of_worth_or_age() -> None:
    shares = FairShareState()
    shares.balance_s = -1
    worthy, hurried = choice("worthy", rows=9, run_s=0.5), choice("hurried", run_s=0.1, due=5.3, head_arrival=1)
    assert names(ordered([worthy, hurried], ORDERS["Balanced"], shares, 5.0)) == ["hurried", "worthy"]
    assert shares.displaced == "worthy"
    assert names(ordered([worthy, hurried], ORDERS["Balanced"], shares, 4.5)) == ["worthy", "hurried"]


@pytest.mark.parametrize(("use", "first"), [(0.35, "hungry"), (0.05, "other")])
def test_where_one_of_two_must_be_late_it_is_the_one_that_takes_more(use: float, first: str) -> None:
    shares = FairShareState()
    shares.balance_s = -1
    hungry = choice("hungry", rows=9, run_s=0.4, due=5.5, use=0.3)
    other = choice("other", run_s=0.2, due=5.3, use=use)
    choices = [hungry, other]
    assert ordered(choices, ORDERS["Balanced"], shares, 5.0)[0].model == first


def test_a_row_that_is_late_anyway_displaces_nobody() -> None:
    choices = [choice("worthy", rows=9, run_s=0.5), choice("late", run_s=0.4, due=5.3, head_arrival=1)]
    assert names(ordered(choices, ORDERS["Balanced"], FairShareState(), 5.0)) == ["worthy", "late"]


arrivals = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 6), st.floats(0, 0.05)), max_size=120)


@settings(max_examples=60, deadline=None)
@given(arrivals, st.sampled_from(["Balanced", "Longest"]), st.integers(1, 3))
def test_no_row_starves_and_every_offer_ends_once(
    story: list[tuple[str, int, float]], order: QueueOrder, hot_rows: int
) -> None:
    """One model ("a") always has rows waiting; whoever else asks is served after a bounded number of batches."""
    scheduler = Scheduler(order=order)
    device = scheduler.add_device(DeviceConfig(name="d", kind="test"), up=True)
    for name in "abcd":
        served = scheduler.add_model(ModelConfig(name=name, tuning=TuningConfig(), initial_size=8), 0.0)
        for rows in (1, 2, 4):
            served.ran((), rows, 0.010 + 0.002 * rows)
        device.memory.residents[name] = ResidentModel(memory_bytes=0, has_served=True)
    now, ended, waits, batches = 0.0, set[int](), dict[int, int](), 0

    def offer(name: str, rows: int) -> None:
        key = scheduler.offer(QueueRequest(model=name, rows=rows, arrival=now), now)
        assert isinstance(key, int)
        waits[key] = batches

    def serve() -> None:
        nonlocal now, batches
        step = scheduler.next(now)
        if not isinstance(step.action, Batch):
            return
        batches += 1
        now += step.action.predicted_s
        for part in step.action.slices:
            if part.key not in scheduler.models[step.action.run.model].queue.entries:
                assert part.key not in ended
                ended.add(part.key)
                oldest_first = batches - waits[part.key]
                assert order != "Balanced" or oldest_first <= 4 * len(waits) + PASS_LIMIT
        scheduler.batch_ended(step.action, step.action.predicted_s, 0, now)

    for name, rows, pause in story:
        offer("a", hot_rows)
        offer(name, rows)
        now += pause
        serve()
    for _ in range(20 * len(story)):
        if all(served.queue.rows == 0 for served in scheduler.models.values()):
            break
        serve()
    assert ended == set(waits)
