"""A model task of a block: whatever its items give and however rows are sent, each gets the outputs of its own rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.runner.errors import TaskFailed
from batchwright_worker.runner.graph.block_values import BlockValues
from batchwright_worker.runner.models.call import ModelCall, Outputs, PendingRows
from batchwright_worker.runner.models.client import divided
from batchwright_worker.runner.models.row_block import asked_rows
from batchwright_worker.runner.models.signature import InputSignature, TensorType, rows_of
from batchwright_worker.runner.progress import TaskCounters

X = TensorType(name="x", datatype="FP32", shape=(-1,))
SIGNATURE = InputSignature(deployment="d", model="m", inputs=(X,))
numbers = st.one_of(st.integers(-(2**60), 2**60), st.floats(width=32, allow_nan=False), st.booleans(), st.just("text"))
json_rows = st.lists(numbers, min_size=1, max_size=3)
array_rows = st.builds(
    lambda n, start: np.arange(start, start + n, dtype=np.float32), st.integers(1, 3), st.integers(0, 9)
)
records = st.one_of(
    st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=2).map(lambda row: {"x": row}), max_size=6),
    st.lists(
        st.one_of(
            json_rows.map(lambda row: {"x": row, "more": 1}),
            array_rows.map(lambda row: {"x": row}),
            array_rows,
            st.lists(array_rows, max_size=3),
            st.just({"y": [1]}),
        ),
        max_size=6,
    ),
)


def summed(rows: PendingRows) -> Outputs:
    """What a model would give: of each row its sum and its length."""
    array = rows.block.inputs[0][1][rows.start : rows.end]
    total = array.sum(axis=1, dtype=np.float64)
    return {"sum": total, "length": np.full(len(rows), array.shape[1])}


def alone(value: Any) -> tuple[Any, str | None]:
    """What one item must get, and its error."""
    try:
        rows, many = rows_of(value, SIGNATURE)
    except TaskFailed as error:
        return None, str(error)
    answers = [{"sum": row[0][1].sum(dtype=np.float64), "length": row[0][1].size} for row in rows]
    return (answers if many else answers[0]), None


@given(records, st.data())
def test_every_item_gets_the_outputs_of_its_own_rows(values: list[Any], draw: st.DataObject) -> None:
    ended: list[tuple[BlockValues, dict[int, str]]] = []
    items = [2 * number for number in range(len(values))]
    call = ModelCall(
        asked_rows(BlockValues(items, rows=values), items, SIGNATURE),
        TaskCounters(name="m", kind="Model"),
        lambda *end: ended.append(end),
    )
    bad = draw.draw(st.integers(0, 8))  # the row of this length is refused
    pending = call.pending()
    while pending:
        rows = pending.pop(draw.draw(st.integers(0, len(pending) - 1)))
        if len(rows) > 1 and draw.draw(st.booleans()):
            (first,), rest = divided([rows], draw.draw(st.integers(1, len(rows) - 1)))
            pending += [first, *rest]
        elif rows.block.inputs[0][1].shape[1] == bad:
            rows.failed("bad row")
        else:
            rows.done(summed(rows), len(rows), len(rows))
    if not call.asked.rows:
        call.finish()
    ((answers, failed),) = ended
    for item, value in zip(items, values, strict=True):
        wanted, error = alone(value)
        listed = wanted if isinstance(wanted, list) else [wanted] if wanted is not None else []
        refused = [number for number, row in enumerate(listed) if row["length"] == bad]
        if refused:
            error = f"row {refused[0]}: bad row" if isinstance(wanted, list) else "bad row"
        assert failed.get(item) == error
        if error is None:
            assert answers.value(item) == wanted
        else:
            assert item not in answers.items


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 30))
def test_rows_are_divided_where_it_is_said(lengths: list[int], count: int) -> None:
    column = np.zeros((sum(lengths), 2), np.float32)
    asked = asked_rows(BlockValues(range(len(column)), columns={"x": column}), range(len(column)), SIGNATURE)
    (rows,) = ModelCall(asked, TaskCounters(name="m", kind="Model"), lambda *_: None).pending()
    parts, rest = [], rows
    for length in lengths[:-1]:
        first, rest = rest.split(length)
        parts.append(first)
    taken, left = divided([*parts, rest], count)
    places = [place for part in (*taken, *left) for place in range(part.start, part.end)]
    assert places == list(range(sum(lengths)))
    assert sum(map(len, taken)) == min(count, sum(lengths))
