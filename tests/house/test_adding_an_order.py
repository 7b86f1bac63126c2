"""A queue order is one class in `scheduler/order` and its name in `api/deployment`: the rest of the product and its
bench take both from there."""

from __future__ import annotations

import ast
import random
import subprocess
from pathlib import Path
from typing import ClassVar, cast, get_args

import pytest

from batchwright_worker.api.deployment import QueueOrder
from batchwright_worker.scheduler.batch_size.tuning import TuningConfig
from batchwright_worker.scheduler.order import ORDERS, Choice, FairShareState
from batchwright_worker.scheduler.served_model import ModelConfig
from batchwright_worker.scheduler.simulator import SimulatedDevice, Simulation, SimulationReport, poisson

ROOT = Path(__file__).resolve().parents[2]
PLACES = {
    "worker/batchwright_worker/api/deployment.py",
    "worker/batchwright_worker/scheduler/order.py",
}
LAST = cast(QueueOrder, "LastName")


class LastNameOrder:
    """A made-up order: the model whose name comes last in the alphabet."""

    name: ClassVar[QueueOrder] = LAST
    goes_by_deadline: ClassVar[bool] = False
    splits_loads: ClassVar[bool] = False

    def ranked(self, choices: list[Choice], shares: FairShareState, now: float) -> list[Choice]:
        return sorted(choices, key=lambda choice: choice.model, reverse=True)


def test_every_name_of_the_api_is_an_order_and_no_other() -> None:
    assert tuple(ORDERS) == get_args(QueueOrder)
    assert all(order.name == name for name, order in ORDERS.items())


def test_an_order_that_is_added_is_served_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ORDERS, LAST, LastNameOrder())
    by_name, by_length = overloaded(LAST), overloaded("Longest")
    assert answered(by_name, "z") > 20 * answered(by_name, "a")
    assert answered(by_length, "z") < 2 * answered(by_length, "a")


def overloaded(order: QueueOrder) -> SimulationReport:
    """Each of two models alone asks for more than the device can serve."""
    device = SimulatedDevice(seconds=lambda _model, rows, _now: 0.010 * rows)
    models = [ModelConfig(name=name, tuning=TuningConfig(max_size=1)) for name in "az"]
    load = sorted(arrival for name in "az" for arrival in poisson(150, 2, random.Random(name), name))
    return Simulation(models, [device], order, warm_up=False).run(load, 2)


def answered(report: SimulationReport, model: str) -> int:
    return sum(1 for one in report.answered() if one.arrival.model == model)


def test_no_other_file_of_the_product_or_its_bench_lists_the_orders() -> None:
    listed = subprocess.check_output(["git", "ls-files", "worker", "operator", "e2e"], cwd=ROOT, text=True)
    names = set(get_args(QueueOrder))
    found = {path for path in listed.split() if path.endswith(".py") and names <= literals(ROOT / path)}
    assert found == PLACES


def literals(path: Path) -> set[str]:
    if not path.exists():
        return set()
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
