"""Where things lie: built programs and images in the cache, running clusters in the state folder."""

import os
from pathlib import Path

COMPONENTS = Path(__file__).resolve().parents[1] / "components"


def cache_folder() -> Path:
    """The folder of what can be made again: programs, base images; kept by `down`."""
    return _xdg("XDG_CACHE_HOME", ".cache")


def state_folder() -> Path:
    """The folder of running clusters, one folder each; `down` removes a cluster's."""
    return _xdg("XDG_STATE_HOME", ".local/state") / "clusters"


def _xdg(variable: str, default: str) -> Path:
    root = os.environ.get(variable, "")
    return (Path(root) if root.startswith("/") else Path.home() / default) / "batchwright"


def write_private(path: Path, content: str | bytes) -> Path:
    """Write a file that only its owner can read, replacing it whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return scratch.replace(path)
