"""The models' scripts as modules, each model's under a name of its own.

A script is the module `batchwright_worker.backends.scripts.MODEL.FOLDER.SCRIPT` (encoded, see `finder`): so it is in
`sys.modules`, where dataclasses, `typing.get_type_hints` and pickle look for it; scripts of one file name do not meet;
and a process that multiprocessing spawns finds its classes by that name, because importing this package is what makes
the name importable. Within a script, `import helper` is the file beside it where there is one.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from batchwright_worker.backends.base import LoadError
from batchwright_worker.backends.scripts.finder import forget, install, module_name
from batchwright_worker.ipc.messages import ModelSource

__all__ = ["attribute", "check_declared", "script"]

install(__name__)


def script(source: ModelSource) -> ModuleType:
    """The artifact's script as a module: that of a file is read anew, with its neighbours. Raises LoadError if it is
    missing or cannot be imported."""
    if not source.script:
        raise LoadError(
            f"model {source.name!r}: format {source.format} needs `script` (module, configMapKeyRef or file)"
        )
    try:
        if source.script.endswith(".py"):
            return _from_file(source.name, Path(source.script).absolute())
        return importlib.import_module(source.script)
    except Exception as error:
        raise LoadError(f"script {source.script!r} cannot be imported: {type(error).__name__}: {error}") from error


def check_declared(source: ModelSource) -> None:
    """Raises LoadError unless the manifest says what goes in and comes out: a script alone does not."""
    if not source.inputs or not source.outputs:
        raise LoadError(f"model {source.name!r}: a python model must declare `inputs` and `outputs`")


def attribute(module: ModuleType, name: str, source: ModelSource) -> Any:
    """An attribute of the script. Raises LoadError if it lacks it."""
    found = getattr(module, name, None)
    if not callable(found):
        raise LoadError(f"script {source.script!r} defines no class {name!r}")
    return found


def _from_file(model: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise LoadError(f"there is no script at {path}")
    # A model that is loaded again begins afresh: with the script as it is now, and without the old module's globals.
    forget(__name__, model)
    return importlib.import_module(module_name(__name__, model, path))
