"""kubectl as a value: one binary, one kubeconfig."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class KubectlError(RuntimeError):
    """kubectl failed; the message is what it printed."""


class StillWaitingError(TimeoutError):
    """A state did not come in time; the message says which and what was seen last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubectl:
    """Runs kubectl against one cluster; `context` None takes the kubeconfig's own."""

    binary: Path
    kubeconfig: Path | None = None
    context: str | None = None

    def run(self, *args: str, stdin: str | None = None, timeout_s: float = 120) -> str:
        """What kubectl prints. Raises KubectlError with its words when it fails."""
        done = subprocess.run(
            [*self.argv(), *args], input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if done.returncode:
            raise KubectlError(f"kubectl {' '.join(args)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def argv(self) -> list[str]:
        """The command line up to the sub-command."""
        argv = [str(self.binary)]
        if self.kubeconfig:
            argv += ["--kubeconfig", str(self.kubeconfig)]
        if self.context:
            argv += ["--context", self.context]
        return argv

    def json(self, *args: str) -> dict[str, Any]:
        """`kubectl ARGS -o json`, parsed."""
        parsed: dict[str, Any] = json.loads(self.run(*args, "-o", "json"))
        return parsed

    def find(self, *args: str) -> dict[str, Any] | None:
        """`kubectl get ARGS`, or None when it is not there."""
        text = self.run("get", *args, "--ignore-not-found", "-o", "json")
        return json.loads(text) if text.strip() else None

    def apply_folder(self, folder: Path) -> str:
        """`kubectl apply -k FOLDER`, server side."""
        return self.run("apply", "--server-side", "--force-conflicts", "-k", str(folder))


def wait_for(
    look: Callable[[], T | None],
    *,
    what: str,
    timeout_s: float,
    seen: Callable[[], str] = lambda: "",
    every_s: float = 0.5,
) -> T:
    """The first result of `look` that is not None. Raises StillWaitingError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found is not None:
            return found
        if time.monotonic() > deadline:
            raise StillWaitingError(f"{what}: not within {timeout_s:.0f} s. {seen()}".strip())
        time.sleep(every_s)


def condition(raw: dict[str, Any] | None, kind: str) -> dict[str, Any]:
    """The condition of this type in `.status.conditions`, or an empty one."""
    for entry in ((raw or {}).get("status") or {}).get("conditions") or []:
        if entry.get("type") == kind:
            return dict(entry)
    return {}
