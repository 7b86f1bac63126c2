"""The state that lasts: a mean over a window, without benchmarks of ours and without pods that end by themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import rfc3339
from batchwright_operator.reconcile.live_state import Sample
from batchwright_operator.telemetry.ending_pods import benchmarked_until, ends, known
from batchwright_operator.telemetry.lasting import Windows
from batchwright_worker.api.names import ANNOTATION_KIND, LABEL_BENCHMARK
from tests.placement.placement_objects import NOW

PLACE = ("n", "cpu")
EVERY_S = 5.0


def sample(at: float, busy: float, pods: dict[str, float] | None = None) -> Sample:
    parts = None if pods is None else {uid: (part, part / 2) for uid, part in pods.items()}
    return Sample(utilization=busy, memory_utilization=busy / 2, taken_at=NOW + at, pods=parts)


def windows(window_s: float = 60.0) -> Windows:
    return Windows(window_s=window_s, interval_s=EVERY_S)


def nothing_ends(_: str) -> bool:
    return False


def lasting(of: Windows, *ending: str) -> Sample:
    found = of.lasting(PLACE, lambda uid: uid in ending)
    assert found is not None
    return found


def test_a_burst_of_seconds_is_a_small_part_of_the_window() -> None:
    found = windows()
    for i in range(12):
        found.add(PLACE, sample(EVERY_S * i, 1.0 if i == 11 else 0.0))
    assert lasting(found).utilization == pytest.approx(1 / 12)
    assert (lasting(found).seconds, lasting(found).last_at) == (60.0, NOW + 55.0)


def test_the_window_moves_on() -> None:
    found = windows(20.0)
    for i, busy in enumerate([1.0] * 10 + [0.2] * 4):
        found.add(PLACE, sample(EVERY_S * i, busy))
    assert lasting(found).utilization == pytest.approx(0.2)


def test_samples_weigh_by_the_seconds_that_they_stand_for() -> None:
    """An agent that was away for 15 s tells the mean of those in one sample."""
    found = windows()
    for at, busy in ((0.0, 0.0), (15.0, 0.8), (20.0, 0.4)):
        found.add(PLACE, sample(at, busy))
    assert lasting(found).utilization == pytest.approx((5 * 0.0 + 15 * 0.8 + 5 * 0.4) / 25)


def test_a_young_window_says_how_short_it_is() -> None:
    found = windows()
    found.add(PLACE, sample(0.0, 0.5))
    assert (lasting(found).utilization, lasting(found).seconds) == (0.5, EVERY_S)


def test_what_ending_pods_used_is_taken_out_and_told() -> None:
    found = windows()
    for i in range(12):
        found.add(PLACE, sample(EVERY_S * i, 1.0, {"bench": 0.9, "stays": 0.1}))
    assert lasting(found).utilization == pytest.approx(1.0)
    got = lasting(found, "bench")
    assert (got.utilization, got.memory_utilization, got.left_out) == pytest.approx((0.1, 0.05, 0.9))
    assert found.mean_of_pod(PLACE, "stays") == pytest.approx(0.1)


def test_shares_read_a_moment_apart_make_no_negative_state() -> None:
    found = windows()
    found.add(PLACE, sample(0.0, 0.5, {"bench": 0.55}))
    assert (lasting(found, "bench").utilization, lasting(found, "bench").left_out) == (0.0, 0.5)


def test_where_no_share_is_told_the_seconds_of_a_benchmark_are_left_out() -> None:
    """The window reaches back to what was before, and says how old that is; the source counts as alive all the same."""
    found = windows(10.0)
    for i in range(4):
        found.add(PLACE, sample(EVERY_S * i, 0.2))
    for i in range(4, 30):
        found.add(PLACE, sample(EVERY_S * i, 1.0), disturbed_until=NOW + EVERY_S * i)
    got = lasting(found)
    assert (got.utilization, got.seconds) == (pytest.approx(0.2), 10.0)
    assert (got.last_at, got.taken_at) == (NOW + 15.0, NOW + 145.0)


def test_a_sample_of_a_whole_minute_is_disturbed_for_a_minute() -> None:
    found = windows()
    minute = replace(sample(0.0, 0.9), seconds=60.0)
    found.add(PLACE, minute, disturbed_until=NOW - 30.0)
    assert found.lasting(PLACE, nothing_ends) is None
    found.add(PLACE, replace(minute, taken_at=NOW + 35.0, utilization=0.1), disturbed_until=NOW - 30.0)
    assert lasting(found).utilization == pytest.approx(0.1)


def test_nothing_but_a_benchmark_is_no_state() -> None:
    found = windows()
    assert found.lasting(PLACE, nothing_ends) is None
    found.add(PLACE, sample(0.0, 1.0), disturbed_until=NOW)
    assert found.lasting(PLACE, nothing_ends) is None


def test_what_is_long_ago_is_forgotten() -> None:
    found = windows()
    found.add(PLACE, sample(0.0, 0.2))
    found.add(PLACE, sample(601.0, 1.0), disturbed_until=NOW + 601.0)
    assert found.lasting(PLACE, nothing_ends) is None


def test_window_of_zero_is_the_momentary_rule() -> None:
    found = windows(0.0)
    for at, busy in ((0.0, 0.0), (5.0, 1.0)):
        found.add(PLACE, sample(at, busy, {"bench": busy}))
    assert lasting(found, "bench") == sample(5.0, 1.0, {"bench": 1.0})


def test_an_old_sample_is_ignored_and_a_node_can_be_forgotten() -> None:
    found = windows()
    for at in (5.0, 5.0, 0.0):
        found.add(PLACE, sample(at, at / 10))
    assert (lasting(found).utilization, lasting(found).seconds) == (0.5, EVERY_S)
    found.forget("n")
    assert found.lasting(PLACE, nothing_ends) is None


# --- which pods end ---------------------------------------------------------------------------------


def raw_pod(*, restart: str = "Never", age_s: float = 10.0, phase: str = "Running", **metadata: object) -> Raw:
    return {
        "metadata": {"uid": "u", **metadata},
        "spec": {"restartPolicy": restart, "nodeName": "n"},
        "status": {"phase": phase, "startTime": rfc3339(NOW - age_s)},
    }


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (None, True),
        (raw_pod(), True),
        (raw_pod(age_s=90.0), False),
        (raw_pod(restart="OnFailure"), True),
        (raw_pod(restart="Always"), False),
        (raw_pod(restart="Always", phase="Failed"), True),
        (raw_pod(restart="Always", deletionTimestamp=rfc3339(NOW)), True),
        (raw_pod(age_s=90.0, labels={LABEL_BENCHMARK: "true"}), True),
    ],
    ids=["gone", "young Job", "long Job", "on failure", "service", "evicted", "terminating", "benchmark"],
)
def test_pods_that_end_by_themselves(pod: Raw | None, expected: bool) -> None:
    assert ends("u", {} if pod is None else {"u": pod}, NOW, lasting_s=60.0) is expected


def test_a_uid_that_the_api_server_never_had_lasts() -> None:
    """A static pod: its cgroup has a digest for a name, its mirror another uid."""
    assert known({"static": (0.9, 0.1), "u": (0.1, 0.1), "": (0.2, 0.0)}, {"u": raw_pod()}).keys() == {"u", ""}
    assert ends("", {}, NOW, lasting_s=60.0)


@pytest.mark.parametrize(
    ("phase", "finished", "until"),
    [("Running", None, NOW), ("Pending", None, None), ("Succeeded", NOW - 7.0, NOW - 6.0)],
)
def test_until_when_a_benchmark_ran(phase: str, finished: float | None, until: float | None) -> None:
    pod = raw_pod(phase=phase, annotations={ANNOTATION_KIND: "nvidia.com/gpu"})
    if finished is not None:
        pod["status"]["containerStatuses"] = [{"state": {"terminated": {"finishedAt": rfc3339(finished)}}}]
    assert benchmarked_until([pod], NOW) == ({} if until is None else {("n", "nvidia.com/gpu"): until})
