"""How many runtimes a job's deployments have on this machine. Pure but for the sizes of files.

A job wants rows per second, not the shortest time of one batch. On a CPU two batches beside each other, on one core
each, are done sooner than one after the other on both: the threads of a batch wait for each other at every operator.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from batchwright_worker.api.documents import Document
from batchwright_worker.api.formats import FORMATS
from batchwright_worker.api.names import KIND_CPU
from batchwright_worker.api.uris import path_of
from batchwright_worker.host.memory import container_limit_bytes, machine_bytes
from batchwright_worker.local.deployment import LocalDeployment

MOST: Final = 4
"""Each holds the models once more; beyond that cores go to the threads of each."""
_SHARE: Final = 0.1
"""Of the memory, for the files of the further runtimes' models; in memory a network takes a few times as much."""


def for_throughput(deployments: Sequence[LocalDeployment], cores: int) -> list[LocalDeployment]:
    """Those on the CPU whose `spec.runtimes` does not say how many they have get several, as far as memory allows."""
    return [replace(each, runtimes=_count(each, cores)) for each in deployments]


def _count(deployment: LocalDeployment, cores: int) -> int:
    spec = deployment.document["spec"]
    artifacts = [each for model in spec["models"] for each in model["artifacts"] if each["accelerator"] == KIND_CPU]
    chosen = any(runtime["accelerator"] == KIND_CPU for runtime in spec.get("runtimes", []))
    layerwise = spec.get("layerwise", {}).get("mode", "Off") != "Off"
    if deployment.kind != KIND_CPU or chosen or layerwise or not all(map(_starts_quickly, artifacts)):
        return deployment.runtimes
    room = _SHARE * (container_limit_bytes() or machine_bytes()) // max(1, sum(map(_size, artifacts)))
    return max(1, min(cores, MOST, 1 + int(room)))


def _starts_quickly(artifact: Document) -> bool:
    """Without torch, and without code of the user's, which may want to be alone."""
    return FORMATS[artifact["format"]].loads_beside_batches


def _size(artifact: Document) -> int:
    path = Path(path_of(artifact["uri"]))
    files = (Path(folder) / name for folder, _, names in os.walk(path) for name in names) if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
