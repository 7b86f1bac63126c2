"""Whoever meets a reason finds it on the page for it."""

from __future__ import annotations

import re

from tests.house.commands import ROOT
from tests.house.reasons import all_words, found_reasons

PAGE = ROOT / "docs" / "troubleshooting.md"
ROW = re.compile(r"^\| `(\w+)` \| (.+) \| (.+) \|$", flags=re.M)


def test_every_reason_is_explained() -> None:
    explained = {reason for reason, _, _ in ROW.findall(PAGE.read_text())}
    missing = {reason: file for reason, file in found_reasons().items() if reason not in explained}
    assert not missing, "say on docs/troubleshooting.md what they mean and what to do (no reasons: reasons.OTHER)"


def test_the_page_explains_no_reason_that_is_gone() -> None:
    assert sorted({reason for reason, _, _ in ROW.findall(PAGE.read_text())} - all_words()) == []


def test_a_new_reason_would_be_found() -> None:
    assert {"InvalidSpec", "InputEmpty", "Estimated", "Held", "Placed", "NameTaken"} <= found_reasons().keys()
