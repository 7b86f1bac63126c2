"""Other people's servers and clients whose pins conflict with ours: each in an environment of its own in the cache,
made on demand from `locks/peers-NAME.txt` (hash-pinned; `make lock` resolves it from `locks/peers-NAME.in`)."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from e2e.cluster.machine.locking import alone
from e2e.cluster.machine.paths import cache_folder
from e2e.cluster.machine.progress import step

_LOCKS = Path(__file__).resolve().parents[1] / "locks"


def peer_python(name: str) -> Path:
    """The interpreter of that peer's environment, which is made first if need be (a minute, once per lock).
    Raises CalledProcessError with pip's words on the terminal."""
    folder = _folder(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(f"peer-{name}"):
        if not (folder / "done").exists():
            with step(f"making the environment of {name} in {folder}"):
                _make(folder, _lock(name))
    return folder / "bin" / "python"


def is_made(name: str) -> bool:
    """Whether `peer_python` finds it in the cache."""
    return (_folder(name) / "done").exists()


def _folder(name: str) -> Path:
    digest = hashlib.sha256(_lock(name).read_bytes() + sys.version.encode()).hexdigest()[:12]
    return cache_folder() / "peers" / f"{name}-{digest}"


def _lock(name: str) -> Path:
    return _LOCKS / f"peers-{name}.txt"


def _make(folder: Path, lock: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    installer = [sys.executable, "-m", "uv"]
    subprocess.run([*installer, "venv", "-q", "--python", sys.executable, str(folder)], check=True)
    install = [*installer, "pip", "install", "-q", "--python", str(folder / "bin" / "python")]
    subprocess.run([*install, "--no-deps", "--require-hashes", "-r", str(lock)], check=True)
    (folder / "done").touch()
