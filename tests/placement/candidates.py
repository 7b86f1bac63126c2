"""Builders and strategies of candidates and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hypothesis import strategies as st

from batchwright_operator.placement.ranking import Ranking
from batchwright_operator.placement.scoring import Candidate, Score, ScoreContext, score
from batchwright_operator.processors.nodes import NodeInfo, node_info
from batchwright_operator.processors.processor import Processor
from batchwright_operator.reconcile.live_state import Sample
from batchwright_worker.api import deployment as manifest
from tests.placement.placement_objects import NOW
from tests.placement.placement_objects import node as raw_node

EQUAL = dict.fromkeys(manifest.Weights.__struct_fields__, 1.0)


def node(name: str) -> NodeInfo:
    """A plain node."""
    return node_info(raw_node(name))


def sample(u: float, m: float) -> Sample:
    """A fresh sample: utilization, memory utilization."""
    return Sample(utilization=u, memory_utilization=m, taken_at=NOW)


def processor(capacity: float | None) -> Processor:
    """A CPU; capacity None: not benchmarked."""
    return Processor(kind="cpu", capacity=capacity)


def candidate(
    name: str = "n", capacity: float | None = 100.0, u: float = 0.0, m: float = 0.0, **more: float
) -> Candidate:
    """A benchmarked, sampled, idle one; `more` are its other fields."""
    return Candidate(node=node(name), kind="cpu", processor=processor(capacity), sample=sample(u, m), **more)  # type: ignore[arg-type]


def ranking(candidate_of: Callable[[str], Candidate | None], nodes: Iterable[str], context: ScoreContext) -> Ranking:
    """The ranking of these nodes; `candidate_of` is asked again for one that is touched."""

    def score_of(name: str) -> Score | None:
        found = candidate_of(name)
        return None if found is None else score(found, context)

    made = Ranking(score_of)
    for _ in made.filling(list(nodes), 1000):
        pass
    return made


UNIT = st.floats(0, 1)
CANDIDATES = st.lists(
    st.builds(
        Candidate,
        node=st.text("abcdef", min_size=1, max_size=4).map(node),
        kind=st.just("cpu"),
        processor=st.none() | (st.none() | st.floats(0.1, 1e4)).map(processor),
        sample=st.none() | st.builds(sample, UNIT, UNIT),
        pending=st.floats(0, 3),
        all_replicas_here=st.booleans(),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda each: each.node.name,
)
WEIGHTS = st.fixed_dictionaries(dict.fromkeys(EQUAL, st.floats(0, 10)) | {"capacity": st.floats(0.01, 10)})
