"""Airflow: a task that makes an InferenceJob for its day and waits for its end, by the module `batchwright`.

Its worker needs `batchwright[sdk]` and a ServiceAccount (or kubeconfig) that may create, get and watch inferencejobs. A
task that is tried again finds the job of its first try: the name has the day in it, and applying the same is no change.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from airflow.sdk import dag, task

MANIFEST = Path("/opt/airflow/dags/job.yaml")


@task(retries=2, retry_delay=datetime.timedelta(minutes=5))
def score(manifest: str, day: str, namespace: str | None = None) -> dict[str, int]:
    """How many items were done. A job that fails ends the task with its reason."""
    import batchwright

    (job,) = batchwright.load(manifest)
    job.document["metadata"]["name"] += f"-{day}"
    job.document["spec"]["output"]["uri"] += f"/{day}"
    cluster = batchwright.Cluster(namespace=namespace)
    cluster.apply(job)
    done = cluster.wait(job, timeout_s=4 * 3600, progress=lambda seen: print(seen.get("status", {}).get("summary")))
    return dict(done["status"]["items"])


@dag(schedule="@daily", start_date=datetime.datetime(2026, 1, 1), catchup=False)
def nightly() -> None:
    """One job a day."""
    score(str(MANIFEST), "{{ ds }}")


nightly()
