"""Triton's perf_analyzer, from the wheel tritonclient==2.41.0, with the two libraries that the wheel leaves out."""

from __future__ import annotations

import csv
import os
import subprocess
from functools import cache
from pathlib import Path

from e2e.debian import unpacked
from e2e.peers import peer_python

VERSION = "2.41.0"
_TIMES = ("Server Queue", "Server Compute Input", "Server Compute Infer", "Server Compute Output")


@cache
def _libraries() -> str:
    """Folders for LD_LIBRARY_PATH: CUDA's runtime from its wheel, libb64 from Debian's package."""
    python = peer_python("perfanalyzer")
    [cuda] = python.parents[1].glob("lib/python*/site-packages/nvidia/cuda_runtime/lib")
    return f"{next(unpacked('libb64-0d').rglob('libb64.so.0d')).parent}:{cuda}"


def perf_analyzer(folder: Path, *options: str) -> list[dict[str, float]]:
    """One short measurement per load level: perf_analyzer's own table, times in microseconds."""
    table = folder / "table.csv"
    program = peer_python("perfanalyzer").with_name("perf_analyzer")
    # Windows of a number of requests: on a busy machine one of a few hundred milliseconds may see none end.
    windows = ["--measurement-mode", "count_windows", "--measurement-request-count", "50"]
    steady = [*windows, "--max-trials", "3", "--stability-percentage", "999"]
    command = [str(program), *options, *steady, "-f", str(table)]
    environment = {**os.environ, "LD_LIBRARY_PATH": _libraries()}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    with table.open() as rows:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(rows)]


def server_time(row: dict[str, float]) -> float:
    """What the statistics say that a request spent in the server."""
    return sum(row[name] for name in _TIMES)
