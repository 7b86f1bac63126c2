"""The drift sentinel: spot checks in idle times, their trend, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from batchwright_operator.kube.objects import JOB, NODE, POD
from batchwright_operator.kube.times import rfc3339
from batchwright_operator.processors.drift import KEPT, SpotCheck, due_in_s, has_fallen, with_check
from batchwright_operator.reconcile.decisions import Create, Decision, Delete
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import BenchmarkResult, LoadTableRow
from batchwright_worker.api.names import LABEL_BENCHMARK_OPT_OUT
from tests.placement.placement_objects import NOW, node
from tests.processors.test_profiles import GOOD, World, benchmarked

EVERY_S = Settings().spot_check_seconds
RATE = GOOD.capacity_images_per_second


def checks(*rates: float) -> list[SpotCheck]:
    return [SpotCheck(time=rfc3339(NOW + i), images_per_second=rate) for i, rate in enumerate(rates)]


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([10, 10.1, 9.9, 10.05, 9.95, 10.2, 9.8, 10], False),
        ([10, 10.1, 9.9, 10, 5, 5.1, 4.9], True),
        ([10, 9, 8, 7], True),
        ([10, 9.98, 9.96, 9.94, 9.92, 9.9], False),
        ([10, 5, 10.1, 9.9, 10, 10.2], False),
        ([5, 6, 7, 8, 9, 10], False),
        ([10, 5, 5], False),
        ([], False),
    ],
    ids=["noise", "step", "slope", "not worth it", "one bad moment", "rising", "too few", "none"],
)
def test_a_processor_has_fallen_by_the_trend_of_its_own_history(rates: Sequence[float], expected: bool) -> None:
    assert has_fallen(checks(*rates), None) is expected


def test_the_history_begins_with_the_benchmark_and_is_bounded() -> None:
    assert not has_fallen(checks(9, 8, 7), None)
    assert has_fallen(checks(9, 8, 7), 10.0)
    found: tuple[SpotCheck, ...] = ()
    for each in checks(*range(2 * KEPT)):
        found = with_check(with_check(found, each), each)
    assert [each.images_per_second for each in found] == list(range(KEPT, 2 * KEPT))


def test_a_low_check_is_followed_up_soon() -> None:
    def due(rate: float) -> float:
        return due_in_s([SpotCheck(time=rfc3339(NOW), images_per_second=rate)], 10.0, "", 3600.0, NOW + 60)

    assert (due(9.9), due(5.0)) == (3540.0, 300.0)
    assert due_in_s([], 10.0, rfc3339(NOW), 3600.0, NOW + 60) == 3540.0


# --- in a pass --------------------------------------------------------------------------------------


def later(world: World, seconds: float) -> Decision:
    world.now += seconds
    world.sample(0.05)
    decision = world.decide()
    if any(isinstance(each, Delete) for each in decision.actions):
        world.facts.objects[POD] = []  # a Job's pods go with it
    return decision


def check(world: World, rate: float) -> None:
    """The next check is due, made, and ends with this rate."""
    for _ in range(6):
        later(world, EVERY_S / 2)
        if "--spot-check=2" in str(world.facts.objects[JOB]):
            break
    world.facts.objects[POD] = []
    result = BenchmarkResult(
        kind="cpu", load_table=[LoadTableRow(batch_size=2, images_per_second=rate, max_services=1)],
        capacity_images_per_second=rate,
    )  # fmt: skip
    world.finish(result, state={"finishedAt": rfc3339(world.now)})


def rates(world: World) -> list[float]:
    return [each.images_per_second for each in world.processor().spot_checks]


def test_a_check_is_a_short_benchmark_of_the_best_batch_size() -> None:
    world = benchmarked()
    assert later(world, EVERY_S / 2).actions == ()
    assert [type(each) for each in later(world, EVERY_S).actions] == [Delete]  # the old Job has the name
    (create,) = later(world, 5).actions
    assert isinstance(create, Create)
    (container,) = create.body["spec"]["template"]["spec"]["containers"]
    assert container["args"][-2:] == ["--budget-seconds=10", "--spot-check=2"]
    assert create.body["spec"]["backoffLimit"] == 0
    assert (world.processor().reason, world.processor().capacity) == ("Benchmarked", pytest.approx(RATE, abs=0.01))


def test_a_processor_that_gets_slower_is_degraded_measured_anew_and_said_to_be() -> None:
    world = benchmarked()
    for rate in (5.4, 5.5, 5.3, 5.4):
        check(world, rate)
        later(world, 0)
    assert rates(world) == [5.4, 5.5, 5.3, 5.4]
    assert world.condition("Degraded")[0] == "False"
    reasons: list[str] = []
    for rate in (2.7, 2.8):
        check(world, rate)
        reasons += [each.reason for each in later(world, 0).events]
    assert reasons == ["DriftSuspected"]
    assert world.processor().capacity == pytest.approx(RATE, abs=0.01)  # until it is known better
    for _ in range(3):
        later(world, 5)
    assert "--spot-check" not in str(world.job["spec"])
    slower = msgspec.structs.replace(
        GOOD, capacity_images_per_second=2.7,
        load_table=[LoadTableRow(batch_size=2, images_per_second=2.7, max_services=4)],
    )  # fmt: skip
    world.finish(slower, state={"finishedAt": rfc3339(world.now)})
    world.decide()
    assert world.condition("Degraded") == ("True", "CapacityFell")
    assert (world.processor().capacity, rates(world)) == (2.7, [])
    assert world.processor().reason == "Benchmarked"


def test_no_check_while_the_processor_works() -> None:
    world = benchmarked()
    world.now += 2 * EVERY_S
    world.sample(0.6)
    for _ in range(3):
        actions = world.decide().actions
        assert not any(isinstance(each, Create) for each in actions)


def test_a_check_that_fails_says_nothing_and_is_no_loop() -> None:
    world = benchmarked()
    check(world, 5.4)
    world.facts.objects[POD] = []
    world.finish(None, failed="DeadlineExceeded")
    for _ in range(5):
        assert later(world, 10).actions == ()
    assert (rates(world), world.processor().reason) == ([], "Benchmarked")
    assert [type(each) for each in later(world, EVERY_S).actions] == [Delete]


@pytest.mark.parametrize("how", ["setting", "opted out"])
def test_checks_can_be_left_out(how: str) -> None:
    world = benchmarked(settings=Settings(spot_check_seconds=0.0 if how == "setting" else EVERY_S))
    if how == "opted out":
        world.facts.put(NODE, node("n", cpu="500m", labels={LABEL_BENCHMARK_OPT_OUT: "true"}))
    for _ in range(3):
        assert not [each for each in later(world, EVERY_S).actions if isinstance(each, Create)]
