"""A process's metrics by OTLP: all that its /metrics has, under the same names."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from batchwright_worker.otlp.families import metrics_data
from batchwright_worker.otlp.providers import metrics_exporter_of, resource_of

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

_DEFAULT_MS: Final = 60_000.0
_LAST_S: Final = 1.0
"""The last export may take so long: the process is ending."""
logger = logging.getLogger(__name__)


class MetricsExport:
    """Sends them each OTEL_METRIC_EXPORT_INTERVAL. `families` is called in the event loop of `run`."""

    def __init__(
        self, families: Callable[[], Iterable[Family]], exporter: Any, environ: Mapping[str, str], service: str
    ) -> None:
        self._families = families
        self._exporter = exporter
        self._resource = resource_of(environ, service)
        self._interval_s = float(environ.get("OTEL_METRIC_EXPORT_INTERVAL") or _DEFAULT_MS) / 1e3
        self._began = time.time_ns()

    @classmethod
    def of(
        cls, families: Callable[[], Iterable[Family]], environ: Mapping[str, str], service: str
    ) -> MetricsExport | None:
        """None unless they are wanted."""
        exporter = metrics_exporter_of(environ)
        return None if exporter is None else cls(families, exporter, environ, service)

    async def run(self) -> None:
        """Until it is cancelled; then once more."""
        try:
            while True:
                await asyncio.sleep(self._interval_s)
                await self._export()
        finally:
            await self._export(_LAST_S)
            # Threads that still try to send would keep the process for ten seconds where nobody listens.
            self._exporter.shutdown()

    async def _export(self, timeout_s: float | None = None) -> None:
        """The metrics are read here, in the event loop that changes them, and sent from a thread."""
        data = metrics_data(self._families(), self._resource, start_ns=self._began, now_ns=time.time_ns())
        milliseconds = 10_000 if timeout_s is None else timeout_s * 1e3
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.to_thread(self._exporter.export, data, milliseconds)
        except Exception as error:
            logger.warning("metrics were not sent by OTLP: %s", error)
