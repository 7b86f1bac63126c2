"""`kubectl batchwright` as one file, which needs nothing but a Python: a zipapp of the plugin's part of the operator
and of the locked packages that it imports.

Packages are in it as Python alone (aiohttp and those below it do without their extensions), but for msgspec, of which
the builds for all PYTHONS and PLATFORMS are. Of the official client there is the part that reads a kubeconfig.
The same sources and locks make the same file, byte for byte.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from e2e.release.chart import version

ROOT = Path(__file__).resolve().parents[2]
NAME = "kubectl-batchwright"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = {
    "x86_64-manylinux2014": "x86_64",
    "aarch64-manylinux2014": "aarch64",
    "x86_64-unknown-linux-musl": "x86_64",
    "aarch64-unknown-linux-musl": "aarch64",
    "x86_64-apple-darwin": "x86_64",
    "aarch64-apple-darwin": "arm64",
}
"""As uv names them -> as the machine names itself."""
PURE = (
    "aiohappyeyeballs", "aiohttp", "aiohttp-retry", "aiosignal", "attrs", "click", "frozenlist", "idna", "kubernetes",
    "multidict", "prometheus-client", "propcache", "pyyaml", "typing-extensions", "yarl",
)  # fmt: skip
NATIVE = ("msgspec",)
OPERATOR = ROOT / "operator" / "batchwright_operator"
WORKER = ROOT / "worker" / "batchwright_worker"
LEFT_OUT = ("crds", "process", "__main__.py")
"""Of the operator: what runs it."""
OF_WORKER = ("__init__.py", "api", "dashboard", "mann_kendall.py", "texts", "texts.py")
OF_KUBERNETES = re.compile(
    r"kubernetes/aio/(config/[a-z_]+\.py|client/(configuration|rest|exceptions)\.py|utils/_?retry[a-z_]*\.py)"
)
INSTEAD_OF = {
    "kubernetes/__init__.py": "",
    "kubernetes/aio/__init__.py": "",
    "kubernetes/aio/utils/__init__.py": "",
    "kubernetes/aio/client/__init__.py": (
        "from kubernetes.aio.client.configuration import Configuration\n\n\n"
        "class ApiClient:\n    def __init__(self, *_, **__):\n"
        '        raise NotImplementedError("this file has the part of the client that reads a kubeconfig")\n'
    ),
}
"""Modules of the official client whose own text imports all of it."""
_WRITTEN = (1980, 1, 1, 0, 0, 0)


def build(target: Path, pythons: Iterable[str] = PYTHONS, platforms: Mapping[str, str] = PLATFORMS) -> None:
    """Writes the file, executable. Raises CalledProcessError with uv's words on the terminal."""
    with tempfile.TemporaryDirectory() as scratch:
        files = dict(sorted([*_own(), *_pure(Path(scratch)), *_native(Path(scratch), pythons, platforms)]))
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    main = (ROOT / "e2e" / "release" / "plugin_main.py").read_text()
    begun = main.replace('CONTENT = ""', f'CONTENT = "{digest.hexdigest()[:16]}"')
    assert begun != main, "plugin_main.py has a place for the digest"
    target.write_bytes(b"#!/usr/bin/env python3\n" + _zipped({"__main__.py": begun.encode(), **files}))
    target.chmod(0o755)


def requirements() -> str:
    """The locked packages of which something is in the file."""
    return "".join(map(_locked().__getitem__, sorted((*PURE, *NATIVE))))


def archive(program: Path, target: Path) -> None:
    """What krew fetches: the program and the license."""
    with tarfile.open(target, "w:gz", format=tarfile.PAX_FORMAT, compresslevel=9) as made:
        for name, path, mode in ((NAME, program, 0o755), ("LICENSE", ROOT / "LICENSE", 0o644)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = path.stat().st_size, mode
            made.addfile(entry, io.BytesIO(path.read_bytes()))


def _zipped(files: Mapping[str, bytes]) -> bytes:
    with io.BytesIO() as content:
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as made:
            for name, body in files.items():
                made.writestr(zipfile.ZipInfo(name, _WRITTEN), body, zipfile.ZIP_DEFLATED)
        return content.getvalue()


def _own() -> Iterator[tuple[str, bytes]]:
    for path in (each for each in OPERATOR.iterdir() if each.name not in LEFT_OUT):
        yield from _below(path, OPERATOR.parent)
    for path in (each for each in WORKER.iterdir() if each.name in OF_WORKER):
        yield from _below(path, WORKER.parent)
    told = f"Metadata-Version: 2.1\nName: batchwright\nVersion: {version()}\n"
    yield f"lib/batchwright-{version()}.dist-info/METADATA", told.encode()


def _below(path: Path, root: Path) -> Iterator[tuple[str, bytes]]:
    for each in [path] if path.is_file() else path.rglob("*"):
        if each.is_file() and each.suffix not in (".pyc", ".pyi", ".so"):
            yield f"lib/{each.relative_to(root).as_posix()}", each.read_bytes()


def _pure(scratch: Path) -> Iterator[tuple[str, bytes]]:
    _install(scratch / "pure", (*PURE, *NATIVE), PYTHONS[0], next(iter(PLATFORMS)))
    for path in sorted((scratch / "pure").rglob("*")):
        name = path.relative_to(scratch / "pure").as_posix()
        if name in INSTEAD_OF:
            yield f"lib/{name}", INSTEAD_OF[name].encode()
        elif path.is_file() and _is_needed(name):
            yield f"lib/{name}", path.read_bytes()


def _is_needed(name: str) -> bool:
    """Of what a package installs: its modules and its license."""
    if name.startswith("kubernetes/"):
        return bool(OF_KUBERNETES.fullmatch(name))
    return name.endswith(".py") or ".dist-info/licenses/" in name


def _native(scratch: Path, pythons: Iterable[str], platforms: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    for python in pythons:
        for platform, machine in platforms.items():
            folder = scratch / python / platform
            _install(folder, NATIVE, python, platform)
            found = list(folder.rglob("*.so"))
            assert found, f"{NATIVE} has no extension for Python {python} on {platform}"
            for path in found:
                suffix = path.name[path.name.index(".") :]
                yield f"native/{machine}{suffix}/{path.relative_to(folder).as_posix()}", path.read_bytes()
            shutil.rmtree(folder)


def _install(folder: Path, names: Iterable[str], python: str, platform: str) -> None:
    """These packages of the operator's lock, by their hashes, into a folder."""
    lock = folder.with_suffix(".txt")
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text("".join(map(_locked().__getitem__, names)))
    command = [str(Path(sys.executable).with_name("uv")), "pip", "install", "-q", "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--link-mode", "copy", "--target", str(folder)]
    subprocess.run([*command, "--python-version", python, "--python-platform", platform, "-r", str(lock)], check=True)


def _locked() -> dict[str, str]:
    """Package -> its lines of locks/operator.txt."""
    blocks = re.split(r"^(?=\S)", (ROOT / "locks" / "operator.txt").read_text(), flags=re.M)
    return {block.partition("==")[0]: block for block in blocks if "==" in block}
