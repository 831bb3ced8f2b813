"""The pool: the requests of clients, run by worker processes."""

from __future__ import annotations

import asyncio
import os
import time
from functools import partial
from typing import Any, Awaitable, Callable, Dict, Optional, Tuple

from ...errors import AnswerLost, ClientDisconnected
from ...requests import Disconnect, Request, next_number
from ...responses import FileSlice, Refusal, Response
from ..base import WORKER_TIMEOUT_SECONDS, Executor, Resources, Route, proc_env
from .frames import FrameType, encode_run
from .links import STOP_SECONDS, Job, Result, Retirement, WorkerLink
from .supervisor import Supervisor, worker_stats


async def tell_where(worker: WorkerLink, error: AnswerLost) -> None:
    """Have an error say which worker it is of, and where that was."""
    error.worker = f"worker {worker.number}, pid {worker.pid}"
    if worker.why is Retirement.late:
        error.trace = await worker.trace.read_late(worker.order)
    else:
        error.trace = worker.trace.read()  # it has died: no more will come


class Pool(Supervisor):
    """The worker processes, with clients that wait for them.

    Jobs that return run on `size` slots; streams run on `max_streams` slots of their
    own. Who has a slot has a worker: the Supervisor keeps these, its Scheduler says
    whose turn it is, and here each job has a client behind it.
    """

    async def start(self) -> None:
        """Start the workers; jobs that come before they are ready wait for them."""
        proc_env.pool = proc_env.pool or self
        await super().start()

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Let the workers end, kill the late ones after `seconds`, end the zygote."""
        await super().stop(seconds)
        proc_env.pool = None

    def stats(self) -> Dict[str, Any]:
        """Return its bounds, counts and workers, for `Application.stats`."""
        scheduler, crashes = self.scheduler, dict(self.deaths)
        memory, workers = self._recycler.memory, list(self.workers.values())
        memory.ask()
        return {
            "size": self.size,
            "busy": scheduler.jobs.taken,
            "max_streams": scheduler.streams.size,
            "streams": scheduler.streams.taken,
            "max_waiting": self.options.max_waiting,
            "waiting": scheduler.all_waiting,
            "started": self.started,
            "kills": crashes.pop("", 0),
            "crashes": crashes,
            "workers": [worker_stats(one, memory.bytes_of(one)) for one in workers],
        }

    async def run(self, route: Route, request: Request) -> Response:
        """Run a route in a worker, now or when its turn has come.

        Raises:
            HTTPError: 503 when too much waits, it waited too long, or workers keep
                dying of it, 504 at the deadline, 502 when the worker died.
        """
        number = request.number = request.number or next_number()
        # Written here, so that what can't travel (env.context) fails its own request.
        frame = encode_run(route, number, request)
        answer: asyncio.Future[Response]
        answer = asyncio.get_running_loop().create_future()
        take = partial(self._take, request, answer)
        job = Job(number, route, frame, take, request.body_file)
        disconnect = request.disconnect or Disconnect()
        left = partial(self._client_left, job)
        try:
            self.scheduler.submit(job)
            disconnect.add(left)
            try:
                return await answer
            finally:
                disconnect.remove(left)
                began = job.started or time.monotonic()
                request.queue_seconds = began - job.arrived
        except AnswerLost as error:
            if request.debug and job.worker is not None:
                await tell_where(job.worker, error)
            raise
        finally:
            job.take = None
            if job.worker is None:
                self.scheduler.drop(job)  # nobody waits for it any more
                job.end()
            del answer, take  # or an error is in a circle with its traceback

    def _take(
        self, request: Request, answer: asyncio.Future[Response], result: Result
    ) -> None:
        body = getattr(result, "body", None)
        if isinstance(body, FileSlice) and body.descriptor is not None:
            request.after_response(partial(os.close, body.descriptor))
        if answer.done():
            return  # its task has been cancelled
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    def _client_left(self, job: Job) -> None:
        gone = ClientDisconnected("the client left")
        if self.scheduler.drop(job):
            job.fail(gone)
        elif job.worker is not None and job.take is not None:
            kill = job.route.on_disconnect == "kill"
            if job.route.on_disconnect == "finish" or (job.is_stream and not kill):
                job.worker.send(FrameType.CANCEL, job)  # for env.disconnected
                return
            why = Retirement.killed if kill else Retirement.unwanted
            job.worker.retire(why)
            job.fail(gone)


class StreamExecutor(Executor):
    """Runs `stream` routes in the pools that they name."""

    kinds: Tuple[str, ...] = ("generator",)
    default_for = kinds
    on_disconnect: Tuple[str, ...] = ("stop", "kill")
    default_timeout = WORKER_TIMEOUT_SECONDS
    in_worker = True

    def __init__(self, resources: Resources) -> None:
        self.pools = resources.pools

    def begin(self, route: Route, request: Request) -> Awaitable[Response]:
        """Run a route in a worker of its pool."""
        self.check_room(route)  # before anything is spent on it
        return self.pools[route.pool].run(route, request)

    def check_room(self, route: Route) -> None:
        """Refuse a request whose pool is full, or whose route is off."""
        scheduler = self.pools[route.pool].scheduler
        if not scheduler.may_submit(route):
            route.counts.rejections += 1
            raise scheduler.rejection(route)

    def refusals(self, route: Route) -> Callable[[bool], Optional[Refusal]]:
        """Return what says how its requests are refused, as long as they are."""
        scheduler = self.pools[route.pool].scheduler

        def refusal(counts: bool) -> Optional[Refusal]:
            if scheduler.may_submit(route):
                return None
            route.counts.rejections += counts
            return scheduler.rejection(route).page()

        return refusal


class PoolExecutor(StreamExecutor):
    """Runs `pool` routes; it has charge of the pools, also for `stream` routes."""

    kinds = default_for = ("def",)
    on_disconnect = ("finish", "stop", "kill")

    async def start(self) -> None:
        """Start the workers."""
        for pool in self.pools.values():
            await pool.start()

    async def stop(self, seconds: float) -> None:
        """End the workers; the late ones are killed."""
        await asyncio.gather(*(pool.stop(seconds) for pool in self.pools.values()))

    def stats(self) -> Dict[str, Any]:
        """Return what the pools tell of themselves."""
        pools = self.pools.items()
        told = [{"name": name or "default", **pool.stats()} for name, pool in pools]
        return {"pools": told}
