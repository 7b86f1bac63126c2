"""Times are the API server's, whatever this machine's clock says and however it is set."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from batchwright_operator.kube.cluster_clock import EVERY_S, IN_A_ROW, TOLERATED_S, ClusterClock

TRUE = 1_800_000_000.0


class Machine:
    """A machine whose clock is off by this much."""

    def __init__(self, off_s: float = 0.0) -> None:
        self.up_s, self.off_s = 1000.0, off_s
        self.clock = ClusterClock(wall=lambda: TRUE + self.up_s + self.off_s, monotonic=lambda: self.up_s)

    @property
    def error_s(self) -> float:
        return self.clock.now() - (TRUE + self.up_s)

    def hear(self, times: int = 1, *, late_s: float = 0.0) -> None:
        for _ in range(times):
            self.up_s += EVERY_S + 0.01
            self.clock.heard(formatdate(TRUE + self.up_s - late_s, usegmt=True))


@pytest.mark.parametrize("off_s", [-86_400.0, -60.0, 60.0, 86_400.0])
def test_a_clock_that_is_wrong_is_not_believed(off_s: float) -> None:
    machine = Machine(off_s)
    assert machine.error_s == pytest.approx(off_s)
    machine.hear(IN_A_ROW)
    assert abs(machine.error_s) <= 1.0


@pytest.mark.parametrize("off_s", [-TOLERATED_S + 1, 0.0, TOLERATED_S - 1])
def test_a_little_is_left_as_it_is(off_s: float) -> None:
    machine = Machine(off_s)
    machine.hear(50)
    assert machine.error_s == pytest.approx(off_s)


def test_setting_the_machine_s_clock_changes_nothing() -> None:
    machine = Machine()
    before = machine.clock.now()
    machine.off_s = -3600.0
    machine.up_s += 2.0
    assert machine.clock.now() == pytest.approx(before + 2.0)


def test_answers_that_were_on_their_way_for_long_change_nothing() -> None:
    machine = Machine()
    for _ in range(20):
        machine.hear(IN_A_ROW - 1, late_s=30.0)
        machine.hear()
    assert machine.error_s == pytest.approx(0.0)


@pytest.mark.parametrize("date", [None, "", "yesterday", "99"])
def test_what_is_no_time_changes_nothing(date: str | None) -> None:
    machine = Machine()
    for _ in range(5):
        machine.up_s += 1.0
        machine.clock.heard(date)
    assert machine.error_s == pytest.approx(0.0)
