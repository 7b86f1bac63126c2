"""A job whose processes are killed at random moments, and begun again until it is through: the output is that of a run
that nobody disturbed, byte for byte, and nothing is left behind.

`BATCHWRIGHT_SEEDS=10:20` runs the seeds 10 to 19; a failing run is repeated by its seed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil
import pytest
import yaml

from batchwright_worker.runner.storage.output_lock import LOCK_NAME
from tests.runner.serving_rig import deployment

_FIRST, _END = (int(each) for each in os.environ.get("BATCHWRIGHT_SEEDS", "0:50").split(":"))
_MARK: Final = "BATCHWRIGHT_TEST_RUN"
_MOST_TRIES: Final = 12
_ITEMS: Final = 600
pytestmark = pytest.mark.soak


@dataclass(slots=True, kw_only=True)
class KilledJob:
    """The job in `folder`; `mark` is in the environment of all its processes."""

    folder: Path
    mark: str
    chance: random.Random
    form: str = "jsonl"
    temporary: Path
    """For all temporary files; its name is short enough for sockets in it."""
    killed: list[str] = field(default_factory=list)

    def write(self) -> None:
        """Input and manifests: decode, model, choose; 30 shards."""
        records = [{"id": f"i{n}", "x": [float(n * factor % 31) for factor in (1, 3, 7)]} for n in range(_ITEMS)]
        (self.folder / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        tasks = [
            {"name": "x", "cpu": {"function": "json-fields", "args": {"fields": ["x"]}}},
            {"name": "m", "dependsOn": ["x"], "model": {"deployment": "emu", "model": "m"}},
            {"name": "v", "dependsOn": ["m"], "cpu": {"function": "json-fields", "args": {"fields": ["argmax"]}}},
        ]
        spec = {
            "input": {"uri": (self.folder / "in.jsonl").as_uri(), "format": "jsonl", "shardSize": 20},
            "output": {"uri": self.output.as_uri(), "format": self.form},
            "tasks": tasks,
            "runner": {"cpuWorkers": 2},
        }
        head = {"apiVersion": "batchwright.dev/v1alpha1", "kind": "InferenceJob", "metadata": {"name": "j"}}
        (self.folder / "job.yaml").write_text(yaml.safe_dump_all([head | {"spec": spec}, deployment()]))

    @property
    def output(self) -> Path:
        return self.folder / "out"

    def start(self) -> subprocess.Popen[bytes]:
        """`batchwright-worker run`."""
        command = [sys.executable, "-m", "batchwright_worker", "run", "--quiet", "-f", str(self.folder / "job.yaml")]
        environment = {**os.environ, _MARK: self.mark, "TMPDIR": str(self.temporary)}
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    def run_to_the_end(self, runs: int) -> None:
        """So many at a time, of which one's processes are killed now and then; again until one is through."""
        for tries in range(_MOST_TRIES):
            started = [self.start() for _ in range(runs)]
            if tries < 3:
                self._kill_some(started[0])
            codes = [run.wait(120) for run in started]
            assert set(codes) <= {0, 1, -9}, self.words()
            if runs > 1 and tries >= 3:
                assert set(codes) == {0}, self.words()
            if 0 in codes:
                return
        raise AssertionError(f"not through after {_MOST_TRIES} tries: {self.words()}")

    def _kill_some(self, run: subprocess.Popen[bytes]) -> None:
        time.sleep(self.chance.uniform(0.2, 5.0))
        for _ in range(self.chance.randint(1, 2)):
            with contextlib.suppress(psutil.Error):
                victims = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
                victim = self.chance.choice(victims)
                self.killed.append(" ".join(victim.cmdline())[-60:])
                victim.kill()
            time.sleep(self.chance.uniform(0.0, 0.5))

    def contents(self) -> dict[str, bytes]:
        """Of every file that readers of the data set see."""
        return {path.name: path.read_bytes() for path in self.output.iterdir() if path.is_file()}

    def left_behind(self) -> list[str]:
        """Files and processes that belong to nothing any more."""
        found = [path.relative_to(self.output).as_posix() for path in self.output.rglob("*")]
        files = [name for name in found if ".tmp" in name or "/tmp" in name or "/runs" in name or name == LOCK_NAME]
        until = time.monotonic() + 60
        while (alive := list(self._processes())) and time.monotonic() < until:
            time.sleep(0.1)
        return [*files, *alive, *(path.name for path in self.temporary.iterdir())]

    def _processes(self) -> Iterator[str]:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(_MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    yield " ".join(process.cmdline())[-60:]

    def words(self) -> str:
        return f"killed: {self.killed}\n{(self.folder / 'log').read_text()[-4000:]}"


@contextlib.contextmanager
def made(folder: Path, seed: int, form: str) -> Iterator[KilledJob]:
    folder.mkdir()
    mark = f"{os.getpid()}-{seed}-{folder.name}"
    with tempfile.TemporaryDirectory(prefix="k") as temporary:
        chance = random.Random(seed)
        job = KilledJob(folder=folder, mark=mark, chance=chance, form=form, temporary=Path(temporary))
        job.write()
        yield job


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What the outputs should be, by format."""
    found = {}
    for form in ("jsonl", "parquet"):
        with made(tmp_path_factory.mktemp("undisturbed") / form, -1, form) as job:
            assert job.start().wait(120) == 0, job.words()
            assert job.left_behind() == []
            found[form] = job.contents()
    return found


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", range(_FIRST, _END))
def test_the_output_of_a_killed_job_is_that_of_an_undisturbed_one(
    seed: int, tmp_path: Path, undisturbed: dict[str, dict[str, bytes]]
) -> None:
    form = ("jsonl", "parquet")[seed % 2]
    with made(tmp_path / "job", seed, form) as job:
        job.run_to_the_end(1 if seed % 3 else 2)
        assert job.start().wait(120) == 0, job.words()
        got, wanted = job.contents(), undisturbed[form]
        assert got.keys() == wanted.keys(), job.words()
        assert [name for name in wanted if name != "_manifest.json" and got[name] != wanted[name]] == [], job.words()
        digests = [json.loads(contents["_manifest.json"])["digest"] for contents in (got, wanted)]
        assert digests[0] == digests[1], job.words()
        assert job.left_behind() == [], job.words()
        assert "Traceback" not in (job.folder / "log").read_text(), job.words()
