"""Tables of the plugin fit the terminal that they are shown on, and are whole for programs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_operator.plugin.output import TableColumn, age, cells, shortened, table

COLUMNS = (
    TableColumn(title="NODE"),
    TableColumn(title="PRODUCT", rank=2),
    TableColumn(title="IMAGES/S", right=True),
    TableColumn(title="SAMPLE", rank=1),
    TableColumn(title="UID", wide=True),
)
ROW = ["ip-10-0-12-201.eu-central-1.compute.internal", "NVIDIA H200 141GB HBM3e", "1234.5", "3s ago", "0f-7"]


def test_a_table_for_a_program_is_whole() -> None:
    title, row = table(COLUMNS, [ROW])
    assert title.split() == ["NODE", "PRODUCT", "IMAGES/S", "SAMPLE"]
    assert row.split("  ")[0] == ROW[0]
    assert ROW[1] in row
    assert ROW[4] not in row


def test_wide_shows_every_column() -> None:
    assert "UID" in table(COLUMNS, [ROW], wide=True)[0]


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (100, ["NODE", "PRODUCT", "IMAGES/S", "SAMPLE"]),
        (80, ["NODE", "IMAGES/S", "SAMPLE"]),
        (60, ["NODE", "IMAGES/S"]),
    ],
)
def test_on_a_terminal_columns_go_by_their_rank(width: int, titles: list[str]) -> None:
    assert table(COLUMNS, [ROW], width=width)[0].split() == titles


def test_what_stays_is_shortened_in_the_middle() -> None:
    _, row = table(COLUMNS, [ROW], width=40)
    assert row.startswith("ip-10-0-12-201")
    assert "internal  " in row
    assert row.endswith("1234.5")


@given(st.integers(30, 200), st.lists(st.lists(st.text("abc", max_size=60), min_size=5, max_size=5), max_size=5))
def test_no_line_is_longer_than_the_terminal(width: int, rows: list[list[str]]) -> None:
    lines = table(COLUMNS, rows, width=width)
    assert len(lines) == len(rows) + 1
    assert max(map(len, lines)) <= width


@given(st.text(max_size=40), st.integers(1, 40))
def test_a_shortened_text_keeps_both_ends(text: str, width: int) -> None:
    short = shortened(text, width)
    assert min(cells(text), width - 2) <= cells(short) <= width  # half an ideograph is none
    assert cells(text) <= width or text.startswith(short.partition("…")[0])


def test_columns_stand_below_each_other_whatever_the_letters() -> None:
    """In cells of a terminal: ideographs take two, accents of their own none."""
    rows = [[name, "", "1.0", "3s ago", ""] for name in ("鯤鵬 920 " * 9, "cafe\u0301", "node-a")]
    lines = table(COLUMNS, rows, width=80)
    assert max(map(cells, lines)) <= 80
    assert len({cells(line.partition("1.0")[0]) for line in lines[1:]}) == 1


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172800, "2d"), (-3, "0s")]
)
def test_ages_are_kubectls(seconds: float, said: str) -> None:
    assert age(seconds) == said
