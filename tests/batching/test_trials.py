"""Which dimension is the batch, found out by trying: what is shown is served in rows, all else whole and why."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from batchwright_worker.backends.base import LoadError, OutOfDeviceMemoryError
from batchwright_worker.inference.runtime import TensorSpec, WarmUpTensor
from batchwright_worker.runtime.settling import settled
from tests.batching.functions import FunctionModel, plan_of, source, tensor

F = np.float32
X, Y = tensor("x", -1, 4), tensor("y", -1, 4)


def softmax0(x: Any) -> Any:
    return np.exp(x - x.max(0)) / np.exp(x - x.max(0)).sum(0)


def normed(x: Any) -> Any:
    """A row's answer is its mates' too, but only where one of them is large."""
    return x / np.maximum(100, np.abs(x).max())


ROWS: dict[str, tuple[Callable[..., Any], list[TensorSpec], list[TensorSpec], dict[str, Any]]] = {
    "each number": (lambda x: {"y": -x}, [X], [Y], {}),
    "a matrix": (lambda x: {"y": x @ np.ones((4, 2), F)}, [X], [tensor("y", -1, 2)], {}),
    "a fixed batch of 1": (lambda x: {"y": -x}, [tensor("x", 1, 4)], [tensor("y", 1, 4)], {"piece": 1}),
    "a fixed batch of 4": (lambda x: {"y": -x}, [tensor("x", 4, 4)], [tensor("y", 4, 4)], {"piece": 4}),
    "a free dimension": (lambda x: {"y": x.sum(1)}, [tensor("x", -1, -1)], [tensor("y", -1)], {}),
    "a scalar beside it": (
        lambda x, t: {"y": (x > t).astype(F)},
        [X, tensor("t")],
        [Y],
        {"unbatched_inputs": frozenset({"t"})},
    ),
    "a fixed setting": (
        lambda x, k: {"y": x * k[0]},
        [X, tensor("k", 1)],
        [Y],
        {"unbatched_inputs": frozenset({"k"})},
    ),
    "a constant beside it": (
        lambda x: {"y": -x, "names": np.arange(3, dtype=F)},
        [X],
        [Y, tensor("names", 3)],
        {"unbatched_outputs": frozenset({"names"})},
    ),
    "small whole numbers": (
        lambda x: {"y": np.eye(8, dtype=F)[x]},
        [tensor("x", -1, -1, datatype="INT64")],
        [tensor("y", -1, -1, 8)],
        {},
    ),
    "numbers that divide": (
        lambda x: {"y": 12 // checked(x != 0, x)},
        [tensor("x", -1, 3, datatype="INT64")],
        [tensor("y", -1, 3, datatype="INT64")],
        {},
    ),
    "an output whose file says a wrong shape": (lambda x: {"y": x @ np.ones((4, 2), F)}, [X], [tensor("y", 1, 7)], {}),
    "words": (
        lambda x: {"y": np.array([len(one) for one in x], np.int64)},
        [tensor("x", -1, datatype="BYTES")],
        [tensor("y", -1, datatype="INT64")],
        {},
    ),
    "words to words": (
        lambda x: {"y": np.array([one + b"!" for one in x], object)},
        [tensor("x", -1, datatype="BYTES")],
        [tensor("y", -1, datatype="BYTES")],
        {},
    ),
    "how many of each row": (
        lambda x, k: {"y": np.sort(x, 1)[:, : checked(k > 0, int(k[0]))]},
        [X, tensor("k", 1, datatype="INT64")],
        [tensor("y", -1, -1)],
        {"unbatched_inputs": frozenset({"k"})},
    ),
    "one row at a time": (lambda x: {"y": checked(len(x) == 1, -x)}, [X], [Y], {"piece": 1}),
}


def checked(good: Any, value: Any) -> Any:
    if not np.all(good):
        raise ValueError("not this")
    return value


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_do_not_influence_each_other_are_batched(name: str) -> None:
    call, inputs, outputs, wanted = ROWS[name]
    plan, _ = plan_of(call, inputs, outputs)
    assert plan.mode == "Rows", plan.reason
    for field, value in wanted.items():
        assert getattr(plan, field) == value
    assert plan.sample is not None


WHOLE: dict[str, tuple[Callable[..., Any], list[TensorSpec], list[TensorSpec], str]] = {
    "softmax over the rows": (lambda x: {"y": softmax0(x)}, [X], [Y], "changes with the row behind it"),
    "a running sum": (lambda x: {"y": np.cumsum(x, 0)}, [X], [Y], "changes with the row before it"),
    "a place": (lambda x: {"y": x + np.arange(len(x), dtype=F)[:, None]}, [X], [Y], "changes with its place"),
    "large numbers only": (lambda x: {"y": normed(x)}, [X], [Y], "changes with the row"),
    "a mean over a fixed first dimension": (
        lambda x: {"y": x - x.mean(0)},
        [tensor("x", 3, 2, 2)],
        [tensor("y", 3, 2, 2)],
        "changes with a row behind it",
    ),
    "weights by place in a fixed first dimension": (
        lambda x: {"y": x * np.arange(1, 4, dtype=F)[:, None]},
        [tensor("x", 3, 2)],
        [tensor("y", 3, 2)],
        "changes with its place",
    ),
    "the batch in dimension 1": (
        lambda x: {"y": x.sum(0)},
        [tensor("x", -1, -1, 2)],
        [tensor("y", -1, 2)],
        "not the batch",
    ),
    "one number for all": (lambda x: {"y": x.sum()}, [X], [tensor("y")], "not the batch"),
    "as many as are found": (
        lambda x: {"y": np.argwhere(x > 0.5)},
        [X],
        [tensor("y", -1, 2, datatype="INT64")],
        "not the batch",
    ),
    "an output that counts the rows": (
        lambda x: {"y": -x, "n": np.array(x.shape)},
        [X],
        [Y, tensor("n", 2, datatype="INT64")],
        "has no batch dimension",
    ),
    "states along dimension 1": (
        lambda x, h: {"y": x + h.sum(0), "h_out": h + x[None]},
        [X, tensor("h", 2, -1, 4)],
        [Y, tensor("h_out", 2, -1, 4)],
        "not the batch",
    ),
    "an axis that may be that of the rows": (
        lambda x, axis: {"y": np.cumsum(x, int(axis))},
        [X, tensor("axis", datatype="INT64")],
        [Y],
        "changes with the row",
    ),
    "a shape to give it": (
        lambda x, shape: {"y": x.reshape([a or b for a, b in zip(shape, x.shape, strict=True)])},
        [X, tensor("shape", 2, datatype="INT64")],
        [Y],
        "not the batch|fixed to different sizes",
    ),
    "a mode that may look across rows": (
        lambda x, training: {"y": x - x.mean(0) if training else x},
        [X, tensor("training", datatype="BOOL")],
        [Y],
        "changes with the row",
    ),
    "chance": (lambda x: {"y": np.random.default_rng().random(x.shape, F)}, [X], [Y], "another one each time"),
    "always the same": (lambda x: {"y": np.zeros_like(x)}, [X], [Y], "answers are the same"),
    "nothing that is made up": (lambda x: checked(False, {"y": x}), [X], [Y], "ValueError|not this"),
    "scalars alone": (lambda x: {"y": x}, [tensor("x")], [tensor("y")], "none of its inputs has a dimension"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_all_else_is_whole_and_says_why(name: str) -> None:
    call, inputs, outputs, reason = WHOLE[name]
    plan, _ = plan_of(call, inputs, outputs)
    assert plan.mode == "Whole"
    assert not any(spec.batched for spec in (*plan.inputs, *plan.outputs))
    assert re.search(reason, plan.reason), plan.reason


@pytest.mark.parametrize("name", sorted({*ROWS, *WHOLE} - {"chance"}))
def test_the_plan_of_a_slow_machine_is_that_of_a_fast_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, inputs, outputs, _ = {**ROWS, **WHOLE}[name]
    fast, _ = plan_of(call, inputs, outputs)
    minutes = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: 60.0 * next(minutes))
    slow, _ = plan_of(call, inputs, outputs)
    assert slow == fast


def test_what_fits_into_memory_beside_others_is_no_fact_about_the_model() -> None:
    def single(x: Any) -> Any:
        if len(x) > 1:
            raise OutOfDeviceMemoryError("two rows do not fit")
        return {"y": -x}

    model = FunctionModel(single, [X], [Y])
    with pytest.raises(OutOfDeviceMemoryError):
        settled(model, source(), alone=False)
    assert settled(model, source(), alone=True).piece == 1


@pytest.mark.parametrize("name", ["softmax over the rows", "a running sum", "one number for all"])
def test_what_is_declared_as_rows_and_is_not_is_refused(name: str) -> None:
    call, inputs, outputs, reason = WHOLE[name]
    with pytest.raises(LoadError, match=reason):
        plan_of(call, inputs, outputs, mode="Rows")


@pytest.mark.parametrize("name", ["chance", "always the same", "nothing that is made up"])
def test_what_is_declared_as_rows_and_cannot_be_tried_is_taken_on_trust(name: str) -> None:
    call, inputs, outputs, _ = WHOLE[name]
    plan, _ = plan_of(call, inputs, outputs, mode="Rows")
    assert plan.mode == "Rows"
    assert "because the manifest says so" in plan.reason


def test_whole_is_not_tried_as_rows() -> None:
    plan, model = plan_of(lambda x: {"y": -x}, [X], [Y], mode="Whole")
    assert (plan.mode, plan.reason, len(model.calls)) == ("Whole", "", 1)


def test_declared_warm_up_inputs_are_what_is_tried() -> None:
    word = WarmUpTensor(name="x", shape=(2, 1), data=("17", "42"))
    known = {17: 1.0, 42: 2.0}
    plan, _ = plan_of(
        lambda x: {"y": np.array([[known[int(one)]] for one in x[:, 0]], F)},
        [tensor("x", -1, 1, datatype="INT64")],
        [tensor("y", -1, 1)],
        warmup=(word,),
    )
    assert plan.mode == "Rows"
    assert plan.sample is not None
    assert plan.sample.kind == "declared"


def test_a_warm_up_that_does_not_fit_the_model_is_refused() -> None:
    wrong = WarmUpTensor(name="x", shape=(2, 5), data=("1",))
    with pytest.raises(LoadError, match=r"the shape \[2, 5\]; the model takes \[-1, 4\]"):
        plan_of(lambda x: {"y": x}, [X], [Y], warmup=(wrong,))


def test_a_model_that_must_not_be_tried_is_whole() -> None:
    model = FunctionModel(lambda x: {"y": x}, [X], [Y])
    plan = settled(model, source(), "warmup.mode is Skip")
    assert (plan.mode, model.calls) == ("Whole", [])
    assert "warmup.mode is Skip" in plan.reason


DECLARED = {
    "another name": ([tensor("wrong", -1, 4)], [], r"declares no input 'x'; the model's inputs are x FP32 \[-1, 4\]"),
    "another type": ([TensorSpec(name="x", datatype="FP64", shape=(4,))], [], r"x FP64 \[-1, 4\]; the model's"),
    "another shape": ([TensorSpec(name="x", datatype="FP32", shape=(3,))], [], r"x FP32 \[-1, 3\]; the model's"),
    "another output": ([], [TensorSpec(name="nope", datatype="BYTES", shape=(1,))], "declares output nope BYTES"),
}


@pytest.mark.parametrize("name", DECLARED)
def test_a_declaration_that_the_model_contradicts_is_refused(name: str) -> None:
    inputs, outputs, message = DECLARED[name]
    with pytest.raises(LoadError, match=message):
        plan_of(lambda x: {"y": x}, [X], [Y], inputs=inputs, outputs=outputs)


def test_declared_settings_are_passed_whole() -> None:
    x = TensorSpec(name="x", datatype="FP32", shape=(4,))
    k = TensorSpec(name="k", datatype="FP32", shape=(-1,), batched=False)
    plan, _ = plan_of(lambda x, k: {"y": x * k.sum()}, [X, tensor("k", -1)], [Y], inputs=[x, k])
    assert (plan.mode, plan.unbatched_inputs) == ("Rows", {"k"})
