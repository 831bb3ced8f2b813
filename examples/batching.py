"""Batching for a model: what comes within a few milliseconds is computed at once.

    python3 examples/batching.py        http://localhost:8000/double/21

The first request waits 3 ms for others; what comes while a batch is computed is the
next one. So the worker that has the model is called once for up to 32 of them.
"""

import asyncio
import time
from pathlib import Path
from sys import path

if __name__ == "__main__":  # from a clone
    path.insert(0, str(Path(__file__).resolve().parents[1]))

from pixie_web import app, run

waiting = []  # of main alone: (number, future)
computing = None  # the task that computes batches, one after the other
app.jobs(workers=1)


def predict(numbers):
    """Stand for a model: a call takes long, one more number little."""
    time.sleep(0.005 + 0.0001 * len(numbers))
    return [2 * number for number in numbers]


async def compute_batch():
    batch = waiting[:32]
    del waiting[:32]
    try:
        results = await app.call(predict, [number for number, _ in batch])
    except Exception as error:
        results = [error] * len(batch)
    for (_, future), result in zip(batch, results):
        future.set_result(result)


async def compute_batches():
    await asyncio.sleep(0.003)
    while waiting:  # also what has come meanwhile
        await compute_batch()


@app.get("/double/<number:int>", "asnc")
async def double(env, number):
    global computing
    future = asyncio.get_running_loop().create_future()
    waiting.append((number, future))
    if computing is None or computing.done():
        computing = asyncio.ensure_future(compute_batches())
    result = await asyncio.shield(future)
    return {"result": result} if isinstance(result, int) else (str(result), 503)


if __name__ == "__main__":
    run()
