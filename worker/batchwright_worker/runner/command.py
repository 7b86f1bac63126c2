"""`batchwright-worker runner plan | run | commit --job FILE`: the steps of an InferenceJob, one per pod.

Exit status: 0 done, EXIT_PERMANENT where no retry can help, 1 where one may, 143 after SIGTERM. What came of it is in
the termination message (PlanResult, RunnerState, CommitResult), and as sentences on standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchwright_worker.api import messages
from batchwright_worker.api import names as contract
from batchwright_worker.otlp.steps import step, traced
from batchwright_worker.otlp.trace_ids import ids_of
from batchwright_worker.runner.errors import StepFailed

if TYPE_CHECKING:
    from batchwright_worker.runner.job import Job
    from batchwright_worker.runner.progress import Published
    from batchwright_worker.runner.steps.shard import ShardStep

EXIT_TERMINATED = 143
_job = click.option(
    "--job", "job_file", default=contract.JOB_FILE, show_default=True, type=click.Path(path_type=Path),
    help="The job's configuration, JSON of JobConfig.",
)  # fmt: skip
_log = click.option(
    "--termination-log", default=contract.TERMINATION_LOG, show_default=True, type=click.Path(path_type=Path),
    help="Where the result goes.",
)  # fmt: skip


@click.group()
def command() -> None:
    """Plan, run or commit an InferenceJob (in its pods).

    Exit status: 0 done, 1 where a retry may help, 42 where none does, 143 after SIGTERM.
    """
    # the first process of a container has no default action for SIGTERM
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))


@command.command(
    epilog="\b\nExamples:\n"
    "  batchwright-worker runner plan --job job.json\n\n"
    "Exit status: as of `batchwright-worker runner`.",
)
@_job
@_log
@click.option(
    "--wait-input-seconds", type=float, default=0.0, envvar="BATCHWRIGHT_INPUT_WAIT_SECONDS", show_envvar=True,
    help="How long an input that is not there yet is waited for.",
)  # fmt: skip
def plan(job_file: Path, termination_log: Path, wait_input_seconds: float) -> None:
    """Read the input, check the tasks, write OUTPUT/_batchwright/plan.json."""
    from batchwright_worker.api.messages import PlanResult

    try:
        job = _load(job_file)
        with traced(os.environ, "batchwright-job", ids_of(job.uid)), step("plan", job=job.name) as planning:
            result = _planned(job, wait_input_seconds)
            planning.set(items=result.items, shards=result.shards)
    except StepFailed as error:
        _refuse(termination_log, _encoded(PlanResult(error=_cut(error), reason=error.reason)), error)
    _tell(termination_log, _encoded(result))
    click.echo(f"planned {result.items} items in {result.shards} shards", err=True)


@command.command(
    epilog="\b\nExamples:\n"
    "  batchwright-worker runner commit --job job.json\n\n"
    "Exit status: as of `batchwright-worker runner`.",
)
@_job
@_log
def commit(job_file: Path, termination_log: Path) -> None:
    """Verify all parts and write OUTPUT/_manifest.json."""
    from batchwright_worker.api.messages import CommitResult
    from batchwright_worker.runner.progress import fit
    from batchwright_worker.runner.steps.by_mode import commit_job

    try:
        job = _load(job_file)
        with traced(os.environ, "batchwright-job", ids_of(job.uid)), step("commit", job=job.name) as committing:
            result = commit_job(job).result()
            committing.set(items=result.items, succeeded=result.succeeded, failed=result.failed)
    except StepFailed as error:
        _refuse(termination_log, fit(CommitResult(error=_cut(error), reason=error.reason)), error)
    _tell(termination_log, fit(result))
    click.echo(f"committed {result.items} items: {result.succeeded} succeeded, {result.failed} failed", err=True)


@command.command(
    epilog="\b\nExamples:\n"
    "  batchwright-worker runner run --job job.json --shard 3\n\n"
    "Exit status: as of `batchwright-worker runner`.",
)
@_job
@_log
@click.option("--shard", type=int, default=None, help=f"Number of the shard. Default: ${contract.ENV_SHARD}.")
@click.option("--control-port", type=int, default=contract.CONTROL_PORT, show_default=True, help="Port of the state.")
@click.option(
    "--token-file", default=contract.TOKEN_FILE, show_default=True, type=click.Path(path_type=Path),
    help="Token of the control port; without one there is no such port.",
)  # fmt: skip
def run(job_file: Path, termination_log: Path, shard: int | None, control_port: int, token_file: Path) -> None:
    """Run one shard: every item through the tasks, results to OUTPUT/part-N."""
    from batchwright_worker.api.messages import RunnerState
    from batchwright_worker.runner.progress import fit
    from batchwright_worker.runner.steps.shard import shard_step

    index = shard if shard is not None else int(os.environ.get(contract.ENV_SHARD, "-1"))
    try:
        job = _load(job_file)
        with traced(os.environ, "batchwright-job", ids_of(job.uid)):
            state = asyncio.run(_until_signal(shard_step(job, index), control_port, token_file))
    except StepFailed as error:
        empty = RunnerState(revision=0, time=0.0, shard=index, items_total=0, items_succeeded=0, items_failed=0)
        _refuse(termination_log, fit(_with_error(empty, error)), error)
    if state is None:
        click.echo("stopped by SIGTERM; the shard will be run again", err=True)
        sys.exit(EXIT_TERMINATED)
    _tell(termination_log, fit(state))
    click.echo(f"shard {index}: {state.items_succeeded} succeeded, {state.items_failed} failed", err=True)


def _planned(job: Job, wait_s: float) -> messages.PlanResult:
    """The plan; an input that does not exist is looked for again until the time is over. SIGTERM ends the process."""
    from batchwright_worker.runner.steps.by_mode import plan_job

    deadline = time.monotonic() + wait_s
    while True:
        try:
            return plan_job(job)
        except StepFailed as error:
            if error.reason != "InputNotFound" or time.monotonic() >= deadline:
                raise
            click.echo(f"waiting for the input: {error}", err=True)
            time.sleep(min(2.0, max(0.0, deadline - time.monotonic())))


async def _until_signal(shard: ShardStep, port: int, token_file: Path) -> messages.RunnerState | None:
    """The final state; None when SIGTERM came first (nothing is left behind but whole parts)."""
    from batchwright_worker.runner.control import ControlPort, read_token
    from batchwright_worker.runner.steps.shard import run_shard

    token = read_token(token_file)

    @contextlib.asynccontextmanager
    async def publish_to(published: Published) -> AsyncIterator[None]:
        control = ControlPort(published, token, port=port) if token is not None else None
        if control is not None:
            await control.start()
        try:
            yield
        finally:
            if control is not None:
                await control.stop()

    task = asyncio.ensure_future(run_shard(shard, publish_to))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return None


def _load(job_file: Path) -> Job:
    from batchwright_worker.runner.job import load_job

    return load_job(job_file)


def _with_error(state: messages.RunnerState, error: StepFailed) -> messages.RunnerState:
    import msgspec

    return msgspec.structs.replace(state, error=f"{error.reason}: {_cut(error)}")


def _cut(error: StepFailed) -> str:
    from batchwright_worker.runner.errors import shortened

    return shortened(str(error), 1000)


def _encoded(result: messages.PlanResult) -> bytes:
    import msgspec

    return msgspec.json.encode(result)


def _refuse(termination_log: Path, message: bytes, error: StepFailed) -> None:
    _tell(termination_log, message)
    click.echo(f"{error.reason}: {error}", err=True)
    sys.exit(contract.EXIT_PERMANENT if error.permanent else 1)


def _tell(termination_log: Path, message: bytes) -> None:
    """Write the termination message; outside of a pod there may be no such file."""
    with contextlib.suppress(OSError):
        termination_log.write_bytes(message)
