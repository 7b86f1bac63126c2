"""The configuration that the sidecar serves by: read at its start, and taken over as it changes, without a restart.

It comes by two ways. The operator sends it to the control port, within a second of a change. The kubelet brings the
mounted file up to date within a minute or so; that is looked at too, so that a sidecar which nobody can reach serves by
it all the same. The file may be older than what the operator has sent: of two texts the one of the higher generation
counts then. What the operator sends counts always: it alone knows what is true now, and sees from the state what is in
force.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from batchwright_worker.api.deployment import ModelDeployment, parse_deployment
from batchwright_worker.api.live_fields import fixed_differences
from batchwright_worker.api.messages import ConfigurationState
from batchwright_worker.api.names import KIND_CPU, configuration_digest
from batchwright_worker.artifacts.names import ArtifactError
from batchwright_worker.engine.engine import Engine
from batchwright_worker.sidecar.repositories import Repositories
from batchwright_worker.sidecar.settings import SidecarFailed

CHECK_S: Final = 2.0
"""How often the file is looked at: one `stat`."""
_LOG = logging.getLogger(__name__)
_Stamp = tuple[int, int, int]


class ConfigurationError(Exception):
    """A text that cannot be taken over; `conflict`: it is one of a ModelDeployment, but asks for other pods."""

    def __init__(self, text: str, *, conflict: bool = False) -> None:
        super().__init__(text)
        self.conflict = conflict


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text of DEPLOYMENT_FILE, read."""

    deployment: ModelDeployment
    generation: int
    digest: str


def document(text: bytes) -> Document:
    """Raises ConfigurationError for what is no ModelDeployment."""
    try:
        raw: Any = msgspec.json.decode(text)
        generation = msgspec.convert(raw["metadata"].get("generation", 0), int)
        found = parse_deployment(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"no ModelDeployment: {error}") from error
    return Document(deployment=found, generation=generation, digest=configuration_digest(text))


class Configuration:
    """The one in force. Everything but `document` is for the event loop of the engine."""

    def __init__(
        self,
        path: Path,
        read: Document,
        stamp: _Stamp,
        repositories: Repositories = Repositories(),  # noqa: B008
    ) -> None:
        self._path = path
        self._read = read
        self._repositories = repositories
        self._served = repositories.applied(read.deployment)
        self._stamp = stamp
        self._refused = ""
        self._engine: Engine | None = None
        self.on_change: Callable[[], None] = lambda: None

    @classmethod
    def of_file(cls, path: Path, kind: str = KIND_CPU) -> Configuration:
        """For a pod of this kind of accelerator. Raises SidecarFailed."""
        try:
            stamp, read = _stamp(path), document(path.read_bytes())
            return cls(path, read, stamp, Repositories.of(read.deployment, kind))
        except OSError as error:
            raise SidecarFailed(f"no ModelDeployment at {path}: {error.strerror}; give --deployment FILE") from error
        except ConfigurationError as error:
            raise SidecarFailed(f"{path} is {error}") from error

    @property
    def deployment(self) -> ModelDeployment:
        """As it is served: with what model repositories say of their models."""
        return self._served

    @property
    def refused(self) -> Mapping[str, str]:
        """Per model of a repository why it cannot be served as it is."""
        return self._repositories.refused

    def serve(self, engine: Engine) -> None:
        """From now on this engine follows it."""
        self._engine = engine

    def state(self) -> ConfigurationState:
        """As the operator reads it."""
        return ConfigurationState(generation=self._read.generation, digest=self._read.digest, message=self._refused)

    def take(self, new: Document) -> None:
        """Serve by it from now on. Raises ConfigurationError where that needs another pod; then all stays as it was."""
        if new.digest == self._read.digest:
            self._say("")
            return
        if differences := fixed_differences(self._read.deployment, new.deployment):
            shown = ", ".join(differences[:3])
            text = f"generation {new.generation} differs in what only a new pod takes over: {shown}"
            self._say(text)
            raise ConfigurationError(text, conflict=True)
        try:
            served = self._repositories.applied(new.deployment)
        except ArtifactError as error:
            self._say(f"generation {new.generation}: {error}")
            raise ConfigurationError(str(error)) from error
        self._read, self._served, self._refused = new, served, ""
        if self._engine is not None:
            self._engine.reconfigure(served.spec.models)
        _LOG.info("generation %d of the configuration is in force", new.generation)
        self.on_change()

    def _say(self, refused: str) -> None:
        if refused != self._refused:
            self._refused = refused
            self.on_change()

    async def watch(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(CHECK_S)
            self.check()

    def check(self) -> None:
        """Take over a file that has become newer than what is in force."""
        try:
            stamp = _stamp(self._path)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            new = document(self._path.read_bytes())
            if new.generation > self._read.generation:
                self.take(new)
        except (OSError, ConfigurationError) as error:
            _LOG.warning("the configuration stays as it was: %s: %s", self._path, error)


def _stamp(path: Path) -> _Stamp:
    found = path.stat()
    return found.st_mtime_ns, found.st_ino, found.st_size
