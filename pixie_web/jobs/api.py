"""What programs call: app.submit(), app.call(), app.job(), app.cancel()."""

from __future__ import annotations

import asyncio
import os
import struct
import threading
import time
from typing import Any, Dict, Mapping, NamedTuple, Optional, Sequence, cast

from ..about import log
from ..errors import PixieError, RouteError
from ..executors.base import BusyError, ProcessType, proc_env
from ..forks import this_process
from ..requests import Request
from .main import ALIVE_SECONDS, Called, Main, Outcome
from .orders import (
    UNFINISHED_SECONDS,
    JobOptions,
    Order,
    new_record,
    read_options,
    unpack,
)

ID_BYTES = 16
FINISHED = ("done", "failed", "cancelled", "lost")


class JobError(PixieError):
    """A job that was waited for has failed; says what its function raised."""


class JobInfo(NamedTuple):
    """What became of a job, as `app.job` finds it.

    Attributes:
        state: "waiting", "running", "done", "failed", "cancelled" or "lost".
        progress: what the function has told last; None before it did.
        result: of one that is done.
        error: why it failed or was lost, in words.
        submitted, started, ended: seconds since 1970, or None.
    """

    id: str
    function: str
    state: str
    progress: Any
    result: Any
    error: str
    submitted: float
    started: Optional[float]
    ended: Optional[float]

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in FINISHED


def running_loop() -> Optional[asyncio.AbstractEventLoop]:
    """Return the loop that runs in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _is_id(id: object) -> bool:
    """Return whether a text can be an id: it comes from clients, and names a key."""
    is_long = isinstance(id, str) and len(id) == 2 * ID_BYTES
    return is_long and set(cast(str, id)) <= set("0123456789abcdef")


class Jobs:
    """The calls of an application about jobs, in any process.

    Args:
        application: the one above all others.
    """

    def __init__(self, application: Any) -> None:
        self._application = application
        self._options = JobOptions()
        self._running: Optional[Main] = None
        self._ending: Optional[Main] = None
        self._making = threading.Lock()

    def declare(self, options: Dict[str, Any]) -> None:
        """See `Application.jobs`."""
        application = self._application
        if application.job_pool is not None:
            raise RouteError("app.jobs() is called once")
        self._options = read_options(application, dict(options))

    def _main(self) -> Main:
        """Return the jobs of this main process.

        Raises:
            PixieError: it does not serve, or has no workers.
        """
        place = self._application.job_place
        if place is None or this_process.is_copy:
            raise PixieError(
                "jobs run while the server runs: call app.submit in handlers and hooks"
            )
        pools, loop, has_workers = place
        if not has_workers:
            raise PixieError(
                "no worker is there for jobs, as no route runs in the pool: write "
                "app.jobs() above run(), or app.jobs(workers=2) for a pool of its own"
            )
        with self._making:
            if self._running is None:
                self._running = Main(self._application, self._options, pools, loop)
            return self._running

    async def end(self, seconds: float) -> None:
        """End the jobs of this main process."""
        self._ending, self._running = self._running, None
        if self._ending is not None:
            await self._ending.stop(seconds)
        self._ending = None

    def hurry(self) -> None:
        """Have `end`, also one under way, wait for no job."""
        if self._ending is not None:
            self._ending.hurry()

    def take(self, payload: bytes) -> None:
        """Take the order that a worker has sent."""
        try:
            order = Order.read(payload)
            self._main().accept(order)
        except (PixieError, ValueError, TypeError, KeyError, struct.error) as error:
            log.error("a worker ordered what is no job: %s", error)

    def submit(
        self, function: Any, args: Sequence[Any], timeout: Optional[float]
    ) -> str:
        """See `Application.submit`."""
        order = Order.write(os.urandom(ID_BYTES).hex(), function, args, timeout)
        state, key = self._application.state, f"job:{order.id}"
        in_worker = proc_env.proc_type is ProcessType.pool
        if in_worker and threading.current_thread() is not threading.main_thread():
            # Two threads that write to one pipe would cut each other's frames.
            raise PixieError("app.submit in a worker is for the handler's own thread")
        main = None if in_worker else self._main()
        full = f"jobs:{Request.run}:full"
        if main.is_full if main is not None else state.get(full):
            raise BusyError(1)
        state.set(key, new_record(order), expire=UNFINISHED_SECONDS)
        try:
            if main is None:
                proc_env.send_order(order.body)
            elif running_loop() is main.loop:
                main.accept(order)
            else:
                main.loop.call_soon_threadsafe(main.accept, order)
        except (OSError, RuntimeError) as error:
            state.delete(key)
            raise PixieError(f"the job can't be ordered from here: {error}") from error
        return order.id

    async def call(
        self, function: Any, args: Sequence[Any], timeout: Optional[float]
    ) -> Any:
        """See `Application.call`."""
        order = Order.write("", function, args, timeout)
        if proc_env.proc_type is ProcessType.pool:
            raise PixieError("await app.call in an asnc route; here call the function")
        main = self._main()
        if asyncio.get_running_loop() is not main.loop:
            raise PixieError("await app.call on the server's own loop: an asnc route")
        waiter: asyncio.Future[Outcome] = main.loop.create_future()
        return await self._wait_for(main, order, waiter)

    async def _wait_for(
        self, main: Main, order: Order, waiter: asyncio.Future[Any]
    ) -> Any:
        def done(outcome: Outcome) -> None:
            if not waiter.done():
                waiter.set_result(outcome)

        errand = Called(order, main.route(order, False), main.timeout(order), done)
        main._start(errand)
        try:
            outcome: Outcome = await waiter
        finally:
            if not waiter.done() or waiter.cancelled():
                main.stop_errand(errand)
        if errand.error is not None:
            raise errand.error
        if outcome.state != "done":
            raise JobError(f"the job {order.function}: {outcome.error}")
        return unpack(outcome.result)[1][0]

    def job(self, id: str) -> Optional[JobInfo]:
        """See `Application.job`."""
        state, key = self._application.state, f"job:{id}"
        record = state.get(key) if _is_id(id) else None
        if record is None:
            return None
        kept = state.get(f"{key}:result") if record["state"] == "done" else None
        result = None if kept is None else unpack(kept)[1][0]
        if record["state"] not in FINISHED and self._is_lost(record):
            record = {**record, "state": "lost", "error": "its server has ended"}
        times = (record[name] for name in ("submitted", "started", "ended"))
        progress = record.get("progress")
        told = record["function"], record["state"], progress, result, record["error"]
        return JobInfo(id, *told, *times)

    def _is_lost(self, record: Mapping[str, Any]) -> bool:
        is_young = time.time() - record["submitted"] < ALIVE_SECONDS
        alive = f"jobs:{record['run']}:alive"
        return not is_young and not self._application.state.get(alive)

    def cancel(self, id: str) -> bool:
        """See `Application.cancel`."""
        state = self._application.state
        record = state.get(f"job:{id}") if _is_id(id) else None
        if record is None or record["state"] in FINISHED or self._is_lost(record):
            return False
        state.publish(f"jobs:{record['run']}", id)
        return True
