"""Rows of one model on their way to its replicas: many rows a request, to the replica with the shortest expected wait.

Every row is answered exactly once, with a result or an error of its own; a refused or unanswered row is sent again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from batchwright_worker.runner.errors import StepFailed, shortened
from batchwright_worker.runner.models.call import Outputs, PendingRows
from batchwright_worker.runner.models.replica_load import backoff_s
from batchwright_worker.runner.models.replicas import (
    NotAccepted,
    NotTrusted,
    Replica,
    ReplicaRefused,
    ReplicaRejected,
    ReplicaResponse,
    ReplicaSet,
    Unreachable,
)
from batchwright_worker.runner.models.row_queue import RowQueue
from batchwright_worker.runner.models.signature import InputSignature
from batchwright_worker.runner.models.wire import (
    BadAnswerError,
    digests_of,
    is_whole,
    outputs_of,
    preferred_size,
    request_parts,
    signature_of,
)

MAX_REQUEST_BYTES = 32 << 20
MODEL_ERROR_TRIES = 3
NOT_TRUSTED_TRIES = 5
_NOT_THERE = 404
_LATE = 408
"""The request did not arrive whole in time, as where this process was kept waiting: no fault of the rows."""
_ASK_AGAIN_S = 1.0
_PAUSES_S = (0.1, 2.0)
_LATENESS = 0.1
"""Share of the time that a model has been waited for by which its answer may come late."""


class ModelCheck(Protocol):
    """Whether a model may take part in this data set."""

    def check(self, deployment: str, model: str, digests: Mapping[str, str]) -> None:
        """`digests` by kind of accelerator, as a replica tells them. Blocking. Raises StepFailed(ModelChanged)."""


class ModelClient:
    """One model of one deployment. No replica gets rows before it has told what its model is made of and `check` has
    agreed; what it refuses goes to `on_broken`."""

    def __init__(
        self, replicas: ReplicaSet, model: str, check: ModelCheck, on_broken: Sequence[Callable[[StepFailed], None]]
    ) -> None:
        self._replicas = replicas
        self._model = model
        self._check = check
        self._on_broken = on_broken
        self._asked: set[int] = set()
        """Replicas (by identity) that are just asked."""
        self._queue: RowQueue[PendingRows] = RowQueue()
        self._again: deque[list[PendingRows]] = deque()
        self._sending: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.signature: InputSignature | None = None
        self.requests = 0
        replicas.listeners.append(self.dispatch)

    async def learn(self) -> InputSignature:
        """Fetch the metadata, waiting until a replica answers. Raises StepFailed(UnknownModel | InvalidModel |
        CertificateNotTrusted | CertificateRefused)."""
        attempt, not_trusted, began = 0, 0, time.monotonic()
        while self.signature is None:
            for replica in list(self._replicas.replicas):
                try:
                    self.signature = await self._ask_metadata(replica)
                    break
                except (NotTrusted, NotAccepted) as error:
                    not_trusted += 1
                    if not_trusted >= NOT_TRUSTED_TRIES:
                        raise self._no_trust(error) from error
                except (Unreachable, ReplicaRefused):
                    continue
            else:
                attempt += 1
                self._replicas.refresh()
                most = min(max(_LATENESS * (time.monotonic() - began), _PAUSES_S[0]), _PAUSES_S[1])
                await asyncio.sleep(backoff_s(attempt, share=random.random(), most=most))  # noqa: S311 - jitter
        return self.signature

    def _no_trust(self, error: NotTrusted | NotAccepted) -> StepFailed:
        if isinstance(error, NotAccepted):
            return StepFailed(
                "CertificateRefused",
                f"deployment {self._replicas.deployment!r}: {error}; it asks for a certificate that its client CA has "
                "signed: put one into the Secret that its spec.tls.jobsSecretRef names, and the CA into ca.crt of "
                "spec.tls.clientCaSecretRef",
            )
        return StepFailed(
            "CertificateNotTrusted",
            f"deployment {self._replicas.deployment!r}: {error}; put the CA into ca.crt of the Secret that its "
            "spec.tls.secretRef names, and the certificate's name into spec.tls.serverName",
        )

    async def _ask_metadata(self, replica: Replica) -> InputSignature:
        try:
            metadata = await self._replicas.metadata(replica, self._model)
            config = await self._replicas.config(replica, self._model)
            replica.worked()
            signature = signature_of(self._replicas.deployment, self._model, metadata.body, config.body)
            await self._compare(replica, config.body)
        except (ReplicaRejected, BadAnswerError) as error:
            what = f"deployment {self._replicas.deployment!r}, model {self._model!r}: {error}"
            reason = (
                "UnknownModel" if isinstance(error, ReplicaRejected) and error.status == _NOT_THERE else "InvalidModel"
            )
            raise StepFailed(reason, f"{what}; name a model of that ModelDeployment in the task") from error
        return signature

    async def confirm(self) -> None:
        """Ask all replicas again what the model is made of: nothing else may have answered meanwhile. Raises
        StepFailed(ModelChanged)."""
        await asyncio.gather(*(self._ask_digests(replica) for replica in list(self._replicas.replicas)))

    async def _compare(self, replica: Replica, config: bytes) -> None:
        digests = digests_of(config)
        await asyncio.to_thread(self._check.check, self._replicas.deployment, self._model, digests)
        if self._model not in replica.known_models and (size := preferred_size(config)) is not None:
            replica.load(self._model).begins_with(size)
        replica.known_models.add(self._model)

    async def _ask_digests(self, replica: Replica) -> None:
        """Nothing where it does not answer: it is asked again before it gets rows."""
        try:
            config = await self._replicas.config(replica, self._model)
            replica.worked()
            self._check_rows(replica, config.body)
            await self._compare(replica, config.body)
        except Unreachable:
            pass
        except (ReplicaRefused, ReplicaRejected, BadAnswerError):
            replica.free_at = time.monotonic() + _ASK_AGAIN_S

    def _check_rows(self, replica: Replica, config: bytes) -> None:
        """Rows that share a request would be taken for one item by a replica that runs requests whole, and no answer
        would show it. Raises StepFailed(ModelChanged), BadAnswerError."""
        known = self.signature
        if known is None or is_whole(config) == known.whole:
            return
        here, there = ("whole", "in rows") if known.whole else ("in rows", "whole")
        raise StepFailed(
            "ModelChanged",
            f"{known.title} runs requests {here} where the job began and {there} at {replica.host}: the deployment was "
            "changed meanwhile, or its artifacts differ; write batching.mode, and create the job again",
        )

    def _introduce(self, now: float) -> None:
        """Ask the replicas that have not told yet."""
        for replica in self._replicas.replicas:
            if self._model not in replica.known_models and replica.free_at <= now and id(replica) not in self._asked:
                self._asked.add(id(replica))
                self._keep(self._introduced(replica))

    async def _introduced(self, replica: Replica) -> None:
        try:
            await self._ask_digests(replica)
        except StepFailed as error:
            for tell in self._on_broken:
                tell(error)
        finally:
            self._asked.discard(id(replica))
        self.dispatch()

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def submit(self, pending: Sequence[PendingRows]) -> None:
        """Have these rows answered."""
        for rows in pending:
            self._queue.put(rows.block.group, rows)
        self.dispatch()

    @property
    def _known(self) -> InputSignature:
        """Rows are made from what `learn` has found."""
        assert self.signature is not None
        return self.signature

    @property
    def window_rows(self) -> float:
        """Rows that all replicas together may have."""
        return sum(replica.load(self._model).window for replica in self._replicas.replicas)

    @property
    def pending(self) -> int:
        """Rows that wait here."""
        return len(self._queue) + sum(map(_count, self._again))

    def dispatch(self) -> None:
        """Send what there is room for. Called when rows arrive, an answer comes, or replicas change."""
        while self.pending:
            now = time.monotonic()
            self._introduce(now)
            replica = self._best(now)
            if replica is None:
                self._wake_later(now)
                return
            self._send(replica, self._next_rows(replica))

    async def close(self) -> None:
        """Drop what runs and waits."""
        if self._timer is not None:
            self._timer.cancel()
        self._replicas.listeners.remove(self.dispatch)
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)

    def _best(self, now: float) -> Replica | None:
        free = [
            replica
            for replica in self._replicas.replicas
            if self._model in replica.known_models and replica.free_at <= now and replica.load(self._model).room
        ]
        return min(free, key=lambda replica: replica.load(self._model).expected_wait_ms(now), default=None)

    def _wake_later(self, now: float) -> None:
        times = [replica.free_at for replica in self._replicas.replicas if replica.free_at > now]
        if times:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(min(times) - now, self.dispatch)

    def _next_rows(self, replica: Replica) -> list[PendingRows]:
        load = replica.load(self._model)
        limit = 1 if self._known.whole else min(load.room, load.request_rows)
        if self._again:
            return self._first(self._again.popleft(), limit)
        rows = self._queue.take(limit)
        return self._first(rows, max(1, MAX_REQUEST_BYTES // max(1, rows[0].block.row_bytes)))

    def _first(self, pending: list[PendingRows], count: int) -> list[PendingRows]:
        """The first rows; what is left goes next."""
        taken, left = divided(pending, count)
        if left:
            self._again.appendleft(left)
        return taken

    def _send(self, replica: Replica, rows: list[PendingRows]) -> None:
        replica.load(self._model).sent(_count(rows))
        self._keep(self._exchange(replica, rows))

    async def _exchange(self, replica: Replica, pending: list[PendingRows]) -> None:
        load, rows = replica.load(self._model), _count(pending)
        header, tensors = request_parts(pending, self._known)
        started = time.monotonic()
        self.requests += 1
        try:
            answer = await self._replicas.infer(replica, self._model, header, tensors)
            outputs = outputs_of(answer.body, answer.header_length, rows, self._known)
        except Unreachable:
            load.lost(rows)
            self._again.appendleft(pending)
        except ReplicaRefused as refusal:
            self._refused(replica, pending, refusal)
        except (ReplicaRejected, BadAnswerError) as error:
            load.answered(rows, now=time.monotonic(), elapsed_ms=None, wait_ms=None, batch_size=None)
            replica.worked()
            self._rejected(pending, error)
        else:
            self._answered(replica, rows, answer, started)
            _hand_out(pending, outputs, answer.batch_size, rows)
        self.dispatch()

    def _answered(self, replica: Replica, rows: int, answer: ReplicaResponse, started: float) -> None:
        now = time.monotonic()
        replica.worked()
        replica.load(self._model).answered(
            rows, now=now, elapsed_ms=(now - started) * 1000.0, wait_ms=answer.wait_ms, batch_size=answer.batch_size
        )

    def _refused(self, replica: Replica, pending: list[PendingRows], refusal: ReplicaRefused) -> None:
        """Where other rows of ours are at this replica, one of their answers frees a place and says so; else the time
        that the refusal names is kept, or a growing one."""
        now = time.monotonic()
        load = replica.load(self._model)
        load.refused(_count(pending), now=now, wait_ms=refusal.wait_ms)
        replica.answers = True
        for rows in pending:
            rows.refusals += 1
        if not load.in_flight:
            pause = backoff_s(max(rows.refusals for rows in pending), share=random.random())  # noqa: S311 - jitter
            replica.free_at = now + max(pause, refusal.retry_after_s or 0.0)
        self._again.appendleft(pending)

    def _rejected(self, pending: list[PendingRows], error: ReplicaRejected | BadAnswerError) -> None:
        """A request of many rows is halved until the bad rows are known; a row that breaks the model is tried again."""
        if (count := _count(pending)) > 1:
            self._again.extendleft(reversed(divided(pending, count // 2)))
            return
        row = pending[0]
        row.errors += 1
        fault_of_row = isinstance(error, ReplicaRejected) and error.status < 500 and error.status != _LATE
        if fault_of_row or row.errors >= MODEL_ERROR_TRIES:
            row.failed(shortened(str(error)))
        else:
            self._again.append([row])


def divided(pending: Sequence[PendingRows], count: int) -> tuple[list[PendingRows], list[PendingRows]]:
    """The first `count` rows, and the others."""
    taken: list[PendingRows] = []
    for index, rows in enumerate(pending):
        if not count:
            return taken, list(pending[index:])
        if len(rows) > count:
            first, rest = rows.split(count)
            return [*taken, first], [rest, *pending[index + 1 :]]
        taken.append(rows)
        count -= len(rows)
    return taken, []


def _count(pending: Sequence[PendingRows]) -> int:
    return sum(map(len, pending))


def _hand_out(pending: Sequence[PendingRows], outputs: Outputs, batch_size: int | None, request_rows: int) -> None:
    if len(pending) == 1:
        pending[0].done(outputs, batch_size, request_rows)
        return
    start = 0
    for rows in pending:
        end = start + len(rows)
        # a copy where others share the body: rows that are kept must not keep them all
        rows.done({name: array[start:end].copy() for name, array in outputs.items()}, batch_size, request_rows)
        start = end
