"""CSV as people and their tools write it: quotes that are characters, line ends that are none, other encodings."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.steps.plan import make_plan
from tests.runner.bench import Bench
from tests.runner.test_input_as_found import IDENTITY, items


def job(folder: Path, data: bytes, name: str = "x.csv", **more: Any) -> Bench:
    made = Bench(folder, (IDENTITY,), shard_size=2, input_format="csv", input_more=more)
    path = made.input / name
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return made


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b'id,t\n1,5" pipe\n2,b\n3,6" pipe\n', ['5" pipe', "b", '6" pipe']),
        (b'id,t\n1,5" pipe\n2,b\n3,c\n', ['5" pipe', "b", "c"]),
        (b'id,t\n1,"a ""b"", c"\n2,"""b"\n3,"b"""\n', ['a "b", c', '"b', 'b"']),
        (b'id,t\n1,"a\r\nb"\r\n2,"\r\n""\r\n"\r\n', ["a\r\nb", '\r\n"\r\n']),
        ("id,t\n1,a\u2028b\n2,a\x0bb\n3,a\x85b\n4,a\x1cb\n".encode(), ["a\u2028b", "a\x0bb", "a\x85b", "a\x1cb"]),
        ('id,t\n1,"a\u2029b"\n2,a\x00b\n'.encode(), ["a\u2029b", "a\x00b"]),
        (b"id,t\n\n1,a\n  \n2,\n", ["a", ""]),
    ],
    ids=[
        "odd quotes",
        "one quote",
        "doubled",
        "CRLF in quotes",
        "separators",
        "quoted separator and NUL",
        "blank lines",
    ],
)
def test_every_record_is_one_item_with_its_very_values(tmp_path: Path, data: bytes, wanted: list[str]) -> None:
    found = items(job(tmp_path, data))
    assert [item.error for item in found] == [""] * len(wanted)
    assert [item.data["t"] for item in found] == wanted
    assert [item.id for item in found] == [str(number + 1) for number in range(len(wanted))]


def test_tabs_with_nothing_between_them_are_a_record(tmp_path: Path) -> None:
    found = items(job(tmp_path, b"a\tb\n1\t2\n\t\n", "x.tsv"))
    assert [item.data for item in found] == [{"a": "1", "b": "2"}, {"a": "", "b": ""}]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_folder_has_no_say_in_the_separator(tmp_path: Path, pack: Any) -> None:
    found = items(job(tmp_path, pack(b"a,b\n1,2\n"), "in.tsv.d/x.csv"))
    assert [item.data for item in found] == [{"a": "1", "b": "2"}]


def test_a_quote_that_is_never_closed_says_how_much_is_in_it(tmp_path: Path) -> None:
    first, last = items(job(tmp_path, b'id,t\n1,a\n2,"open\n3,b\n4,c\n'))
    assert first.data == {"id": "1", "t": "a"}
    assert "of 3 lines" in last.error
    assert "quote" in last.error


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"id,t\r1,a\r2,b\r", "carriage return"),
        ("id,t\n1,a\n".encode("utf-16"), "UTF-16"),
        (b"\xfe\xff" + "id,t\n1,a\n".encode("utf-16-be"), "UTF-16"),
        (b"sep=,\nid,t\n1,a\n", "sep="),
    ],
    ids=["old Mac", "UTF-16", "UTF-16 BE", "Excel's line"],
)
def test_a_file_that_would_be_misread_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(StepFailed, match=words) as refused:
        make_plan(job(tmp_path, data).job())
    assert refused.value.reason == "InputInvalid"


@pytest.mark.parametrize(("form", "name"), [("jsonl", "x.jsonl"), ("text", "x.txt")])
def test_lines_of_utf16_are_refused(tmp_path: Path, form: str, name: str) -> None:
    made = job(tmp_path, '{"id":"1"}\n'.encode("utf-16"), name)
    made.input_format = form
    with pytest.raises(StepFailed, match="UTF-16"):
        make_plan(made.job())
