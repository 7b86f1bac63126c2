"""A job on real nodes whose processes are killed at random moments: its runners, a sidecar, a runtime, the operator.
It is Complete all the same, its output is that of a job that nobody disturbed, byte for byte, and nothing is left.

`BATCHWRIGHT_SEEDS=10:20` runs the seeds 10 to 19; a failing run is repeated by its seed. The kills are SIGKILL from
outside the pods, so neither kubelet nor process is warned.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from e2e.cluster.machine import cgroups
from e2e.demo.kubectl import condition, wait_for
from tests.nodes.older_version import present
from tests.nodes.place import PATIENCE, PLACE, SYSTEM, Place, inference_job, model_deployment, records, unmeasured

pytestmark = [pytest.mark.cluster, pytest.mark.soak, pytest.mark.timeout(2400)]

_FIRST, _END = (int(each) for each in os.environ.get("BATCHWRIGHT_SEEDS", "0:50").split(":"))
_ITEMS: Final = 300
_JOB: Final = "killed"
_MOST_KILLS: Final = 3
"""At most: a step's pod that fails is started again three times."""
_RUNNER, _SIDECAR, _RUNTIME, _OPERATOR = "runner", "sidecar", "runtime", "operator"
_PROGRAMS: Final = {
    _RUNNER: ("batchwright-worker", "runner"),
    _SIDECAR: ("batchwright-worker", "sidecar"),
    _RUNTIME: ("batchwright-worker", "runtime"),
    _OPERATOR: ("batchwright-operator",),
}


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """Two nodes with the product, the items and the functions."""
    with unmeasured("kills") as place:
        place.install(present(), BATCHWRIGHT_BENCHMARK_KINDS="[]")
        yield place


@pytest.fixture(scope="module")
def folder(place: Place) -> Path:
    """The claim's."""
    return place.data(_ITEMS)


@dataclass(slots=True, kw_only=True)
class Output:
    """What readers of a data set see, and the digest that its manifest gives it."""

    parts: dict[str, bytes]
    digest: str


@pytest.fixture(scope="module")
def undisturbed(place: Place, folder: Path) -> Output:
    """What every output should be: written by a job that was left alone, and right."""
    begin(place, "undisturbed")
    place.await_condition("inferencejob", _JOB, "Complete", 300)
    assert records(folder / "undisturbed") == [
        {"id": f"item-{number:04}", "best": {"best": number % 4}} for number in range(_ITEMS)
    ]
    end(place)
    assert left_behind(place, folder / "undisturbed") == []
    return output(folder / "undisturbed")


def begin(place: Place, folder: str) -> None:
    """A deployment and a job over it, both new: what was restarted often is restarted late."""
    job = inference_job(_JOB)
    job["spec"]["parallelism"] = 2
    job["spec"]["input"]["shardSize"] = 60
    job["spec"]["output"]["uri"] = f"pvc://data/{folder}"
    place.apply(model_deployment(), job)


def end(place: Place) -> None:
    """As their owner deletes them."""
    for kind, name in (("inferencejob", _JOB), ("modeldeployment", "echo")):
        place.kubectl.run("delete", kind, name, "-n", PLACE, "--timeout=120s", timeout_s=150)


def output(folder: Path) -> Output:
    parts = {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("part-")}
    return Output(parts=parts, digest=json.loads((folder / "_manifest.json").read_text())["digest"])


def left_behind(place: Place, folder: Path) -> list[str]:
    """Objects of the two once they are deleted, processes that worked for them, and temporary files of the output."""
    kinds = "pods,jobs.batch,services,configmaps,secrets,networkpolicies,poddisruptionbudgets"

    def objects() -> list[str]:
        found = place.kubectl.json("get", kinds, "-n", PLACE, "-l", "app.kubernetes.io/managed-by=batchwright")["items"]
        working = [pid for name in (_RUNNER, _SIDECAR, _RUNTIME) for pid in processes(place, name)]
        return [f"{each['kind']} {each['metadata']['name']}" for each in found] + [f"process {pid}" for pid in working]

    until = time.monotonic() + 120 * PATIENCE
    while (objects_left := objects()) and time.monotonic() < until:
        time.sleep(0.5)
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    return [*objects_left, *(name for name in files if "tmp" in name or "/runs" in name or name.endswith("lock"))]


def processes(place: Place, part: str) -> list[int]:
    """The pids of this part's processes in the cluster's pods."""
    wanted = _PROGRAMS[part]
    return sorted(pid for pid in cgroups.members(place.cluster.spec.name) if set(wanted) <= words(pid))


def words(pid: int) -> set[str]:
    """Of its command line, programs without their folders."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return set()
    return {Path(word).name for word in line.decode(errors="replace").split("\0") if word}


@dataclass(slots=True, kw_only=True)
class Killer:
    """Kills while a job runs; `killed` says what, and when since the first look."""

    place: Place
    chance: random.Random
    killed: list[str] = field(default_factory=list)

    def kill_until_it_ends(self) -> dict[str, Any]:
        """The job, Complete or Failed."""
        began = time.monotonic()
        moments = [self.chance.uniform(0.5, 20.0) for _ in range(self.chance.randint(1, _MOST_KILLS))]
        for moment in sorted(moments):
            while time.monotonic() < began + moment:
                if (job := self._ended()) is not None:
                    return job
                time.sleep(0.1)
            self._kill(time.monotonic() - began)
        return wait_for(
            self._ended, what=f"the end of the job after {self.killed}", timeout_s=400 * PATIENCE,
            seen=lambda: json.dumps((self.place.get("inferencejob", _JOB) or {}).get("status"))[:3000],
        )  # fmt: skip

    def _kill(self, moment: float) -> None:
        """A process of a part that has one just now."""
        able = [part for part in _PROGRAMS if processes(self.place, part)]
        if not able:
            return
        part = self.chance.choice(able)
        found = processes(self.place, part)
        with contextlib.suppress(ProcessLookupError, IndexError):  # it may have ended by itself meanwhile
            os.kill(self.chance.choice(found), signal.SIGKILL)
            self.killed.append(f"{part} at {moment:.1f} s")

    def _ended(self) -> dict[str, Any] | None:
        job = self.place.get("inferencejob", _JOB)
        over = any(condition(job, kind).get("status") == "True" for kind in ("Complete", "Failed"))
        return job if over else None


def fresh_operator(place: Place) -> None:
    """A pod that was never killed: one that was is restarted later each time."""
    place.kubectl.run("rollout", "restart", "-n", SYSTEM, "deployment/batchwright-operator")
    place.kubectl.run(
        "rollout", "status", "-n", SYSTEM, "deployment/batchwright-operator", "--timeout=180s", timeout_s=200
    )


@pytest.mark.parametrize("seed", range(_FIRST, _END))
def test_the_output_of_a_killed_job_is_that_of_an_undisturbed_one(
    seed: int, place: Place, folder: Path, undisturbed: Output
) -> None:
    killer = Killer(place=place, chance=random.Random(seed))
    began, name = time.monotonic(), f"seed-{seed}"
    begin(place, name)
    try:
        job = killer.kill_until_it_ends()
    except BaseException:
        end(place)  # so that the next seed has a job of its own
        raise
    took = time.monotonic() - began
    print(f"seed {seed}: {took:.0f} s; killed: {', '.join(killer.killed) or 'nobody'}")
    assert condition(job, "Complete").get("status") == "True", (killer.killed, job["status"])
    got = output(folder / name)
    assert got.parts.keys() == undisturbed.parts.keys(), killer.killed
    assert [part for part, wanted in undisturbed.parts.items() if got.parts[part] != wanted] == [], killer.killed
    assert got.digest == undisturbed.digest, killer.killed
    assert job["status"]["items"]["succeeded"] == _ITEMS, killer.killed
    end(place)
    assert left_behind(place, folder / name) == [], killer.killed
    if any(each.startswith(_OPERATOR) for each in killer.killed):
        fresh_operator(place)
