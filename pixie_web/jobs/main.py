"""The jobs of a server: its line of them, and their way through a pool."""

from __future__ import annotations

import asyncio
import copy
import math
import os
import time
from collections import deque
from typing import (
    Any,
    Callable,
    Deque,
    Dict,
    Iterator,
    Mapping,
    NamedTuple,
    Optional,
    cast,
)

from ..about import log
from ..errors import AnswerLost, HTTPError, PixieError
from ..executors.base import QUEUE_TIMEOUT_SECONDS, BusyError, Route, RouteCounts
from ..executors.pool.frames import encode_run
from ..executors.pool.links import Job, Result, Retirement
from ..executors.pool.pool import Pool
from ..protocol.http11 import parse_head
from ..requests import Request, next_number
from ..responses import FileSlice, Response
from ..text import load_json
from .orders import UNFINISHED_SECONDS, JobOptions, Order, error_text, new_record

MAX_WAITING_BYTES = 64 * 1024 * 1024  # of the orders that wait, as of requests
ALIVE_SECONDS = 30.0  # without a sign of its server a job is lost
BEAT_SECONDS = 10.0
RETRY_SECONDS = 0.5  # until a job is offered again that its pool had no room for
CAUSE_SECONDS = 5.0  # for the news of how a worker ended
# From one try to write down the end of a job to the next, while the state is held by
# others, or out of reach: a Redis that is started anew.
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 5.0
END_SECONDS = 5.0  # for what is to be written down when the server stops
MAX_TIMER_SECONDS = 1e9  # a longer timeout is none
_HEAD = parse_head(b"POST /job HTTP/1.1\r\nHost: localhost\r\n\r\n")


class Outcome(NamedTuple):
    """How a job ended: its state, why, and its packed result."""

    state: str
    error: str = ""
    result: bytes = b""


STOPPED = Outcome("lost", "the server was stopped")


def _read_body(response: Response) -> bytes:
    body = response.body
    if isinstance(body, FileSlice) and body.descriptor is not None:
        with os.fdopen(body.descriptor, "rb") as file:
            file.seek(body.offset)
            return file.read(body.length)
    return cast(bytes, body)


def outcome_of(result: Result) -> Outcome:
    """Return how a job ended whose worker has answered, or did not."""
    if isinstance(result, AnswerLost):
        late = result.status == 504
        why = "it ran longer than its timeout" if late else "its worker died"
        return Outcome("failed", why)
    if isinstance(result, Exception):
        return Outcome("failed", str(result))
    body = _read_body(result)
    if result.status == 200:
        return Outcome("done", "", body)
    if result.status == 409:
        return Outcome("cancelled")
    try:
        return Outcome("failed", cast(Any, load_json(body))["error"])
    except (HTTPError, TypeError, KeyError):
        return Outcome("failed", f"its worker answered {result.status}")


class Errand(Job):
    """A job on its way through a pool.

    Args:
        timeout: seconds that it may run; None: without a bound.
        done: is called once, with the outcome.
    """

    def __init__(
        self,
        order: Order,
        route: Route,
        timeout: Optional[float],
        done: Callable[[Outcome], None],
    ) -> None:
        request = Request(_HEAD)
        request.body = order.body
        self.order, self.request, self.done = order, request, done
        self.cause: Optional[asyncio.TimerHandle] = None  # is waited for
        number = request.number = next_number()
        super().__init__(number, route, encode_run(route, number, request), self._take)
        self.timeout = timeout

    def _take(self, result: Result) -> None:
        if isinstance(result, BusyError):
            self.take = self._take  # it has not begun, and will be offered again
            self.refused()
            return
        outcome = outcome_of(result)
        if isinstance(result, AnswerLost) and result.status == 502:
            # How its worker ended is known a moment later than that it ended.
            loop = asyncio.get_running_loop()
            self.cause = loop.call_later(CAUSE_SECONDS, self.done, outcome)
            return
        self.done(outcome)

    def refused(self) -> None:
        """Note that its pool had no room after all."""
        self.done(Outcome("failed", "too much waits"))

    def died(self, cause: str) -> None:
        """Note how the worker ended that had it."""
        if self.cause is not None:
            self.cause.cancel()
            self.cause = None
            self.done(Outcome("failed", f"its worker died: {cause}"))


class Waiting(Errand):
    """One that was submitted, and that its line takes back when the pool is full."""

    def __init__(
        self,
        order: Order,
        route: Route,
        timeout: Optional[float],
        done: Callable[[Outcome], None],
        again: Callable[[Waiting], None],
    ) -> None:
        super().__init__(order, route, timeout, done)
        self._again = again

    def refused(self) -> None:
        """Go back into the line."""
        self._again(self)


class Called(Errand):
    """One that a coroutine waits for: a refusal is an answer to it.

    Attributes:
        error: that of its pool, a 503, 502 or 504.
    """

    error: Optional[Exception] = None

    def _take(self, result: Result) -> None:
        if isinstance(result, HTTPError):
            self.error = result
            self.done(Outcome("failed", str(result)))
        else:
            self.done(outcome_of(result))


class Backlog:
    """Jobs that their pool does not have yet, in a line for each function.

    PERF: of thousands whose function is switched off one is looked at, and not each of
    them whenever another one comes or ends.

    Attributes:
        bytes: of their orders.
    """

    def __init__(self) -> None:
        self._lines: Dict[Route, Deque[Waiting]] = {}
        self._count = self.bytes = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Waiting]:
        return iter([one for line in self._lines.values() for one in line])

    def __contains__(self, errand: object) -> bool:
        return any(errand in line for line in self._lines.values())

    def add(self, errand: Waiting, first: bool = False) -> None:
        """Put one at the end of its line, or at its head."""
        line = self._lines.setdefault(errand.route, deque())
        (line.appendleft if first else line.append)(errand)
        self._count += 1
        self.bytes += errand.size

    def remove(self, errand: Waiting) -> None:
        """Take one out, most often the first one."""
        line = self._lines[errand.route]
        line.remove(errand)
        if not line:
            del self._lines[errand.route]
        self._count -= 1
        self.bytes -= errand.size

    def oldest(self, may_start: Callable[[Errand], bool]) -> Optional[Waiting]:
        """Return the one that has waited longest, of the functions that may start."""
        heads = [line[0] for line in self._lines.values() if may_start(line[0])]
        return min(heads, key=lambda one: one.arrived, default=None)


class Main:
    """The jobs of a server, in its main process and on its loop.

    Attributes:
        unfinished: by their id.
        line: those of them that their pool does not have yet.
    """

    def __init__(
        self,
        application: Any,
        options: JobOptions,
        pools: Mapping[str, Pool],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.unfinished: Dict[str, Waiting] = {}
        self.line = Backlog()
        self.loop = loop
        self._application = application
        self._pools = pools
        self._options = options
        self._routes: Dict[Any, Route] = {}
        self._closed = self._told_full = False
        self._saving: Dict[asyncio.Task[Any], None] = {}
        self._listener: Optional[asyncio.Task[None]] = None
        self._telling: Optional[asyncio.Task[None]] = None
        self._beat: Optional[asyncio.TimerHandle] = None
        self._retry: Optional[asyncio.TimerHandle] = None
        self._all_ended: Optional[asyncio.Future[None]] = None

    @property
    def _template(self) -> Route:
        return cast(Route, self._application.job_route)

    @property
    def _limit(self) -> int:
        """How many may be with the pool at once: half of one that routes use too."""
        pool = self._pools.get(self._template.pool)
        size = 1 if pool is None else pool.size
        shared = size if self._template.pool else max(1, size // 2)
        return self._options.limit or shared

    def route(self, order: Order, waits: bool) -> Route:
        """Return the route of a function: its line, and its crashes.

        The timeout is the job's own: a program may compute another one for each.
        """
        key = order.function, waits
        route = self._routes.get(key)
        if route is None:
            route = self._routes[key] = copy.copy(self._template)
            route.path, route.counts = f"job {order.function}", RouteCounts()
            route.queue_timeout = math.inf if waits else QUEUE_TIMEOUT_SECONDS
        return route

    def timeout(self, order: Order) -> Optional[float]:
        """Return the seconds that a job may run; None: without a bound."""
        seconds = self._options.timeout if order.timeout is None else order.timeout
        return None if seconds > MAX_TIMER_SECONDS else seconds

    # From the order to its start.

    @property
    def is_full(self) -> bool:
        """Whether no more may wait."""
        too_much = self.line.bytes >= MAX_WAITING_BYTES
        return self._closed or len(self.line) >= self._options.max_waiting or too_much

    def accept(self, order: Order) -> None:
        """Take an order whose record is there; from now on it is main's."""
        if self.is_full:
            full = Outcome("failed", "too many jobs wait")
            self._save(order, STOPPED if self._closed else full)
            return
        if order.id in self.unfinished:
            return  # nothing runs twice
        route = self.route(order, True)

        def done(outcome: Outcome) -> None:
            self._end(order, outcome)

        timeout = self.timeout(order)
        errand = Waiting(order, route, timeout, done, self._offer_again)
        self.unfinished[order.id] = errand
        self.line.add(errand)
        self._look_alive()
        self._pump()

    def _with_pool(self) -> int:
        return len(self.unfinished) - len(self.line)

    def _pump(self) -> None:
        """Hand on what may start: the oldest first whose pool has room for it."""
        while self.line and self._with_pool() < self._limit and not self._closed:
            errand = self.line.oldest(self._has_room)
            if errand is None:
                break
            self.line.remove(errand)
            self._start(errand)
        if self.line and self._with_pool() < self._limit and self._retry is None:
            self._retry = self.loop.call_later(RETRY_SECONDS, self._pump_again)
        self._tell_fullness()

    def _pump_again(self) -> None:
        self._retry = None
        self._pump()

    def _has_room(self, errand: Errand) -> bool:
        pool = self._pools.get(errand.route.pool)
        return pool is None or pool.scheduler.may_submit(errand.route)

    def _offer_again(self, errand: Waiting) -> None:
        self.line.add(errand, first=True)
        if self._retry is None:
            self._retry = self.loop.call_later(RETRY_SECONDS, self._pump_again)

    def _start(self, errand: Errand) -> None:
        pool = self._pools.get(errand.route.pool)
        if pool is None:  # workers=0: in a thread of main
            task = self.loop.create_task(self._run_here(errand))
            self._keep(task)
            return
        try:
            pool.scheduler.submit(errand)
        except BusyError as error:
            errand.settle(error)

    async def _run_here(self, errand: Errand) -> None:
        # Whatever goes wrong is an end: who waits for it would wait for ever.
        result: Result = PixieError("the server was stopped")
        try:
            executors, route = self._application.executors, copy.copy(errand.route)
            route.timeout = errand.timeout
            outcome = executors.begin(route, errand.request)
            result = outcome if isinstance(outcome, Response) else await outcome
        except Exception as error:
            result = error
        finally:
            errand.settle(result)

    # To its end.

    def _end(self, order: Order, outcome: Outcome) -> None:
        if self.unfinished.pop(order.id, None) is not None:
            self._save(order, outcome)
            self._pump()
        if not self.unfinished:
            self.hurry()

    def cancel(self, id: str) -> None:
        """Stop a job, wherever it is: RequestTimeout is raised in its function."""
        errand = self.unfinished.get(id)
        if errand is None:
            return
        if errand in self.line:
            self.line.remove(errand)
        else:
            self.stop_errand(errand)
        self._end(errand.order, Outcome("cancelled"))

    def stop_errand(self, errand: Errand) -> None:
        """Have nobody run it any more."""
        errand.take = None
        pool = self._pools.get(errand.route.pool)
        worker = errand.worker
        if pool is None or pool.scheduler.drop(errand):
            return  # what runs in a thread of main can't be stopped
        if worker is not None and worker.job is errand:
            worker.retire(Retirement.unwanted)

    def _save(self, order: Order, outcome: Outcome) -> None:
        self._keep(self.loop.create_task(self._write(order, outcome)))

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._saving[task] = None
        task.add_done_callback(self._saving.pop)

    async def _write(self, order: Order, outcome: Outcome) -> None:
        """Write down how a job ended: again and again, while the state is not there.

        Where it has no room, the result is left out; or else the record, since one that
        is never ended would be waited for.
        """
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._write_once(order, outcome)
                return
            except HTTPError as error:  # StateBusy
                log.warning("the end of the job %s: %s", order.function, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE_SECONDS)
            except Exception as error:  # StateFull
                log.error("the job %s, %s: %s", order.function, outcome.state, error)
                if not outcome.result:
                    break
                why = f"there is no room for its result in the state: {error}"
                outcome = Outcome("failed", error_text(why))
        log.error("what became of the job %s is not known", order.function)
        try:
            await self._application.state.aio.delete(f"job:{order.id}")
        except (HTTPError, PixieError) as error:
            log.error("and it seems to go on: %s", error)

    async def _write_once(self, order: Order, outcome: Outcome) -> None:
        state, key = self._application.state.aio, f"job:{order.id}"
        keep_seconds, ended = self._options.keep_seconds, time.time()
        told = {"state": outcome.state, "error": outcome.error, "ended": ended}

        def end(record: Any) -> Any:
            return {**(record or new_record(order)), **told}

        if outcome.result:
            await state.set(f"{key}:result", outcome.result, expire=keep_seconds)
        await state.update(key, function=end, expire=keep_seconds)
        said = {"state": outcome.state, "error": outcome.error}
        await state.publish(key, said, expire=keep_seconds)

    # What other processes know of it.

    def _look_alive(self) -> None:
        if self._listener is None:
            self._listener = self.loop.create_task(self._listen())
        if self._beat is None:
            self._give_sign()

    def _give_sign(self) -> None:
        """Say that this server is there, for as long as it has jobs."""
        self._beat = None
        if self.unfinished and not self._closed:
            self._beat = self.loop.call_later(BEAT_SECONDS, self._give_sign)
            self._keep(self.loop.create_task(self._sign("alive", True)))

    def _tell_fullness(self) -> None:
        if self.is_full is not self._told_full and self._telling is None:
            self._telling = self.loop.create_task(self._tell())
            self._keep(self._telling)

    async def _tell(self) -> None:
        """Tell workers whether there is room, until they know how it is now.

        One after the other: told side by side, an older word could come last.
        """
        while self.is_full is not self._told_full and not self._closed:
            is_full = self.is_full
            if await self._sign("full", is_full):
                self._told_full = is_full
            else:
                await asyncio.sleep(RETRY_SECONDS)
        self._telling = None

    async def _sign(self, what: str, value: bool) -> bool:
        key = f"jobs:{Request.run}:{what}"
        try:
            seconds = ALIVE_SECONDS if what == "alive" else UNFINISHED_SECONDS
            await self._application.state.aio.set(key, value, expire=seconds)
        except (HTTPError, PixieError) as error:
            log.warning("no sign of this server's jobs: %s", error)
            return False
        return True

    async def _listen(self) -> None:
        """Cancel what any process says is to be cancelled."""
        channel, last = f"jobs:{Request.run}", 0
        subscribe = self._application.state.aio.subscribe
        while not self._closed:
            try:
                async for message in subscribe(channel, after=last):
                    last = message.id
                    self.cancel(str(message.data))
            except (HTTPError, PixieError) as error:
                log.warning("who cancels a job is not heard: %s", error)
                await asyncio.sleep(RETRY_SECONDS)

    def hurry(self) -> None:
        """Have `stop` wait no longer."""
        if self._all_ended is not None and not self._all_ended.done():
            self._all_ended.set_result(None)

    async def stop(self, seconds: float) -> None:
        """Take no more jobs, wait for those that run, and give up the others."""
        self._closed = True
        for timer in self._beat, self._retry:
            if timer is not None:
                timer.cancel()
        for errand in self.line:
            self.line.remove(errand)
            self._end(errand.order, STOPPED)
        if self.unfinished:
            self._all_ended = self.loop.create_future()
            await asyncio.wait([self._all_ended], timeout=seconds)
        for errand in list(self.unfinished.values()):
            self.stop_errand(errand)
            self._end(errand.order, STOPPED)
        if self._listener is not None:
            self._listener.cancel()
        tasks = [*self._saving, *([self._listener] if self._listener else [])]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=END_SECONDS)
            for task in late:
                task.cancel()
