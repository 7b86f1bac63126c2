"""Other people's servers and clients whose pins conflict with ours: each in an environment of its own in the cache,
made on demand from `locks/peers-NAME.txt` (hash-pinned; `make lock` resolves it from `locks/peers-NAME.in`)."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from e2e.cluster.machine.paths import cache_folder
from e2e.cluster.machine.progress import step

_LOCKS = Path(__file__).resolve().parents[1] / "locks"


def peer_python(name: str) -> Path:
    """The interpreter of that peer's environment, which is made first if need be (a minute, once per lock).
    Raises CalledProcessError with pip's words on the terminal."""
    lock = _LOCKS / f"peers-{name}.txt"
    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = cache_folder() / "peers" / f"{name}-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            with step(f"making the environment of {name} in {folder}"):
                _make(folder, lock)
    return folder / "bin" / "python"


def _make(folder: Path, lock: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    installer = [sys.executable, "-m", "uv"]
    subprocess.run([*installer, "venv", "-q", "--python", sys.executable, str(folder)], check=True)
    install = [*installer, "pip", "install", "-q", "--python", str(folder / "bin" / "python")]
    subprocess.run([*install, "--no-deps", "--require-hashes", "-r", str(lock)], check=True)
    (folder / "done").touch()
