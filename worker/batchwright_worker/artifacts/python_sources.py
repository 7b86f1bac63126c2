"""The files that a Python module consists of: itself, and what it imports from folders that are the user's own.

Found by reading, never by importing: the same in every process, whatever has been imported there before. An import
that is computed when the code runs is not seen.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Final

_OURS: Final = __name__.partition(".")[0]
_INSTALLED: Final = (
    *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    Path(__file__).resolve().parents[1],
)


def sources_of(modules: Iterable[str]) -> dict[str, Path]:
    """Module -> file of these modules and of all that they import; of installed packages only those named here, with
    what they import of their own package."""
    importlib.invalidate_caches()
    found: dict[str, Path] = {}
    pending = list(dict.fromkeys(modules))
    own = {_family(name) for name in pending}
    while pending:
        name = pending.pop()
        path = None if name in found else _file_of(name)
        if path is None or (_is_installed(path) and _family(name) not in own):
            continue
        found[name] = path
        pending += _parents(name)
        pending += _imports(name, path)
    return found


def digest_of_modules(modules: Iterable[str]) -> str:
    """SHA-256 over names and contents of `sources_of`."""
    digest = hashlib.sha256()
    for name, path in sorted(sources_of(modules).items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _family(module: str) -> str:
    """What is followed together: a package with all that is below it, of our own package one room."""
    top, _, rest = module.partition(".")
    return module.rpartition(".")[0] if top == _OURS and rest else top


def _file_of(module: str) -> Path | None:
    try:
        spec = _spec_of(module)
    except (ImportError, ValueError, AttributeError):
        return None
    path = Path(spec.origin) if spec is not None and spec.origin else None
    return path if path is not None and path.is_file() else None


def _spec_of(module: str) -> ModuleSpec | None:
    """Package by package: `importlib.util.find_spec` imports those above, and believes what is imported already."""
    top, *below = module.split(".")
    # an editable installation is found by a finder of its own
    spec = PathFinder.find_spec(top) or importlib.util.find_spec(top)
    for count in range(1, len(below) + 1):
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(".".join([top, *below[:count]]), list(spec.submodule_search_locations))
    return spec


def _is_installed(path: Path) -> bool:
    resolved = path.resolve()
    return any(resolved.is_relative_to(folder) for folder in _INSTALLED)


def _parents(module: str) -> list[str]:
    """Packages are run before what lies in them."""
    names = module.split(".")
    return [".".join(names[:count]) for count in range(1, len(names))]


def _imports(module: str, path: Path) -> Iterator[str]:
    if path.suffix != ".py":
        return
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return  # it cannot be imported either; its own contents are in the digest
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from _from(node, package)


def _from(node: ast.ImportFrom, package: str) -> Iterator[str]:
    """`from a import b`: b may be a name in a, or a module."""
    base = node.module or ""
    if node.level:
        parents = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*parents, *([base] if base else [])])
    if base:
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
