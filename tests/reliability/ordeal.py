"""Thousands of requests at once, some with bad rows, some whose callers leave: what each must meet."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tests.reliability.callers import Answer, Caller, request_of
from tests.reliability.fates import Fate, Row, row_of
from tests.reliability.grpc_callers import GrpcCaller

Kind = Literal["good", "bad row", "raising row", "misfit", "leaves"]


@dataclass(frozen=True, slots=True)
class Request:
    """`rows` of one call; `leaves_after_s` where its caller does not wait for the answer."""

    kind: Kind
    rows: tuple[Row, ...]
    leaves_after_s: float = 0.0


@dataclass
class Tally:
    """What came of the requests; `wrong` tells of every one that was not answered as it should."""

    answered: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def met(self, request: Request, answer: Answer) -> None:
        """Checks one answer."""
        self.answered[request.kind] += 1
        if (why := _why_wrong(request, answer)) is not None:
            self.wrong.append(f"{request.kind} {request.rows}: {why}")


def requests(count: int, seed: int) -> Iterator[Request]:
    """1 % with a bad row (named by the model, raised without a name, or of a wrong shape), 5 % leave; one call in
    five has several rows."""
    rng = random.Random(seed)
    number = 1
    for _ in range(count):
        rows = rng.choice((2, 3, 4)) if rng.random() < 0.2 else 1
        numbers = range(number, number + rows)
        number += rows
        roll = rng.random()
        if roll < 0.05:
            yield Request("leaves", tuple(row_of(each) for each in numbers), rng.choice((0.0, 0.001, 0.005, 0.02)))
        elif roll < 0.06:
            yield _bad(rng, numbers)
        else:
            yield Request("good", tuple(row_of(each) for each in numbers))


def _bad(rng: random.Random, numbers: range) -> Request:
    kind: Kind = rng.choice(("bad row", "raising row", "misfit"))
    if kind == "misfit":
        return Request(kind, tuple(row_of(each)[:3] for each in numbers))  # type: ignore[misc]
    fate = Fate.BAD if kind == "bad row" else Fate.RAISES
    bad = rng.choice(numbers)
    return Request(kind, tuple(row_of(each, fate if each == bad else Fate.GOOD) for each in numbers))


def _why_wrong(request: Request, answer: Answer) -> str | None:
    if request.kind == "good":
        return None if answer.is_right(request.rows) else f"{answer.status} {answer.body}"
    bad = [int(row[0]) for row in request.rows if row[1] != Fate.GOOD]
    wanted = {
        "bad row": (500, f"row {bad[0] if bad else 0} is bad"),
        "raising row": (500, f"cannot do {bad}"),
        "misfit": (400, "x"),
    }
    status, words = wanted[request.kind]
    return None if answer.status == status and words in answer.error else f"{answer.status} {answer.body}"


async def run(http: int, grpc: int, asked: Sequence[Request], connections: int) -> Tally:
    """All requests, over so many HTTP connections at a time and, one in ten or so, calls of one gRPC channel."""
    tally, queue = Tally(), iter(asked)

    async def over_http() -> None:
        async with Caller(http) as caller:
            for request in queue:
                await _one(caller, request, tally)

    async def over_grpc(caller: GrpcCaller) -> None:
        for request in queue:
            if request.kind == "leaves":
                await caller.leave(request.rows, request.leaves_after_s)
                tally.answered["leaves"] += 1
            else:
                tally.met(request, await caller.ask(request.rows))

    async with GrpcCaller(grpc) as channel, asyncio.TaskGroup() as group:
        for number in range(connections):
            group.create_task(over_grpc(channel) if number % 10 == 0 else over_http())
    return tally


async def _one(caller: Caller, request: Request, tally: Tally) -> None:
    await caller.send(request_of(request.rows, "m"))
    if request.kind == "leaves":
        await asyncio.sleep(request.leaves_after_s)
        caller.abort()
        tally.answered["leaves"] += 1
        return
    try:
        tally.met(request, await caller.answer())
    except ConnectionError as error:
        tally.wrong.append(f"{request.kind} {request.rows}: {error}")
