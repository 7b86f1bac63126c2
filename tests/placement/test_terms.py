"""One table of placement terms: what is in it is scored, and shown wherever a load is explained."""

from __future__ import annotations

import pytest

from batchwright_operator.api import model_deployment
from batchwright_operator.api.eligible_kinds import eligible_kinds
from batchwright_operator.crds.schema import structural
from batchwright_operator.crds.status_types import TermsStatus, terms_status
from batchwright_operator.deployments.facts import DeploymentFacts
from batchwright_operator.deployments.live_configuration import Configured
from batchwright_operator.deployments.phase import DeploymentPhase
from batchwright_operator.deployments.replicas import Replica
from batchwright_operator.deployments.status import status_of
from batchwright_operator.kube.conditions import Condition
from batchwright_operator.kube.objects import Raw
from batchwright_operator.placement import receipts
from batchwright_operator.placement.scoring import TERMS, Candidate, ScoreContext, Term
from batchwright_operator.plugin.output import table
from batchwright_operator.plugin.why import receipt_table
from batchwright_operator.processors.nodes import node_info
from batchwright_operator.processors.processor import Processor
from batchwright_operator.reconcile.live_state import Sample
from batchwright_operator.settings import Settings
from batchwright_worker.api.deployment import Weights
from batchwright_worker.api.messages import Receipt
from batchwright_worker.api.names import ANNOTATION_RECEIPT
from tests.placement.candidates import ranking
from tests.placement.placement_objects import NOW, deployment, node


def price(candidate: Candidate, context: ScoreContext) -> float:
    return context.weights["price"] * float(candidate.node.labels["price"])


SCRATCH = TERMS | {"price": Term(description="Share from what the node costs.", additive=price)}
"""A term that does not exist, computed from a label of the node."""


def candidate(name: str, cost: str) -> Candidate:
    return Candidate(
        node=node_info(node(name, labels={"price": cost})),
        kind="cpu",
        processor=Processor(kind="cpu", capacity=100.0),
        sample=Sample(utilization=0.4, memory_utilization=0.0, taken_at=NOW),
    )


@pytest.fixture
def receipt() -> Receipt:
    """A decision between two nodes that differ in nothing but their price."""
    found = {"dear": candidate("dear", "1"), "fair": candidate("fair", "0.2")}
    weights = {**dict.fromkeys(Weights.__struct_fields__, 1.0), "price": 1.0}
    context = ScoreContext.over(found.values(), weights, terms=SCRATCH)
    pick = ranking(found.get, found, context).pick()
    assert pick is not None
    assert pick.best.terms == pytest.approx(
        {"utilization": 0.1, "memory": 0.0, "capacity": 0.0, "pending": 0.0, "price": 0.05}
    )
    return receipts.of(pick, left_out="", now=NOW)


def test_term_decides_and_the_receipt_names_it(receipt: Receipt) -> None:
    assert receipt.terms == {
        "utilization": "0.10", "memory": "0.00", "capacity": "0.00", "pending": "0.00", "price": "0.05",
    }  # fmt: skip
    assert receipts.describe(receipt) == (
        "fair: load 0.15 = utilization 0.10 + memory 0.00 + capacity 0.00 + price 0.05; dear lost by 0.20: price; "
        "state: one sample, 0 s old"
    )


def test_term_is_in_the_status(receipt: Receipt) -> None:
    placed = Replica(name="a", uid="a", kind="cpu", receipt=receipt)
    wanted = model_deployment.parse(deployment())
    facts = DeploymentFacts(deployment=wanted, kinds=eligible_kinds(wanted, Settings()), replicas=(placed,))
    phase = DeploymentPhase(name="Ready", reason="Available", message="", ready=1, needed=1, wanted=1)
    upgrade = Condition(type="UpToDate", status="True", reason="UpToDate")
    status = status_of(facts, phase, upgrade, Configured(newest=1), NOW)
    assert status["placements"][0]["terms"] == receipt.terms


def test_term_is_in_the_plugins_table(receipt: Receipt) -> None:
    header, best, loser = (line.split() for line in table(*receipt_table([("a", receipt)], SCRATCH)))
    assert header == ["POD", "NODE", "PROCESSOR", "LOAD", *(name.upper() for name in SCRATCH)]
    assert best == ["a", "fair", "cpu", receipt.load, *receipt.terms.values()]
    assert loser == ["dear", "cpu", "0.35"]


def test_term_is_in_the_schema() -> None:
    schema = structural(terms_status(SCRATCH), ())
    assert list(schema["properties"]) == list(SCRATCH)
    assert schema["properties"]["price"] == {"description": "Share from what the node costs.", "type": "string"}


def test_status_type_and_weights_follow_the_table() -> None:
    assert TermsStatus.__struct_fields__ == tuple(TERMS)
    assert set(Weights.__struct_fields__) < set(TERMS)


def annotated(text: str) -> Raw:
    return {"metadata": {"annotations": {ANNOTATION_RECEIPT: text}}}


def test_receipt_of_another_version_is_read_as_far_as_it_is_known(receipt: Receipt) -> None:
    found = receipts.parse(annotated(receipts.render(receipt)))
    assert found is not None
    assert list(found.terms) == list(TERMS)
    older = receipts.render(receipt).replace('"memory":"0.00",', "")
    found = receipts.parse(annotated(older))
    assert found is not None
    assert list(found.terms) == [name for name in TERMS if name != "memory"]
