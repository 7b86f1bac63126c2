"""A job on this machine, as `batchwright-worker run` runs it: the same code, without a cluster."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from batchwright.manifests import Manifest
from batchwright_worker.api.names import EXIT_FAILED_ITEMS


class LocalRunFailed(Exception):  # noqa: N818 - what happened to the run
    """The run ended without a complete output; `reason` is one of docs/troubleshooting.md, `status` the exit status."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}" if reason else message)
        self.status = status
        self.reason = reason


def run_local(
    manifests: Sequence[Manifest],
    *,
    volumes: Mapping[str, Path | str] | None = None,
    functions: Sequence[Path | str] = (),
    overwrite: bool = False,
) -> dict[str, Any]:
    """Runs the one InferenceJob among the manifests to its end; the ModelDeployments that it names are served for it.

    `volumes`: where claims are on this machine. `functions`: folders with the modules of its CPU tasks. Returns the
    summary (items, succeeded, failed, itemsPerSecond, output, ..); items that failed are counted, and are no error.
    Raises LocalRunFailed.
    """
    with tempfile.TemporaryDirectory(prefix="batchwright-sdk-") as scratch:
        path = Path(scratch) / "manifests.yaml"
        path.write_text(yaml.safe_dump_all([each.document for each in manifests], sort_keys=False))
        command = [sys.executable, "-m", "batchwright_worker", "run", "--json", "-f", str(path)]
        for claim, folder in (volumes or {}).items():
            command += ["--volume", f"{claim}={folder}"]
        for folder in functions:
            command += ["--functions", str(folder)]
        done = subprocess.run([*command, *(["--overwrite"] if overwrite else [])], stdout=subprocess.PIPE, check=False)
    said = _summary(done.stdout)
    if done.returncode not in (0, EXIT_FAILED_ITEMS):
        raise LocalRunFailed(done.returncode, str(said.get("reason", "")), str(said.get("error", "see above")))
    return said


def _summary(text: bytes) -> dict[str, Any]:
    """What `run --json` has printed; empty where it printed nothing, or was cut off."""
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError:
        return {}
    return found
