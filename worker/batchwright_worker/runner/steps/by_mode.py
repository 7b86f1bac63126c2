"""The plan and the commit step of a job, as its `output.mode` asks for them, by one process at a time."""

from __future__ import annotations

from batchwright_worker.api.messages import PlanResult
from batchwright_worker.runner.job import Job
from batchwright_worker.runner.outputs.temporaries import has_temporaries, remove_temporaries
from batchwright_worker.runner.steps.commit import Committed, commit
from batchwright_worker.runner.steps.plan import check_free, check_tasks, make_plan
from batchwright_worker.runner.steps.replacement import finish_replacement
from batchwright_worker.runner.steps.retry import check_complete, commit_retry, plan_retry
from batchwright_worker.runner.storage.locations import Location
from batchwright_worker.runner.storage.output_lock import GivenUp, alone
from batchwright_worker.runner.storage.plan_file import read_plan
from batchwright_worker.runner.storage.presence import Presence
from batchwright_worker.runner.storage.retry_files import read_replacement


def _never() -> bool:
    return False


def plan_job(job: Job, presence: Presence | None = None, given_up: GivenUp = _never) -> PlanResult:
    """`presence` begins before another run may plan. While others have the output it is waited, until `given_up`.
    Raises StepFailed as `make_plan` or `plan_retry`."""
    output = job.output()
    check_tasks(job)
    if job.retries:  # nothing is put into a folder that is not ours
        check_complete(output)
    else:
        check_free(output, read_plan(output))
    with alone(output, given_up):
        finish_replacement(output)
        plan = plan_retry(job) if job.retries else make_plan(job)
        if presence is not None:
            presence.begin()
    return plan


def commit_job(job: Job, presence: Presence | None = None, given_up: GivenUp = _never) -> Committed:
    """`presence` ends when no other run may plan. Waits as `plan_job`. Raises StepFailed as `commit` or
    `commit_retry`."""
    with alone(job.output(), given_up):
        if presence is not None:
            presence.end()
        return commit_retry(job) if job.retries else commit(job)


def tidy(output: Location, given_up: GivenUp = _never) -> None:
    """Remove what a killed run left beside an output that another one completed meanwhile. Waits as `plan_job`."""
    if has_temporaries(output):
        with alone(output, given_up):
            remove_temporaries(output)


def end_replacement(output: Location, given_up: GivenUp = _never) -> None:
    """Finish what a commit began that crashed, if there is such. Waits as `plan_job`."""
    if read_replacement(output) is not None:
        with alone(output, given_up):
            finish_replacement(output)
