"""A fault-injecting proxy before a real API server: Go's ReverseProxy with rules of our own (main.go)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from e2e.cluster.build.toolchain import find_go
from e2e.cluster.machine.paths import cache_folder

__all__ = ["FaultProxy", "Rule"]

SOURCE = Path(__file__).parent
Rule = dict[str, Any]
"""As `Rule` in main.go: {"verbs": ["patch"], "status": 503}, ..."""


@dataclass(slots=True, kw_only=True)
class FaultProxy:
    """A running proxy. A context manager: leaving it ends the process."""

    url: str
    _process: subprocess.Popen[str]

    @classmethod
    def start(cls, server_url: str, *, ca: Path, cert: Path, key: Path) -> Self:
        """A proxy to this API server that speaks with this client certificate."""
        command = [str(_built()), "-server", server_url, "-ca", str(ca), "-cert", str(cert), "-key", str(key)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address:
            process.wait()
            raise RuntimeError("the fault proxy did not start; its complaint is above")
        return cls(url=f"http://{address}", _process=process)

    def set(self, *rules: Rule) -> None:
        """Replaces the rules; none: no faults."""
        self._call("PUT", list(rules))

    def hits(self) -> list[int]:
        """How often each of the present rules fired."""
        return [int(rule["hits"]) for rule in self._call("GET") or ()]

    def kubeconfig(self, path: Path) -> Path:
        """Writes a kubeconfig that leads through the proxy."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxied", "cluster": {"server": self.url}}],
            "users": [{"name": "proxied", "user": {"token": "the-proxy-has-a-certificate"}}],
            "contexts": [{"name": "proxied", "context": {"cluster": "proxied", "user": "proxied"}}],
            "current-context": "proxied",
        }
        path.write_text(json.dumps(config))
        return path

    def stop(self) -> None:
        """Ends the proxy."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _call(self, method: str, body: list[Rule] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/_faults", data=data, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


def _built() -> Path:
    """The program, built once per version of its source."""
    sources = [*sorted(SOURCE.glob("*.go")), SOURCE / "go.mod"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    program = cache_folder() / "bin" / f"faultproxy-{digest}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=program.parent) as scratch:
            built = Path(scratch) / "faultproxy"
            environment = {**os.environ, "GOFLAGS": "", "GOWORK": "off", "GOTOOLCHAIN": "local"}
            command = [str(find_go()), "build", "-trimpath", "-o", str(built), "."]
            subprocess.run(command, cwd=SOURCE, env=environment, check=True)
            shutil.move(built, program)
    return program
