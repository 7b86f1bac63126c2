"""What the page draws over time: a bounded series of samples of an overview. Pure; the clock is the overview's."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from batchwright_worker.dashboard.overview import DeploymentView, JobView, Overview, ServedModelView

SAMPLES: Final = 720
"""An hour of one in 5 s; older ones are dropped."""
MOST_SERIES: Final = 400
"""Of more models and jobs, those that come first in the overview have series; the page's tables show all."""

Sample = dict[str, list[float | None]]
"""Series -> its values, in the order of FIELDS."""
FIELDS: Final = {
    "model": ("batch", "p95", "queue", "rate"),
    "job": ("done", "failed", "rate"),
    "system": ("utilization", "queue", "rate", "waiting"),
}


@dataclass(slots=True)
class History:
    """The newest samples; every series has one value, or None, for every time."""

    times: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=SAMPLES))

    def add(self, overview: Overview) -> Sample:
        """The sample that was added."""
        sample = dict(_limited(overview))
        self.times.append(overview.time)
        self.samples.append(sample)
        return sample

    def as_json(self) -> dict[str, Any]:
        """{"fields", "times", "series": {name: [values of each field]}}: a column for each field."""
        names = dict.fromkeys(name for sample in self.samples for name in sample)
        series = {}
        for name in names:
            width = len(FIELDS[name.partition(":")[0]])
            empty: list[float | None] = [None] * width
            rows = [sample.get(name, empty) for sample in self.samples]
            series[name] = [[row[column] for row in rows] for column in range(width)]
        return {"fields": FIELDS, "times": list(self.times), "series": series}


def _limited(overview: Overview) -> Iterator[tuple[str, list[float | None]]]:
    yield "system", system_values(overview)
    for number, found in enumerate(_series(overview)):
        if number == MOST_SERIES:
            return
        yield found


def _series(overview: Overview) -> Iterator[tuple[str, list[float | None]]]:
    for job in overview.jobs:
        yield f"job:{job.id}", _job(job)
    for deployment in overview.deployments:
        for model in deployment.models:
            yield f"model:{deployment.id}/{model.name}", _model(deployment, model)


def system_values(overview: Overview) -> list[float | None]:
    """Of the whole overview, in the order of FIELDS: mean utilization, rows that wait, rows/s, pods without a place."""
    busy = [each.utilization for each in overview.processors if each.utilization is not None]
    queues = [found for each in overview.deployments if (found := queue_of(each)) is not None]
    rates = [found for each in overview.deployments if (found := rate_of(each)) is not None]
    waiting = float(len(overview.waiting) + overview.waiting_left_out)
    return [
        sum(busy) / len(busy) if busy else None,
        sum(queues) if queues else None,
        sum(rates) if rates else None,
        waiting,
    ]


def _model(deployment: DeploymentView, model: ServedModelView) -> list[float | None]:
    """With one model the live values of the deployment are those of its model."""
    alone = len(deployment.models) == 1
    queue = deployment.live_queue if alone and deployment.live_queue is not None else model.queue
    p95 = deployment.live_p95 if alone and deployment.live_p95 is not None else model.p95
    rate = deployment.live_throughput if alone and deployment.live_throughput is not None else model.throughput
    return [model.batch_size, p95, queue, rate]


def _job(job: JobView) -> list[float | None]:
    return [float(job.succeeded + job.failed), float(job.failed), job.rate]


def queue_of(deployment: DeploymentView) -> float | None:
    """Rows that wait: as measured now, else as written."""
    if deployment.live_queue is not None:
        return deployment.live_queue
    known = [each.queue for each in deployment.models if each.queue is not None]
    return float(sum(known)) if known else None


def rate_of(deployment: DeploymentView) -> float | None:
    """Rows per second: as measured now, else as written."""
    if deployment.live_throughput is not None:
        return deployment.live_throughput
    known = [each.throughput for each in deployment.models if each.throughput is not None]
    return float(sum(known)) if known else None
