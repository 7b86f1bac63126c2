"""Functions of CPU tasks: built-ins by name, others as `module:callable`.

The contract of a function:

    def f(inputs: Mapping[str, Any], **args: Any) -> Any

`inputs` holds the result of each task of `dependsOn` under its name; a task without dependencies gets the item instead,
under "item": {"id": str, "data": payload}. The payload is bytes (images), a dict (jsonl, parquet), a str (text) or a
numpy array (npy). `args` are those of the manifest. The function must depend on its arguments only (it may be run
again after a crash, in any process) and its result must be picklable; what a sink returns goes to the output, so it
must be JSON-like (numpy values become lists). An exception makes the item an error record, nothing else.

A model task takes the result of its one dependency: one row {input name: array} (or the array alone if the model has
one input), or a list of rows (fan-out); its result has the same shape: {output name: array}, or a list of them in the
same order. Arrays are per row, without a batch dimension. Keys that the model has no input for stay behind.

A function may declare the row that it makes for a model: `@produces(x=("FP32", (3, 48, -1)))`. Declared rows are
compared with the model's metadata before the first item runs; every row is compared before it is sent.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from batchwright_worker.api.names import FUNCTIONS_DIR
from batchwright_worker.runner.errors import StepFailed

Function = Callable[..., Any]
RowType = Mapping[str, tuple[str, tuple[int, ...]]]
F = TypeVar("F", bound=Function)
_DECLARATION = "__batchwright_produces__"


def produces(**inputs: tuple[str, tuple[int, ...]]) -> Callable[[F], F]:
    """Declare the rows that a function makes: input name = (datatype, shape), -1 for a variable dimension."""

    def declare(function: F) -> F:
        setattr(function, _DECLARATION, dict(inputs))
        return function

    return declare


def declared_row(function: Function) -> RowType | None:
    """What `produces` declared for this function, None if nothing."""
    return getattr(function, _DECLARATION, None)


def add_paths(folders: Iterable[str]) -> None:
    """Make modules in these folders importable, in this order, before installed ones."""
    for folder in reversed([str(path) for path in folders]):
        if folder not in sys.path:
            sys.path.insert(0, folder)


def mounted_folders() -> list[str]:
    """Folders of the ConfigMaps that are mounted into this pod."""
    root = Path(FUNCTIONS_DIR)
    return sorted(str(path) for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def resolve(task: str, reference: str) -> Function:
    """The function of a task. Raises StepFailed(InvalidTask), which names the task and says what to do."""
    if ":" not in reference:
        return _builtin(task, reference)
    module_name, _, attribute = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise StepFailed("InvalidTask", _import_advice(task, reference, module_name, error)) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        own = (name for name, value in vars(module).items() if getattr(value, "__module__", "") == module_name)
        known = ", ".join(sorted(name for name in own if name[0] != "_"))
        message = f"task {task!r}: {module_name} has no function {attribute!r}; it has {known or 'none'}"
        raise StepFailed("InvalidTask", message)
    return function  # type: ignore[no-any-return]


def _builtin(task: str, name: str) -> Function:
    from batchwright_worker.runner.cpu.builtin import BUILTINS

    if name not in BUILTINS:
        known = ", ".join(sorted(BUILTINS))
        message = f"task {task!r}: {name!r} is no built-in ({known}); a function of yours is written module:callable"
        raise StepFailed("InvalidTask", message)
    target = BUILTINS[name]
    module, _, attribute = target.partition(":")
    function: Function = getattr(importlib.import_module(module), attribute)
    return function


def _import_advice(task: str, reference: str, module: str, error: Exception) -> str:
    what = f"task {task!r}: cannot import {reference!r}: {type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name == module.split(".", maxsplit=1)[0]:
        return f"{what}; put {module}.py into a ConfigMap of spec.runner.configMaps, or into the runner image"
    return f"{what}; correct the module or add what it needs to the runner image"


def source_digest(references: Iterable[str]) -> str:
    """Digest of the files that hold these functions, without importing them: results of other code do not mix."""
    digest = hashlib.sha256()
    for module in sorted({reference.partition(":")[0] for reference in references if ":" in reference}):
        digest.update(module.encode() + b"\0" + _source(module) + b"\0")
    return digest.hexdigest()


def _source(module: str) -> bytes:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return b""
    origin = Path(spec.origin) if spec is not None and spec.origin else None
    return origin.read_bytes() if origin is not None and origin.is_file() else b""
