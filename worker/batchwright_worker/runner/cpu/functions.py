"""Functions of CPU tasks: built-ins by name, others as `module:callable`.

The contract of a function:

    def f(inputs: Mapping[str, Any], **args: Any) -> Any

`inputs` holds the result of each task of `dependsOn` under its name; a task without dependencies gets the item instead,
under "item": {"id": str, "data": payload}. The payload is bytes (images), a dict (jsonl, parquet), a str (text) or a
numpy array (npy). `args` are those of the manifest. The function must depend on its arguments only (it may be run
again after a crash, in any process) and its result must be picklable; what a sink returns goes to the output, so it
must be JSON-like (numpy values become lists). An exception makes the item an error record, nothing else.

With `cpu.batch` a function takes the items of a block at once, in columns, and returns columns: `batches` says which.
If it raises, it is called again for each item alone, so that an item fails alone here too; so it must not depend on
which items come together.

A class in the place of a function is called with `args` once in each process, to load what its calls need; the object
is then called with `inputs` alone.

A model task takes the result of its one dependency: one row {input name: array} (or the array alone if the model has
one input), or a list of rows (fan-out); its result has the same shape: {output name: array}, or a list of them in the
same order. Arrays are per row, without a batch dimension. Keys that the model has no input for stay behind.

A function may declare the row that it makes for a model: `@produces(x=("FP32", (3, 48, -1)))`. Declared rows are
compared with the model's metadata before the first item runs; every row is compared before it is sent.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from batchwright_worker.api.names import FUNCTIONS_DIR
from batchwright_worker.artifacts.python_sources import digest_of_modules
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
    except (Exception, SystemExit) as error:
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


def prepare(reference: str, args: Mapping[str, Any]) -> None:
    """Load what a built-in reads before its first item comes. What cannot be loaded is that item's error."""
    if ":" in reference:
        return
    from batchwright_worker.runner.cpu.builtin import PREPARED

    if reference in PREPARED:
        module, _, attribute = PREPARED[reference].partition(":")
        with contextlib.suppress(Exception):
            getattr(importlib.import_module(module), attribute)(**args)


def _import_advice(task: str, reference: str, module: str, error: BaseException) -> str:
    what = f"task {task!r}: cannot import {reference!r}: {type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name == module.split(".", maxsplit=1)[0]:
        return f"{what}; put {module}.py into a ConfigMap of spec.runner.configMaps, or into the runner image"
    return f"{what}; correct the module or add what it needs to the runner image"


def check_arguments(
    task: str, reference: str, function: Function, args: Mapping[str, Any], *, batch: bool = False
) -> None:
    """Would the function take these arguments, and are the files there that built-ins read? Raises
    StepFailed(InvalidTask)."""
    problem = _unbound(function, args)
    if problem is not None:
        raise StepFailed("InvalidTask", f"task {task!r}: {reference} {problem}")
    if ":" in reference:
        return
    if batch:
        message = f"task {task!r}: {reference} is a built-in, which takes one item at a time: leave cpu.batch out"
        raise StepFailed("InvalidTask", message)
    from batchwright_worker.runner.cpu.builtin import FILE_ARGUMENTS, ONE_OF

    wanted = ONE_OF.get(reference, ())
    if wanted and sum(args.get(name) is not None for name in wanted) != 1:
        raise StepFailed("InvalidTask", f"task {task!r}: {reference} wants exactly one of args {', '.join(wanted)}")
    if args.get("tokenizer") is not None and importlib.util.find_spec("tokenizers") is None:
        message = f"task {task!r}: args.tokenizer needs the package tokenizers: add it to the runner's image"
        raise StepFailed("InvalidTask", message)
    for name in FILE_ARGUMENTS & args.keys():
        if args[name] is not None and not Path(str(args[name])).is_file():
            message = f"task {task!r}: args.{name} is {str(args[name])!r}, which is no file here ({Path.cwd()})"
            raise StepFailed("InvalidTask", f"{message}: write an absolute path, or mount it into the runner")


def _unbound(function: Function, args: Mapping[str, Any]) -> str | None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of some functions in C it cannot be told
        return None
    given: tuple[Any, ...] = () if inspect.isclass(function) else ({},)
    try:
        signature.bind(*given, **args)
    except TypeError as error:
        takes = list(signature.parameters)[len(given) :]
        return f"does not take these arguments: {error}; args may have {', '.join(takes) or 'nothing'}"
    return None


def code_digest(reference: str) -> str:
    """Digest of the function's module and of all that it imports from the user's folders; nothing is imported."""
    if ":" not in reference:
        from batchwright_worker.runner.cpu.builtin import BUILTINS

        reference = BUILTINS.get(reference, reference)
    return digest_of_modules([reference.partition(":")[0]])


def files_in(args: Any) -> Iterator[str]:
    """The arguments, however deep, that name files."""
    if isinstance(args, str):
        with contextlib.suppress(OSError, ValueError):  # too long for a path, or a zero byte in it
            if args and Path(args).is_file():
                yield args
    elif isinstance(args, Mapping):
        for value in args.values():
            yield from files_in(value)
    elif isinstance(args, list | tuple):
        for value in args:
            yield from files_in(value)
