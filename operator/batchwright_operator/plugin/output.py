"""How the plugin prints: tables as kubectl's, and everything as JSON or YAML for programs."""

from __future__ import annotations

import json
import re
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import click
import msgspec
import yaml

from batchwright_worker.texts import presentable

Command = TypeVar("Command", bound=Callable[..., Any])
Form = Literal["wide", "json", "yaml"] | None
GAP: Final = 2
NARROWEST: Final = 8
"""A cell is not shortened below this."""
_LONGEST: Final = 1 << 16
_UNFIT: Final = re.compile(r"[\x7f-\x9f\ud800-\udfff]")
"""What JSON leaves as it is, and a terminal or an encoding does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableColumn:
    """A column of a table. Of those that do not fit a terminal, the one of greatest `rank` goes first; rank 0 stays,
    and is shortened instead. `wide`: shown by `-o wide` alone. `right`: numbers."""

    title: str
    rank: int = 0
    wide: bool = False
    right: bool = False


def output_option(command: Command) -> Command:
    """`-o`, which every command that shows something has; the argument is `form`."""
    option = click.option(
        "-o", "--output", "form", type=click.Choice(["wide", "json", "yaml"]), default=None, help="Else: for people."
    )
    return option(command)


def print_document(value: Any, form: Form) -> bool:
    """Prints `value` if a form for programs is wanted; whether it did."""
    if form not in ("json", "yaml"):
        return False
    plain = msgspec.to_builtins(value, str_keys=True)
    if form == "json":
        text = json.dumps(plain, indent=2, ensure_ascii=False)
        click.echo(_UNFIT.sub(lambda found: f"\\u{ord(found[0]):04x}", text))
    else:
        click.echo(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), nl=False)
    return True


def one_line(text: str) -> str:
    """A text out of a cluster, where anybody may have written it, as one line that moves no cursor of a terminal,
    changes no title and hides nothing."""
    return " ".join(presentable(text, _LONGEST).split())


def print_table(columns: Sequence[TableColumn], rows: Iterable[Sequence[str]], form: Form = None) -> None:
    """On a terminal as wide as that is; whole where another program reads it."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in table(columns, rows, width=width, wide=form == "wide"):
        click.echo(line)


def table(
    columns: Sequence[TableColumn], rows: Iterable[Sequence[str]], *, width: int | None = None, wide: bool = False
) -> list[str]:
    """Lines of a table, a row for each, none longer than `width`: columns are left out by their rank, then cells are
    shortened in the middle. None: whatever length it takes."""
    body = [[one_line(cell) for cell in row] for row in rows]
    shown = [n for n, column in enumerate(columns) if wide or not column.wide]
    sizes = [max(cells(row[n]) for row in [[each.title for each in columns], *body]) for n in range(len(columns))]
    while width is not None and _total(shown, sizes) > width:
        last = max(shown, key=lambda n: (columns[n].rank, n))
        if columns[last].rank == 0:
            break
        shown.remove(last)
    while width is not None and _total(shown, sizes) > width:
        longest = max(shown, key=lambda n: sizes[n])
        if sizes[longest] <= NARROWEST:
            break
        sizes[longest] -= 1
    titles = [column.title for column in columns]
    return [_line(columns, shown, sizes, row) for row in (titles, *body)]


def _total(shown: Sequence[int], sizes: Sequence[int]) -> int:
    return sum(sizes[n] for n in shown) + GAP * (len(shown) - 1)


def _line(columns: Sequence[TableColumn], shown: Sequence[int], sizes: Sequence[int], row: Sequence[str]) -> str:
    written = []
    for n in shown:
        text = shortened(row[n], sizes[n])
        room = " " * (sizes[n] - cells(text))
        written.append(room + text if columns[n].right else text + room)
    return (" " * GAP).join(written).rstrip()


def shortened(text: str, width: int) -> str:
    """At most `width` cells of a terminal; what is left out of the middle is a sign: names differ at their ends."""
    if cells(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{_beginning(text, width - 1 - tail)}…{_beginning(text[::-1], tail)[::-1]}"


def cells(text: str) -> int:
    """How wide a terminal shows it: an ideograph takes two cells, an accent of its own none."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def _cells(letter: str) -> int:
    if unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _beginning(letters: str, room: int) -> str:
    """As many letters as fit into so many cells."""
    for count, letter in enumerate(letters):
        room -= _cells(letter)
        if room < 0:
            return letters[:count]
    return letters


def age(seconds: float) -> str:
    """As kubectl writes it: 12s, 3m, 5h, 2d."""
    for limit, unit, size in ((120, "s", 1), (120 * 60, "m", 60), (48 * 3600, "h", 3600)):
        if seconds < limit:
            return f"{max(0.0, seconds) / size:.0f}{unit}"
    return f"{seconds / 86400:.0f}d"
