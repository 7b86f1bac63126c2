"""What a model's script may do that any Python program does: its own classes by name, neighbours, packages."""

from __future__ import annotations

import multiprocessing
import pickle
import typing
from pathlib import Path
from typing import Any

import pytest

from batchwright_worker.backends.base import LoadError
from batchwright_worker.backends.scripts import script
from batchwright_worker.ipc.messages import ModelSource

DATACLASS = """
from __future__ import annotations
from dataclasses import dataclass, field
from typing import ClassVar

@dataclass
class Settings:
    factor: float = 2.0
    names: list[str] = field(default_factory=list)
    known: ClassVar[int] = 3

def doubled(settings: Settings) -> Settings:
    return Settings(settings.factor * 2)
"""


def loaded(path: Path, text: str | None = None, *, model: str = "m") -> Any:
    """The module of a script at this path, written first if a text is given."""
    if text is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return script(ModelSource(name=model, format="python", path="", inputs=[], outputs=[], script=str(path)))


def test_a_dataclass_with_annotations_as_text(tmp_path: Path) -> None:
    module = loaded(tmp_path / "model.py", DATACLASS)
    assert module.Settings(3.0).factor == 3.0
    assert typing.get_type_hints(module.Settings) == {
        "factor": float,
        "names": list[str],
        "known": typing.ClassVar[int],
    }


def test_an_object_of_its_classes_survives_pickle(tmp_path: Path) -> None:
    module = loaded(tmp_path / "model.py", DATACLASS)
    assert pickle.loads(pickle.dumps(module.Settings(3.0))) == module.Settings(3.0)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_processes_that_it_starts_know_its_classes(method: str, tmp_path: Path) -> None:
    loaded(tmp_path / "settings.py", DATACLASS)
    module = loaded(tmp_path / "my-model.v2.py", "from settings import Settings, doubled\n")
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.map(module.doubled, [module.Settings(3.0)]) == [module.Settings(6.0)]


def test_scripts_of_one_name_with_neighbours_of_one_name(tmp_path: Path) -> None:
    modules = []
    for folder, value in (("a", 1), ("b", 2)):
        loaded(tmp_path / folder / "helper.py", f"VALUE = {value}\n")
        text = "import helper\ndef late():\n    from helper import VALUE\n    return VALUE\n"
        modules.append(loaded(tmp_path / folder / "model.py", text, model=folder))
    assert [module.helper.VALUE for module in modules] == [1, 2]
    assert [module.late() for module in modules] == [1, 2]


def test_models_that_share_a_script_share_none_of_its_globals(tmp_path: Path) -> None:
    one = loaded(tmp_path / "model.py", "STATE = []\n", model="one")
    two = loaded(tmp_path / "model.py", model="two")
    one.STATE.append(1)
    assert two.STATE == []


IMPORTS = {
    "a package beside it": ("import parts.inner as inner\nfound = inner.VALUE", 7),
    "a package's module by name": ("from parts import inner\nfound = inner.VALUE", 7),
    "the package itself": ("import parts.inner\nfound = parts.inner.VALUE + parts.ROOT", 8),
    "a neighbour of a neighbour": ("from first import VALUE as found", 5),
    "relative to the folder": ("from .second import VALUE as found", 5),
    "an installed package whose name a folder of data has": ("import json\nfound = json.loads('4')", 4),
    "an installed package of the script's own name": ("import msgspec\nfound = msgspec.json.decode(b'6')", 6),
}


@pytest.mark.parametrize("case", IMPORTS)
def test_imports(case: str, tmp_path: Path) -> None:
    for name, text in {
        "json/tokenizer.txt": "data",
        "parts/__init__.py": "ROOT = 1\n",
        "parts/inner.py": "from second import VALUE as five\nVALUE = five + 2\n",
        "first.py": "from second import VALUE\n",
        "second.py": "VALUE = 5\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    text, value = IMPORTS[case]
    assert loaded(tmp_path / "msgspec.py", text).found == value


def test_a_script_is_read_anew_and_leaves_no_caches(tmp_path: Path) -> None:
    loaded(tmp_path / "helper.py", "VALUE = 1\n")
    assert loaded(tmp_path / "model.py", "from helper import VALUE\n").VALUE == 1
    (tmp_path / "helper.py").write_text("VALUE = 2\n")
    assert loaded(tmp_path / "model.py").VALUE == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["helper.py", "model.py"]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="there is no script at"):
        loaded(tmp_path / "none.py")
    with pytest.raises(LoadError, match="No module named 'nowhere'"):
        loaded(tmp_path / "model.py", "import nowhere\n")
