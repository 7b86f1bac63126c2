"""Names of scripts' modules and how Python finds them.

Every part of such a name is text in an encoding that says all, so that nothing needs to be handed to a process that
finds a class by its name: letters and digits stand for themselves, any other byte is `_` and two hexadecimal digits.
"""

from __future__ import annotations

import builtins
import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, Final

_MODEL: Final = "model_"
_FOLDER: Final = "in_"
"""Prefixes of the first two parts, which are no files: they keep apart what is a script's from what is this room's."""


def module_name(package: str, model: str, path: Path) -> str:
    """Name of the module of this script, an absolute path that ends in `.py`."""
    stem = path.stem if path.stem.isidentifier() else _encoded(path.stem)
    return f"{package}.{_MODEL}{_encoded(model)}.{_FOLDER}{_encoded(str(path.parent))}.{stem}"


def forget(package: str, model: str) -> None:
    """Drop the modules of this model's scripts and of their neighbours; who holds their objects keeps them."""
    root = f"{package}.{_MODEL}{_encoded(model)}"
    for name in [each for each in sys.modules if each == root or each.startswith(f"{root}.")]:
        del sys.modules[name]
    importlib.invalidate_caches()  # a file may be younger than what the path's finders have listed


def install(package: str) -> None:
    """Make the names importable below `package`; once per process."""
    sys.meta_path.insert(0, _ScriptFinder(package))


class _ScriptFinder:
    """Finds `PACKAGE.model_M.in_F.anything`; what lies deeper is left to the usual finder, but not to its caches."""

    def __init__(self, package: str) -> None:
        self._prefix = f"{package}."

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As importlib calls it."""
        parts = name.removeprefix(self._prefix).split(".")
        if not name.startswith(f"{self._prefix}{_MODEL}"):
            return None
        if len(parts) == 1:
            return _folder_spec(name, [])
        if len(parts) == 2:
            return _folder_spec(name, [_decoded(parts[1].removeprefix(_FOLDER))])
        namespace = ".".join(name.split(".")[: -len(parts) + 2])
        return _spec(name, path, namespace)


def _folder_spec(name: str, locations: list[str]) -> ModuleSpec:
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = locations
    return spec


def _spec(name: str, path: Sequence[str] | None, namespace: str) -> ModuleSpec | None:
    spec = PathFinder.find_spec(name, path)
    if spec is None and path:
        # A script whose file's name is no identifier, `my-model.v2.py`: its name is encoded.
        file = Path(path[0], f"{_decoded(name.rpartition('.')[2])}.py")
        spec = ModuleSpec(name, None, origin=str(file)) if file.is_file() else None
        if spec is not None:
            spec.has_location = True
            spec.loader = _ScriptLoader(name, str(file), namespace)
    elif spec is not None and isinstance(spec.loader, SourceFileLoader):
        spec.loader = _ScriptLoader(name, spec.loader.path, namespace)
    return spec


class _ScriptLoader(SourceFileLoader):
    """Reads the source itself (a folder that somebody mounts must not get caches, nor be trusted to hold none), and
    gives the module an `import` that looks beside the script first."""

    def __init__(self, name: str, path: str, namespace: str) -> None:
        super().__init__(name, path)
        self._namespace = namespace

    def get_code(self, fullname: str) -> Any:
        """As SourceLoader.get_code, never from a cache."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def exec_module(self, module: ModuleType) -> None:
        """As SourceLoader.exec_module; functions of the module take `__builtins__` from its globals, too."""
        own_import = _Import(self._namespace, module.__name__)
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": own_import}
        super().exec_module(module)


class _Import:
    """`__import__` of a script: a file or package of the script's folder goes before an installed one, as when Python
    runs a script. A module of the name that the script itself has is the installed one."""

    def __init__(self, namespace: str, module: str) -> None:
        self._namespace = namespace
        self._module = module
        self._beside: dict[str, bool] = {}

    def __call__(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002 - as the language calls it
        locals: Mapping[str, Any] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        head = name.partition(".")[0]
        if level or not self._is_beside(head):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        whole = f"{self._namespace}.{name}"
        if fromlist:
            return builtins.__import__(whole, globals, locals, fromlist, 0)
        importlib.import_module(whole)
        return sys.modules[f"{self._namespace}.{head}"]

    def _is_beside(self, head: str) -> bool:
        """Asked at each import that runs, also within functions: answered once per name."""
        found = self._beside.get(head)
        if found is None:
            found = self._beside[head] = self._module != f"{self._namespace}.{head}" and self._has(head)
        return found

    def _has(self, head: str) -> bool:
        # A folder without __init__.py is data (`tokenizer/`), not a package.
        spec = PathFinder.find_spec(f"{self._namespace}.{head}", sys.modules[self._namespace].__path__)
        return spec is not None and spec.origin is not None


def _encoded(text: str) -> str:
    return re.sub(rb"[^A-Za-z0-9]", lambda found: b"_%02x" % found[0][0], text.encode()).decode()


def _decoded(text: str) -> str:
    return re.sub(rb"_([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), text.encode()).decode()
