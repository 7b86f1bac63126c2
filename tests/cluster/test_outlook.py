"""`make demo` and `make test` say what they will build and how long that took elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from e2e import outlook
from e2e.cluster.build import components
from e2e.outlook import Part, duration, told

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("seconds", "said"), [(5, "5 s"), (90, "1.5 min"), (600, "10 min")])
def test_durations_are_short(seconds: int, said: str) -> None:
    assert duration(seconds) == said


def test_what_is_cached_costs_nothing() -> None:
    parts = [Part(name="kubernetes", seconds=310, there=True), Part(name="kwok", seconds=60, there=False)]
    first, *rest = told("make x", parts, "the rest", 120)
    assert first.startswith("== make x: about 3 min")
    assert rest == ["   cached: kubernetes", "   to build: kwok, about 1 min", "   then: the rest, about 2 min"]


def test_an_empty_cache_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for parts in (outlook.of_demo(), outlook.of_test()):
        assert not [part.name for part in parts if part.there]
        assert all(part.seconds for part in parts)


def test_the_suite_announces_all_that_its_tests_fetch() -> None:
    sources = [path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    peers = {name for text in sources for name in re.findall(r'peer_python\("([\w-]+)"\)', text)}
    packages = {
        name for text in sources for name in re.findall(r"""\b(?:unpacked|program)\(["']([\w-]+)["']\)""", text)
    }
    announced = {part.name for part in outlook.of_test()}
    assert peers
    assert all(any(name in one for one in outlook.PEERS) for name in peers)
    programs = {program for component in components.CATALOGUE.values() for program in component.programs}
    assert packages - programs == set(outlook.PACKAGES)
    assert set(components.CATALOGUE) <= announced
