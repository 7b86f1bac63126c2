"""Placements beside bursty neighbours, replayed from recorded samples: how much of a pod's load is served after it.

`neighbours.json`: the CPU share of six process groups (test runs of engineers) on a shared machine, a value per 5 s.
`short`: bursts of seconds. `long`: phases of minutes, after which no mean over a minute says what comes next.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from batchwright_operator.placement.scoring import Candidate, ScoreContext, score
from batchwright_operator.processors.processor import Processor
from batchwright_operator.reconcile.live_state import Sample
from batchwright_operator.telemetry.lasting import Windows
from tests.placement.candidates import EQUAL, node

EVERY_S = 5.0
RECORDED: dict[str, list[float]] = json.loads((Path(__file__).parent / "neighbours.json").read_text())
SAMPLES = len(RECORDED["short-a"])
CAPACITIES = (200.0, 100.0, 100.0, 50.0)
RATE = 120.0
"""Rows/s that a pod is offered: only the fastest node serves them all, and not beside every neighbour."""
AFTER = 24
"""Samples after the placement in which is counted what is served: two minutes."""
PREPARATION = 4
"""Samples before it in which a benchmark or a preparation Job took all that was left of the fastest node."""
NODES = {name: node(name) for name in RECORDED}


def served_share(neighbours: Sequence[str], *, window_s: float, preparation: int = 0) -> float:
    """Served over what the best choice would have served, over placements at many times, on all assignments of nodes
    to neighbours."""
    served = best = 0.0
    for capacities in sorted(set(itertools.permutations(CAPACITIES))):
        nodes = dict(zip(neighbours, capacities, strict=True))
        for at in range(12, 12 + SAMPLES, 9):
            chosen = _choice(nodes, at, window_s, preparation)
            gets = {name: _served_after(name, at, capacity) for name, capacity in nodes.items()}
            served += gets[chosen]
            best += max(gets.values())
    return served / best


def _choice(nodes: dict[str, float], at: int, window_s: float, preparation: int) -> str:
    windows = Windows(window_s=window_s, interval_s=EVERY_S)
    fastest = max(nodes, key=lambda name: nodes[name])
    for i in range(at - 12, at):
        for name in nodes:
            busy = _busy(name, i)
            ends = 1.0 - busy if name == fastest and i >= at - preparation else 0.0
            sample = Sample(
                utilization=busy + ends, memory_utilization=0.0, taken_at=EVERY_S * i, pods={"ends": (ends, 0.0)}
            )
            windows.add((name, "cpu"), sample)
    candidates = [
        Candidate(
            node=NODES[name], kind="cpu", processor=Processor(kind="cpu", capacity=capacity),
            sample=windows.lasting((name, "cpu"), lambda uid: uid == "ends"),
        )
        for name, capacity in nodes.items()
    ]  # fmt: skip
    context = ScoreContext.over(candidates, EQUAL, "ThroughputLeft")
    return min((score(each, context) for each in candidates), key=lambda each: each.rank).candidate.node.name


def _busy(name: str, i: int) -> float:
    return RECORDED[name][i % SAMPLES]


def _served_after(name: str, at: int, capacity: float) -> float:
    return sum(min(RATE, capacity * (1.0 - _busy(name, at + i))) for i in range(AFTER))


SHORT = ("short-a", "short-b", "short-c", "short-d")


@pytest.mark.parametrize("preparation", [0, PREPARATION])
def test_beside_short_bursts_nearly_all_that_could_be_is_served(preparation: int) -> None:
    assert served_share(SHORT, window_s=60.0, preparation=preparation) >= 0.97


def test_the_momentary_rule_is_led_astray_by_what_ends() -> None:
    moment = served_share(SHORT, window_s=0.0, preparation=PREPARATION)
    assert moment <= served_share(SHORT, window_s=60.0, preparation=PREPARATION) - 0.1


def print_table() -> None:
    """The figures of docs/measurements.md."""
    for group in (SHORT, ("long-a", "long-b", "short-a", "short-c")):
        for before in (0, PREPARATION):
            shares = [served_share(group, window_s=seconds, preparation=before) for seconds in (0.0, 60.0)]
            print(group, f"preparation {before}:", *(f"{share:.3f}" for share in shares))


if __name__ == "__main__":
    print_table()
