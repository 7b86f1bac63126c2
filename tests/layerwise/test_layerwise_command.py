"""`batchwright-worker layerwise schedule | simulate | ablate` as a user sees them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from batchwright_worker.__main__ import main
from batchwright_worker.layerwise.tools.ablation import STUDIES, study_rows

A = {"compute": 4, "fetch": 1, "bytes": 1}
M = {"compute": 1, "fetch": 4, "bytes": 4}


def golden(**changed: Any) -> dict[str, Any]:
    """The golden case of method C as a document."""
    document = {
        "budgetBytes": 6,
        "prefetch": "whole",
        "policy": "literal",
        "skipLimit": 0,
        "models": {"A": [A] * 3, "M": [M] * 3},
        "requests": [{"model": "A", "arrival": 0}, {"model": "M", "arrival": 0}],
    }
    return {**document, **changed}


def schedule(document: Any, *options: str) -> Result:
    """Run the command on a document, given through standard input."""
    text = document if isinstance(document, str) else json.dumps(document)
    return CliRunner().invoke(main, ["layerwise", "schedule", "--instance", "-", *options], input=text)


def scheduled(**changed: Any) -> dict[str, Any]:
    """The schedule's document."""
    result = schedule(golden(**changed), "--json")
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


@pytest.mark.parametrize(
    ("changed", "order", "makespan", "idle"),
    [
        ({}, "AAAMMM", 24, (9, 8)),
        ({"policy": "fifo"}, "AAAMMM", 24, (9, 8)),
        ({"skipLimit": 1}, "AMAMAM", 16, (1, 0)),
        ({"policy": "round_robin"}, "AMAMAM", 16, (1, 0)),
        ({"policy": "balanced", "skipLimit": 16}, "AMAMAM", 16, (1, 0)),
        ({"policy": "balanced", "skipLimit": 0}, "AMAMAM", 16, (1, 0)),
        ({"budgetBytes": 100}, "AAAMMM", 16, (1, 0)),
        ({"budgetBytes": None, "policy": "round_robin"}, "AMAMAM", 16, (1, 0)),
        ({"prefetch": "fluid"}, "AAAMMM", 21, (6, 5)),
    ],
)
def test_the_golden_case(changed: dict[str, Any], order: str, makespan: int, idle: tuple[int, int]) -> None:
    answer = scheduled(**changed)
    assert "".join(layer["model"] for layer in answer["layers"]) == order
    assert (answer["makespan"], (answer["computeIdle"], answer["memoryIdle"])) == (makespan, idle)


def test_every_field_of_a_layer() -> None:
    answer = scheduled(skipLimit=1)
    assert answer["layers"][1] == {
        "model": "M",
        "request": 1,
        "layer": 0,
        "fetchStart": 1,
        "fetchEnd": 5,
        "computeStart": 5,
        "computeEnd": 6,
        "computeIdle": 0,
        "memoryIdle": 0,
        "skips": 1,
    }
    assert set(answer) == {"layers", "makespan", "computeIdle", "memoryIdle"}


def test_without_a_skip_limit_it_follows_from_the_budget() -> None:
    """A memory of 6 is filled in 6, A computes 4 a layer: N = 2, which lets M run after two of A."""
    document = golden()
    del document["skipLimit"]
    answer = json.loads(schedule(document, "--json").stdout)
    assert "".join(layer["model"] for layer in answer["layers"]) == "AAMAMM"


def test_no_requests_is_an_empty_schedule() -> None:
    assert scheduled(requests=[]) == {"layers": [], "makespan": 0, "computeIdle": 0, "memoryIdle": 0}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "this is no instance"),
        ("[]", "this is no instance"),
        (golden(budgetBytes=-1), "budgetBytes: wanted a whole number of 0 or more (2^63 at most), given -1"),
        (golden(budgetBytes=1.5), "budgetBytes: wanted a whole number of 0 or more (2^63 at most), given 1.5"),
        (golden(budgetBytes="6"), "$.budgetBytes"),
        (golden(policy="best"), "policy: wanted one of literal, balanced, rollout, fifo, round_robin, given 'best'"),
        (golden(prefetch="half"), "prefetch: wanted one of whole, fluid, given 'half'"),
        (golden(skipLimit=-1), "$.skipLimit"),
        (golden(skipLimit=1.5), "$.skipLimit"),
        (golden(models={"A": []}), "models.A: wanted at least one layer"),
        (
            golden(models={"A": [{**A, "compute": -1}]}),
            "models.A[0].compute: wanted a number of 0 or more (2^63 at most), given -1",
        ),
        (golden(models={"A": [A, {**A, "bytes": 0.5}]}), "models.A[1].bytes: wanted a whole number"),
        (golden(models={"A": [{"compute": 1, "fetch": 1}]}), "missing required field `bytes`"),
        (golden(models={"A": [{**A, "byte": 1}]}), "unknown field `byte`"),
        (golden(requests=[{"model": "X"}]), "requests[0].model: 'X' is not among the models (A, M)"),
        (golden(requests=[{"model": "A", "arrival": -1}]), "requests[0].arrival: wanted a number of 0 or more"),
        (golden(speed=1), "unknown field `speed`"),
        (
            json.dumps(golden()).replace('"compute": 4', '"compute": 1e999'),
            "out of range - at `$.models[...][0].compute`",
        ),
        (json.dumps(golden()).replace('"fetch": 4', '"fetch": NaN'), "this is no instance"),
        (golden(models={"A": [{**A, "compute": 10**400}]}), "compute"),
        ('{"budgetBytes": 6, "policy": "fifo", "models": {}}', "missing required field `requests`"),
        (golden(budgetBytes=3), "layer 0 of model M has 4 bytes, more than the budget of 3"),
    ],
)
def test_what_cannot_be_scheduled_is_refused_with_its_place(document: Any, words: str) -> None:
    result = schedule(document, "--json")
    assert result.exit_code == 1
    assert words in result.stderr
    assert result.stdout == ""


def test_a_table_for_people() -> None:
    result = schedule(golden())
    assert result.exit_code == 0
    assert "makespan 24" in result.output


@pytest.mark.slow
def test_a_picture_of_both_engines(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "engines.png"
    assert schedule(golden(), "--plot", str(picture)).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = schedule(golden(), "--plot", str(tmp_path / "engines.exe"))
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["schedule"], ["simulate"], ["ablate"]], ids=" ".join)
def test_every_command_explains_itself(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, ["layerwise", *arguments, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


@pytest.mark.slow
def test_simulate_prints_the_pairs_beside_the_bound(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "bars.svg"
    result = CliRunner().invoke(main, ["layerwise", "simulate", "--rounds", "4", "--plot", str(picture)])
    assert result.exit_code == 0, result.output
    for words in ("ResNet-50 + BERT-base", "geometric mean of 16", "round robin", "bound", "+60.1 %"):
        assert words in result.output
    assert "<svg" in picture.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_guard_is_worth_much_in_a_small_memory() -> None:
    title = "guard and N, literal"
    result = CliRunner().invoke(main, ["layerwise", "ablate", "--rounds", "4", "--study", title, "--json"])
    assert result.exit_code == 0, result.output
    studies = json.loads(result.stdout)
    assert list(studies) == [title]
    assert studies[title]["4 MiB"]["auto"] > studies[title]["4 MiB"]["none"] + 0.1


@pytest.mark.slow
def test_every_study_has_a_row_per_budget_below_the_bound() -> None:
    pairs = [("MobileNet-v2", "BERT-base"), ("Inception-v3", "GNMT")]
    titles = [study.title for study in STUDIES]
    assert [title.split()[0].strip(",") for title in titles] == [
        "guard",
        "guard",
        "tie-break",
        "theta",
        "prefetch",
        "budget",
    ]
    for study in STUDIES:
        rows = list(study_rows(study, pairs=pairs, rounds=4))
        assert len(rows) == len(study.budgets_mib)
        for _, means, bound in rows:
            assert set(means) == set(study.columns)
            assert max(means.values()) <= 1.05 * bound
