"""What a loaded model was made of, as one digest: whoever mixes answers can tell two models of one name apart."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from batchwright_worker.artifacts.companions import companions
from batchwright_worker.artifacts.digest import digest_of
from batchwright_worker.artifacts.names import ArtifactError
from batchwright_worker.artifacts.python_sources import digest_of_modules
from batchwright_worker.ipc.messages import ModelSource

_Seen = tuple[tuple[str, int, int, int], ...]


class ModelDigests:
    """Files are read on a thread beside the load, which reads them too; those that did not change are not read again
    when a model is loaded once more."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[_Seen, str]] = {}

    def begin(self, source: ModelSource) -> Callable[[], str]:
        """Starts; the callable waits for the digest, which is empty where it cannot be told. A file's or folder's is
        what `batchwright-worker digest` prints, unless the model is (also) made of a script or of figures."""
        found = [""]

        def work() -> None:
            try:
                found[0] = self._digest(source)
            except (ArtifactError, OSError, ValueError):  # the load says what is wrong with it
                found[0] = ""

        if not source.path or source.sha256:
            work()
            return lambda: found[0]
        thread = threading.Thread(target=work, name="model-digest", daemon=True)
        thread.start()

        def wait() -> str:
            thread.join()
            return found[0]

        return wait

    def _digest(self, source: ModelSource) -> str:
        artifact = source.sha256 or (self._artifact(source) if source.path else "")
        if not source.script and source.emulated is None:
            return artifact
        parts = (source.format, artifact, _script(source.script), source.emulated)
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()

    def _artifact(self, source: ModelSource) -> str:
        key, path = (source.path, source.format), Path(source.path)
        seen = _stats(path, source.format)
        known = self._known.get(key)
        if known is not None and known[0] == seen:
            return known[1]
        digest = digest_of(path, source.format)
        self._known[key] = (seen, digest)
        return digest


def _script(script: str) -> str:
    if not script:
        return ""
    return (
        hashlib.sha256(Path(script).read_bytes()).hexdigest() if script.endswith(".py") else digest_of_modules([script])
    )


def _stats(path: Path, format_: str) -> _Seen:
    names = [path.name, *companions(format_, path)]
    files = sorted(path.rglob("*")) if path.is_dir() else [path.parent / name for name in names]
    stats = [(str(each), each.stat()) for each in files if each.is_file()]
    return tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats)
