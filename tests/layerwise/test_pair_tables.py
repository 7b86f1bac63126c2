"""Throughput and latency of pairs of networks on the NPU model (layerwise.md, acceptance 5 and 7)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from batchwright_worker.layerwise.core.policy import Literal
from batchwright_worker.layerwise.tools.bound import stp_bound
from batchwright_worker.layerwise.tools.npu_model import REFERENCE_NPU, Npu
from batchwright_worker.layerwise.tools.pairs import (
    LATENCY_PAIRS,
    MIXED_PAIRS,
    SAME_ENGINE_PAIRS,
    Column,
    PairThroughput,
    geometric_mean,
    pair_latency,
    pair_throughput,
)
from tests.layerwise.instances import layers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def table() -> Mapping[tuple[str, str], PairThroughput]:
    """The 16 pairs, in half the rounds of `layerwise simulate`."""
    return {pair: pair_throughput(pair, REFERENCE_NPU, rounds=12) for pair in MIXED_PAIRS}


def mean(table: Mapping[tuple[str, str], PairThroughput], column: str) -> float:
    """Geometric mean over the 16 pairs."""
    return geometric_mean([row.columns[column] for row in table.values()])


def test_sixteen_pairs_reach_what_is_asked(table: Mapping[tuple[str, str], PairThroughput]) -> None:
    bound = geometric_mean([row.bound for row in table.values()])
    assert bound == pytest.approx(1.54, abs=0.015)
    assert mean(table, "FIFO") <= 1.06
    assert mean(table, "literal N=16") >= 1.40
    assert mean(table, "balanced") >= 0.95 * bound
    assert mean(table, "balanced") >= 1.50


def test_no_pair_loses_against_fifo_or_beats_the_bound(table: Mapping[tuple[str, str], PairThroughput]) -> None:
    for row in table.values():
        assert row.columns["balanced"] >= 0.97 * row.columns["FIFO"]
        assert row.columns["literal N=16"] >= 0.97 * row.columns["FIFO"]
        assert max(row.columns.values()) <= 1.01 * row.bound


@pytest.mark.parametrize("pair", SAME_ENGINE_PAIRS, ids=" + ".join)
def test_pairs_bound_by_the_same_engine_gain_and_lose_nothing(pair: tuple[str, str]) -> None:
    for throughput in pair_throughput(pair, REFERENCE_NPU, rounds=12).columns.values():
        assert throughput == pytest.approx(1, abs=0.03)


def test_literal_without_guard_gains_little_in_a_small_memory() -> None:
    column = {"literal": Column(policy=lambda models, budget: Literal(0))}
    rows = [pair_throughput(pair, Npu(memory_bytes=4 * 2**20), column, rounds=12) for pair in MIXED_PAIRS]
    assert geometric_mean([row.columns["literal"] for row in rows]) <= 1.10


@pytest.mark.parametrize("pair", LATENCY_PAIRS, ids=" + ".join)
def test_under_load_requests_wait_far_less_than_first_in_first_out(pair: tuple[str, str]) -> None:
    measured = pair_latency(pair, REFERENCE_NPU, np.random.default_rng(1), load=0.95)
    assert measured.antt_ratio <= 0.4
    assert measured.p99_ratio <= 0.5


def test_the_bound_is_the_published_ideal() -> None:
    """(2 - ra - rb) / (1 - ra*rb) with shares of 1/4 each: 1.6."""
    models = {"a": layers((4, 1, 1)), "b": layers((1, 4, 4))}
    assert stp_bound(models, {"a": 1 / 4, "b": 1 / 4}) == pytest.approx(1.6)
