"""The plan and the commit step of a job, as its `output.mode` asks for them."""

from __future__ import annotations

from batchwright_worker.api.messages import PlanResult
from batchwright_worker.runner.job import Job
from batchwright_worker.runner.steps.commit import Committed, commit
from batchwright_worker.runner.steps.plan import make_plan
from batchwright_worker.runner.steps.replacement import finish_replacement
from batchwright_worker.runner.steps.retry import commit_retry, plan_retry


def plan_job(job: Job) -> PlanResult:
    """Raises StepFailed as `make_plan` or `plan_retry`."""
    if job.retries:
        return plan_retry(job)
    finish_replacement(job.output())
    return make_plan(job)


def commit_job(job: Job) -> Committed:
    """Raises StepFailed as `commit` or `commit_retry`."""
    return commit_retry(job) if job.retries else commit(job)
