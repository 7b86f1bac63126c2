"""How many CPU threads a runtime may use: by the container's CPU request, never by the machine's core count."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from batchwright_worker.api.names import ENV_CPU_MILLIS

P = ParamSpec("P")
T = TypeVar("T")
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def thread_count() -> int:
    """Whole cores of the CPU request (at least 1); without one, of the cgroup's quota, else of the affinity mask."""
    millis = os.environ.get(ENV_CPU_MILLIS, "")
    if millis:
        return max(1, int(millis) // 1000)
    try:
        quota, period = _CPU_MAX.read_text().split()
    except (OSError, ValueError):
        quota, period = "max", "1"
    affinity = len(os.sched_getaffinity(0))
    return affinity if quota == "max" else max(1, min(affinity, int(quota) // int(period)))


def beside_main(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call from a thread of its own and wait. Libraries keep threads per calling thread: what is compared with work of
    an executor's thread is to be called from such a one too."""
    with ThreadPoolExecutor(1, thread_name_prefix="beside main") as thread:
        return thread.submit(work, *args, **kwargs).result()


def pin_libraries() -> None:
    """Set the variables that BLAS and OpenMP read when they are imported; what the user has set stays.

    Threads that wait for each other sleep. OpenMP lets them spin by default, which is a little faster while every
    thread has a core of its own, and 10 to 40 times slower where another process wants the same cores.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(thread_count()))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
