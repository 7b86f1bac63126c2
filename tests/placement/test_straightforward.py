"""What is kept over decisions changes none: whatever the cluster, each is the one of the straightforward rule."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, NODE, Raw
from batchwright_operator.placement import receipts
from batchwright_operator.reconcile.decisions import Patch
from batchwright_operator.reconcile.live_state import Received, Sample
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import DeviceState, ModelState, Receipt, SidecarState
from batchwright_worker.api.names import ANNOTATION_RECEIPT, ANNOTATION_WAITING
from tests.placement.placement_objects import NOW, node, profile
from tests.placement.straightforward import Contexts, Straightforward
from tests.placement.test_cycle import Cluster

GPU = "nvidia.com/gpu"
KINDS = ("cpu", GPU)
TAINT = {"key": "x", "value": "y", "effect": "NoSchedule"}

AGES = st.sampled_from((0.0, 4.0, 400.0))
"""Seconds; the last one is stale, and none becomes so within a test."""
SHARES = st.sampled_from((0.0, 0.25, 0.4, 0.92, 1.0))


@st.composite
def nodes(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `node`."""
    how: dict[str, Any] = {
        "cpu": draw(st.sampled_from(("1", "2", "8"))),
        "labels": {"zone": draw(st.sampled_from("ab"))},
    }
    if draw(st.booleans()):
        how[GPU] = draw(st.sampled_from(("1", "4")))
    match draw(st.integers(0, 9)):
        case 0:
            how["ready"] = False
        case 1:
            how["cordoned"] = True
        case 2:
            how["taints"] = [TAINT]
    return how


PROFILES = st.fixed_dictionaries(
    {
        "capacity": st.sampled_from((None, "50.0", "100.0", "100.0", "400.0")),
        "kind": st.sampled_from(KINDS),
        "services": st.sampled_from((1, 4, 8)),
        "reason": st.sampled_from(("", "AwaitingBenchmark", "BenchmarkFailed")),
    }
)
SAMPLES = st.dictionaries(
    st.sampled_from(KINDS),
    st.builds(
        lambda busy, memory, age_s, seconds, ending: Sample(
            utilization=busy, memory_utilization=memory, taken_at=NOW - age_s, seconds=seconds, left_out=ending
        ),
        SHARES, SHARES, AGES, st.sampled_from((0.0, 60.0)), st.sampled_from((0.0, 0.2)),
    ),
)  # fmt: skip
MACHINES = st.tuples(nodes(), st.none() | PROFILES, SAMPLES)
DEPLOYMENTS = st.fixed_dictionaries(
    {
        "replicas": st.sampled_from((1, 5)),
        "kind": st.sampled_from(KINDS),
        "targets": st.sampled_from((None, {"throughput": 10}, {"throughput": 50})),
        "placement": st.fixed_dictionaries(
            {},
            optional={
                "policy": st.sampled_from(("Additive", "Forecast")),
                "weights": st.sampled_from(({"utilization": "2", "memory": "0.5", "capacity": "1"},)),
                "spread": st.booleans(),
            },
        ),
    }
)
TEMPLATES = st.fixed_dictionaries(
    {"cpu": st.sampled_from(("100m", "500m"))},
    optional={
        "nodeSelector": st.just({"zone": "a"}),
        "tolerations": st.just([{"key": "x", "operator": "Exists"}]),
    },
)
PODS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from((1.0, 10.0, 100.0))), max_size=6)
"""Of which deployment, how old."""


def put_machine(cluster: Cluster, name: str, machine: tuple[Raw, Raw | None, dict[str, Sample]]) -> None:
    how, measured, samples = machine
    cluster.put(NODE, node(name, **how))
    if measured is not None:
        reason = {} if measured["capacity"] else {"reason": measured["reason"] or "BenchmarkFailed"}
        cluster.put(ACCELERATOR_PROFILE, profile(name, **{**measured, "reason": "", **reason}))
    for kind in KINDS:
        cluster.live.samples.pop((name, kind), None)
    cluster.live.samples |= {(name, kind): sample for kind, sample in samples.items()}


def check(cluster: Cluster, contexts: Contexts, now: float) -> list[str]:
    """Both decide; what both say is carried out. The pods that got a place."""
    expected = Straightforward(
        store=cluster.store, live=cluster.live, settings=Settings(), now=now, contexts=contexts
    ).decide()
    decision = cluster.decide(now)
    seen: dict[str, str] = {}
    for action in decision.actions:
        assert isinstance(action, Patch)
        annotations = action.patch["metadata"]["annotations"]
        text = annotations.get(ANNOTATION_RECEIPT)
        seen[action.name] = annotations[ANNOTATION_WAITING] if text is None else text
    for name, wanted in expected.items():
        if isinstance(wanted, Receipt):
            assert seen[name] == receipts.render(wanted)
        else:  # waits, or was let go; once told, it is not told again
            assert name not in seen or wanted in seen[name]
    order = [action.name for action in decision.actions if isinstance(action, Patch)]
    assert order == [name for name in expected if name in seen]
    cluster.apply(decision.actions)
    return [name for name, wanted in expected.items() if isinstance(wanted, Receipt)]


@settings(max_examples=40)
@given(
    machines=st.lists(MACHINES, min_size=1, max_size=6),
    changed=st.lists(st.tuples(st.integers(0, 5), MACHINES), max_size=2),
    deployments=st.lists(st.tuples(DEPLOYMENTS, TEMPLATES), min_size=3, max_size=3),
    bursts=st.tuples(PODS, PODS, PODS),
    busy=SHARES,
)
def test_decisions_and_their_receipts_are_those_of_the_straightforward_rule(
    machines: list[Any], changed: list[Any], deployments: list[Any], bursts: tuple[list[Any], ...], busy: float
) -> None:
    cluster, contexts, now, number = Cluster(nodes=0), Contexts(), NOW, 0
    for at, machine in enumerate(machines):
        put_machine(cluster, f"n{at}", machine)
    for at, (how, _) in enumerate(deployments):
        cluster.deploy(f"d{at}", emulated={"fixedMicroseconds": 1, "perRowMicroseconds": 1}, **how)
    for turn, burst in enumerate(bursts):
        for owner, age_s in burst:
            how, template = deployments[owner]
            cluster.wait(f"p{number}", owner=f"d{owner}", kind=how["kind"], age_s=age_s, **template)
            number += 1
        placed = check(cluster, contexts, now)
        if turn == 0:  # a node or two change, and what is kept is used again
            for at, machine in changed:
                put_machine(cluster, f"n{at}", machine)
            now += 3.0
        else:  # what a model makes of a processor is known now, and everything is worked out anew
            for name in placed:
                state = SidecarState(
                    revision=1, time=now, ready=True,
                    models=[ModelState(name="m", state="Ready", batch_size=8, throughput=20.0)],
                    devices=[DeviceState(kind="cpu", device="0", busy_ratio=busy, memory_used_bytes=1, memory_bytes=2)],
                )  # fmt: skip
                cluster.live.sidecars[f"uid-user-{name}"] = Received(state=state, received_at=now)
            contexts, now = Contexts(), now + 12.0
