"""What a model was made of, as one digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from batchwright_worker.ipc.messages import EmulatedSource, ModelSource
from batchwright_worker.runtime.model_digests import ModelDigests

WEIGHTS = b"weights"


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    (tmp_path / "m.pt").write_bytes(WEIGHTS)
    return ModelSource(name="m", format="torchscript", path=str(tmp_path / "m.pt"), inputs=[], outputs=[])


def test_of_a_file_it_is_its_sha256(source: ModelSource) -> None:
    assert ModelDigests().begin(source)() == hashlib.sha256(WEIGHTS).hexdigest()


def test_another_file_of_the_same_name_and_size_is_another_one(source: ModelSource) -> None:
    digests = ModelDigests()
    before = digests.begin(source)()
    replacement = Path(source.path).with_name("new")
    replacement.write_bytes(b"WEIGHTS")
    replacement.replace(source.path)
    assert digests.begin(source)() == hashlib.sha256(b"WEIGHTS").hexdigest() != before


def test_what_the_manifest_wants_is_taken_as_it_is(source: ModelSource) -> None:
    wanted = msgspec.structs.replace(source, sha256="ab" * 32, path="/nowhere")
    assert ModelDigests().begin(wanted)() == "ab" * 32


def test_a_script_and_the_figures_of_an_emulated_model_count(source: ModelSource, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("A = 1")
    scripted = msgspec.structs.replace(source, script=str(script))
    emulated = ModelSource(
        name="m", format="emulated", path="", inputs=[], outputs=[], emulated=EmulatedSource(1, 0, 0, 0, 0)
    )
    slower = msgspec.structs.replace(emulated, emulated=EmulatedSource(2, 0, 0, 0, 0))
    found = [ModelDigests().begin(each)() for each in (source, scripted, emulated, slower)]
    script.write_text("A = 2")
    found.append(ModelDigests().begin(scripted)())
    assert len(set(found)) == 5
    assert all(found)


def test_what_is_not_there_has_none(source: ModelSource) -> None:
    assert not ModelDigests().begin(msgspec.structs.replace(source, path="/nowhere/m.pt"))()
