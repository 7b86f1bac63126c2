"""`pip check` of the locked environment has nothing to say but what is known and told (`make audit`)."""

from __future__ import annotations

from importlib import metadata

import pytest

from e2e import unmet


def test_every_package_gets_what_it_asks_for_but_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert unmet.report() == 0, capsys.readouterr().out
    assert "rapidocr-onnxruntime asks for opencv-python, there is nothing" in capsys.readouterr().out


def test_another_one_is_told_and_fails_and_so_does_a_known_one_that_is_met(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(unmet, "KNOWN", {("click", "nothing-of-the-kind"): "so it is"})
    assert unmet.report() == 1
    said = capsys.readouterr().out
    assert "opencv-python, there is nothing: NOT KNOWN" in said
    assert "click gets nothing-of-the-kind now" in said


def test_versions_count(monkeypatch: pytest.MonkeyPatch) -> None:
    class Package:
        name, version, requires = "one", "1.0", ["two>=2", "three; extra == 'more'"]

    class Other(Package):
        name, requires = "Two", []

    monkeypatch.setattr(metadata, "distributions", lambda: [Package(), Other()])
    assert list(unmet.unmet()) == [("one", "two", "1.0")]
