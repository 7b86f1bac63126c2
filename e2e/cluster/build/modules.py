"""Files of pinned Go modules that are read and not compiled: definitions of other projects' objects lie in them."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.build import toolchain
from e2e.cluster.machine.errors import BuildError


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A Go module at a version; `digest` is its sum as a go.sum has it."""

    path: str
    version: str
    digest: str

    def folder(self) -> Path:
        """Where its files are, fetched first if need be (into Go's own cache). BuildError if that fails, or if they are
        other ones than were pinned."""
        command = [str(toolchain.find_go()), "mod", "download", "-json", f"{self.path}@{self.version}"]
        environment = {**os.environ, "GOFLAGS": "-mod=mod", "GOWORK": "off", "GOTOOLCHAIN": "local"}
        done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)
        told = json.loads(done.stdout or "{}")
        if done.returncode:
            raise BuildError(f"{self.path}@{self.version}: {told.get('Error') or done.stderr.strip()}")
        if told["Sum"] != self.digest:
            raise BuildError(f"{self.path}@{self.version} has the sum {told['Sum']}, not {self.digest}")
        return Path(told["Dir"])
