"""The emulated device may become slower or faster in mid-run: for benches."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchwright_worker.backends.emulated_speed import ENV_EMULATED_SPEED, EmulatedSpeed, SpeedSource

SPEED = EmulatedSpeed(fixed_microseconds=10_000, per_row_microseconds=2_000)


def replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def test_without_a_file_it_is_the_artifacts_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SpeedSource(SPEED).now().seconds(5) == 0.020
    monkeypatch.setenv(ENV_EMULATED_SPEED, str(tmp_path / "none.json"))
    assert SpeedSource(SPEED).now() == SPEED


def test_each_new_file_holds_from_the_next_batch_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "speed.json"
    monkeypatch.setenv(ENV_EMULATED_SPEED, str(path))
    source = SpeedSource(SPEED)
    assert source.now() == SPEED
    for fixed in (20_000, 30_000):
        replace(path, f'{{"fixedMicroseconds": {fixed}, "perRowMicroseconds": 4000}}')
        assert source.now().seconds(10) == pytest.approx(fixed / 1e6 + 0.040)


def test_a_file_that_is_no_speed_is_told_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    path.write_text('{"fixed": 1}')
    with pytest.raises(ValueError, match=r"is no speed: .*fixed.*; write"):
        SpeedSource(SPEED, str(path)).now()
