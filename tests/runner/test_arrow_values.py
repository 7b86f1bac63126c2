"""Values of Parquet and Arrow that Python has no type for: text where nothing is lost, else that record's error."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.steps.plan import make_plan
from tests.runner.bench import Bench
from tests.runner.test_input_as_found import IDENTITY, items

NOT_UTF8 = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 3], np.int32).tobytes()), pa.py_buffer(b"a\xff\xfe")]
)


def job(folder: Path, form: str, table: Any) -> Bench:
    made = Bench(folder, (IDENTITY,), input_format=form)
    made.input.mkdir()
    if form == "parquet":
        parquet.write_table(table, made.input / "x.parquet")
    else:
        with pa.ipc.new_file(str(made.input / "x.arrow"), table.schema) as file:
            file.write_table(table)
    return made


EPOCH = dt.datetime(1970, 1, 1)
IN_UTC = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
TIMES = [
    (pa.timestamp("ns"), [0, 1], [EPOCH, "1970-01-01 00:00:00.000000001"]),
    (pa.timestamp("ns", "UTC"), [0, 1], [IN_UTC, "1970-01-01 00:00:00.000000001Z"]),
    (pa.duration("ns"), [1000, 1], [dt.timedelta(microseconds=1), "1"]),
    (pa.time64("ns"), [0, 1], [dt.time(0), "00:00:00.000000001"]),
    (
        pa.struct([("t", pa.list_(pa.timestamp("ns")))]),
        [{"t": [0]}, {"t": [1]}],
        [{"t": [EPOCH]}, {"t": ["1970-01-01 00:00:00.000000001"]}],
    ),
]


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize(("kind", "values", "wanted"), TIMES, ids=[str(kind) for kind, _, _ in TIMES])
def test_nanoseconds_are_kept(tmp_path: Path, form: str, kind: Any, values: list[Any], wanted: list[Any]) -> None:
    found = items(job(tmp_path, form, pa.table({"id": ["a", "b"], "t": pa.array(values, kind)})))
    assert [item.data["t"] for item in found] == wanted
    assert [type(item.data["t"]) for item in found] == [type(each) for each in wanted]


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize(
    "column",
    [pa.array([0, 2**30], pa.date32()), pa.array([0, 2**62], pa.timestamp("us")), NOT_UTF8],
    ids=["date", "timestamp", "text that is none"],
)
def test_a_value_without_any_form_is_the_error_of_its_record(tmp_path: Path, form: str, column: Any) -> None:
    good, bad = items(job(tmp_path, form, pa.table({"id": ["a", "b"], "odd": column})))
    assert (good.id, good.error) == ("a", "")
    assert bad.id.endswith(":1")
    assert "column 'odd'" in bad.error


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_an_id_that_is_no_text_does_not_end_the_plan(tmp_path: Path, form: str) -> None:
    good, bad = items(job(tmp_path, form, pa.table({"id": NOT_UTF8})))
    assert (good.id, good.error) == ("a", "")
    assert "column 'id'" in bad.error


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize("nested", [False, True])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, form: str, nested: bool) -> None:
    arrays, names = [pa.array([1]), pa.array([2])], ["v", "v"]
    table = pa.Table.from_arrays(arrays, names)
    if nested:
        table = pa.table({"l": pa.ListArray.from_arrays([0, 1], pa.StructArray.from_arrays(arrays, names))})
    with pytest.raises(StepFailed, match="two columns 'v'") as refused:
        make_plan(job(tmp_path, form, table).job())
    assert refused.value.reason == "InputInvalid"


def test_the_values_are_the_same_without_pandas(tmp_path: Path) -> None:
    """As in the runner's image."""
    made = job(tmp_path, "parquet", pa.table({"id": ["a", "b"], "t": pa.array([1000, 1], pa.timestamp("ns"))}))
    program = """
import sys
from pathlib import Path

class NoPandas:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pandas":
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, NoPandas())
from tests.runner.bench import Bench
from tests.runner.test_input_as_found import IDENTITY, items
for item in items(Bench(Path(sys.argv[1]), (IDENTITY,), input_format="parquet")):
    print(repr(item.data["t"]))
"""
    ran = subprocess.run([sys.executable, "-c", program, str(made.folder)], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == [
        "datetime.datetime(1970, 1, 1, 0, 0, 0, 1)",
        "'1970-01-01 00:00:00.000000001'",
    ]
