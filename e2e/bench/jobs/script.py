"""What somebody writes who has no job runner: asyncio, aiohttp, many rows a request, some requests at once.

    python -m e2e.bench.jobs.script URL INPUT OUTPUT [--rows 64] [--requests 4]

It reads the lines of INPUT, asks the model at URL, and writes the records that the job writes, in the same order. No
shards, no resume, no bad items. The last line that it prints is JSON: seconds and CPU seconds, without its imports.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import aiohttp
import msgspec
import numpy as np

_DECODER = msgspec.json.Decoder()
_ENCODER = msgspec.json.Encoder()
_LENGTH = "Inference-Header-Content-Length"


async def ask(session: aiohttp.ClientSession, url: str, lines: Sequence[bytes]) -> bytes:
    """The records of these lines."""
    items = [_DECODER.decode(line) for line in lines]
    rows = np.asarray([item["x"] for item in items], np.float32)
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": rows.shape,
        "parameters": {"binary_data_size": rows.nbytes},
    }
    header = _ENCODER.encode({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    while True:
        headers = {_LENGTH: str(len(header)), "Content-Type": "application/octet-stream"}
        async with session.post(url, data=header + rows.tobytes(), headers=headers) as response:
            body = await response.read()
            if response.status == 200:
                answers = np.frombuffer(body[int(response.headers[_LENGTH]) :], np.int64).tolist()
                break
        await asyncio.sleep(0.01)
    records = ({"id": item["id"], "best": [answer]} for item, answer in zip(items, answers, strict=True))
    return _ENCODER.encode_lines(records)


async def run(url: str, source: Path, target: Path, rows: int, requests: int) -> None:
    """All lines of `source`, `rows` a request, at most so many requests at once."""
    asked: deque[asyncio.Task[bytes]] = deque()
    with source.open("rb") as lines, target.open("wb") as output:
        async with aiohttp.ClientSession() as session:
            free = asyncio.Semaphore(requests)

            async def one(batch: Sequence[bytes]) -> bytes:
                try:
                    return await ask(session, url, batch)
                finally:
                    free.release()

            while batch := list(islice(lines, rows)):
                await free.acquire()
                asked.append(asyncio.create_task(one(batch)))
                while asked and asked[0].done():
                    output.write(asked.popleft().result())
            for task in asked:
                output.write(await task)


def main() -> None:
    """Run, and say how long it took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--requests", type=int, default=4)
    args = parser.parse_args()
    started, cpu = time.perf_counter(), time.process_time()
    asyncio.run(run(args.url, args.source, args.target, args.rows, args.requests))
    print(json.dumps({"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    main()
