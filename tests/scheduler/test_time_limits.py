"""How long a run or a load may take."""

from __future__ import annotations

import pytest

from batchwright_worker.api.model import Artifact, Model, TimeLimits
from batchwright_worker.inference.runtime import LoadReport
from batchwright_worker.scheduler.queues import IsolatedBucket
from batchwright_worker.scheduler.served_model import config_of, start_serving
from batchwright_worker.scheduler.time_limits import load_limit_s, run_limit_s


@pytest.mark.parametrize(
    ("given_s", "predicted_s", "known", "isolated", "limit_s"),
    [
        (None, 0.0, False, False, 60.0),
        (None, 0.012, True, False, 30.0),
        (None, 4.0, True, False, 80.0),
        (None, 4.0, False, False, 80.0),
        (None, 0.012, True, True, 10.0),
        (None, 0.012, False, True, 60.0),
        (0.5, 4.0, True, True, 0.5),
    ],
)
def test_of_a_run(given_s: float | None, predicted_s: float, known: bool, isolated: bool, limit_s: float) -> None:
    assert run_limit_s(given_s, predicted_s, known=known, isolated=isolated) == limit_s


@pytest.mark.parametrize(
    ("given_s", "measured_s", "limit_s"), [(None, None, 600.0), (None, 0.02, 60.0), (None, 9.0, 180.0), (2.0, 9.0, 2.0)]
)
def test_of_a_load(given_s: float | None, measured_s: float | None, limit_s: float) -> None:
    assert load_limit_s(given_s, measured_s) == limit_s


def served(**limits: int):  # type: ignore[no-untyped-def]
    artifacts = (Artifact(accelerator="cpu", format="python"),)
    return start_serving(config_of(Model(name="m", artifacts=artifacts, limits=TimeLimits(**limits))), 0.0)


def test_what_has_run_before_is_known_by_its_size_and_shape() -> None:
    model = served()
    assert model.run_limit_s(("short",), 4) == 60.0
    model.ran(("short",), 4, 0.1)
    assert model.run_limit_s(("short",), 4) == 30.0
    assert model.run_limit_s(IsolatedBucket(("short",), 1), 2) == 10.0
    assert model.run_limit_s(("short",), 5) == 60.0
    assert model.run_limit_s(("long",), 4) == 60.0
    model.ran(("long",), 4, 10.0)
    assert model.run_limit_s(("long",), 4) == pytest.approx(200.0)


def test_the_manifests_limits_hold_whatever_is_known() -> None:
    model = served(run_milliseconds=700, load_milliseconds=9000)
    assert (model.run_limit_s((), 4), model.load_limit_s()) == (0.7, 9.0)
    model.footprint.loaded(LoadReport(memory_bytes=1, bytes_per_row=0, seconds=80.0, inputs=(), outputs=()))
    assert model.load_limit_s() == 9.0
