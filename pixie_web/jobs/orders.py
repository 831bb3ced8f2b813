"""What travels of a job, and how a worker does it."""

from __future__ import annotations

import inspect
import math
import struct
import sys
import time
from contextvars import ContextVar
from typing import (
    Any,
    Callable,
    ClassVar,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
    cast,
)

from ..about import log
from ..errors import PixieError, RouteError, ends_worker, fold
from ..executors.base import MAX_WAITING, WORKER_TIMEOUT_SECONDS, handler_kind
from ..requests import Request
from ..responses import Response
from ..text import dump_json, load_json

MAX_ORDER_BYTES = 1024 * 1024  # of all arguments, and of a result: as a state's value
MAX_PROGRESS_BYTES = 64 * 1024  # beside what else the record says
MAX_ERROR_CHARS = 2_000  # of which an exception may have any number
MAX_KEEP_SECONDS = 1e9  # as long as the state keeps anything that has an end
UNFINISHED_SECONDS = 7 * 86_400.0  # how long a record lives that nobody ends
_SIZE = struct.Struct("!I")


class JobOptions(NamedTuple):
    """How jobs are run, those of app.submit(); arguments of `app.jobs`.

    Attributes:
        timeout: seconds that one may run, unless it says otherwise; inf for no bound.
        limit: how many may run at once; None: half of the workers of a pool that routes
            use too, all of one of their own.
        max_waiting: how many may wait; who submits one more gets a 503.
        keep_seconds: how long it is known what became of one, and its result.
    """

    timeout: float = WORKER_TIMEOUT_SECONDS
    limit: Optional[int] = None
    max_waiting: int = MAX_WAITING
    keep_seconds: float = 3600.0


def read_options(application: Any, options: Dict[str, Any]) -> JobOptions:
    """Return how jobs are to be run; a pool of their own is declared.

    Raises:
        RouteError: what can't be.
    """
    names = ("timeout", "limit", "max_waiting", "keep_seconds")
    own = {name: options.pop(name) for name in names if name in options}
    for name, value in own.items():
        is_count = name in ("limit", "max_waiting")
        is_number = type(value) is int or (type(value) is float and not is_count)
        if not is_number or not value > 0:
            unit = "a whole number from 1" if is_count else "in seconds, more than 0"
            raise RouteError(f"{name} of jobs is {unit}, got {value!r}")
    if own.get("keep_seconds", 1.0) > MAX_KEEP_SECONDS:
        most = f"{MAX_KEEP_SECONDS:,.0f}"
        raise RouteError(f"keep_seconds of jobs is at most {most}: 31 years")
    pool = options.pop("pool", "")
    if "workers" in options and not pool:
        pool = "jobs"
        application.pool(pool, **options)
    elif options:
        raise RouteError(
            f"jobs have no option {min(options)!r}; they take pool or workers, "
            + ", ".join(names)
        )
    application.job_pool = pool
    return JobOptions(**own)


def pack(values: Sequence[Any], header: Mapping[str, Any]) -> bytes:
    """Return values, each bytes or what JSON can say, as bytes that `unpack` reads.

    Raises:
        TypeError, ValueError: one can't travel; its message begins with its place.
    """
    told: List[Any] = []
    blobs: List[bytes] = []
    for place, value in enumerate(values, 1):
        if isinstance(value, (bytes, bytearray, memoryview)):
            blobs.append(bytes(value))
            told.append([len(blobs[-1])])
            continue
        try:
            dump_json(value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{place}, a {type(value).__name__}: {error}") from None
        told.append([-1, value])
    text = dump_json([header, told])
    return b"".join((_SIZE.pack(len(text)), text, *blobs))


def unpack(data: bytes) -> Tuple[Dict[str, Any], List[Any]]:
    """Return header and values of what `pack` wrote.

    Raises:
        ValueError, TypeError, struct.error: it wrote no such thing.
    """
    (size,) = _SIZE.unpack_from(data)
    at = _SIZE.size + size
    header, told = cast(Any, load_json(data[_SIZE.size : at]))
    values = []
    for length, *value in told:
        values.append(value[0] if value else data[at : at + length])
        at += 0 if value else length
    return header, values


def function_name(function: Any) -> str:
    """Return the name by which every process finds a function: "module:name".

    Raises:
        PixieError: it is none that can be found so.
    """
    module = getattr(function, "__module__", None) or ""
    name = getattr(function, "__qualname__", "")
    found: Any = (
        getattr(sys.modules.get(module), name, None) if "." not in name else None
    )
    if not callable(function) or found is not function:
        raise PixieError(
            f"a job is a function at the top level of a module, where a worker finds "
            f"it by its name; {name or function!r} of {module or 'no module'} is none"
        )
    if handler_kind(function) != "def":
        raise PixieError(f"a job is a plain def: {name} is {handler_kind(function)}")
    if module == "__mp_main__":
        module = "__main__"  # which it is called in all processes
    return f"{module}:{name}"


def find_function(full_name: str) -> Callable[..., Any]:
    """Return the function of a name, its module imported."""
    from importlib import import_module

    module, _, name = full_name.partition(":")
    found = sys.modules.get(module) or import_module(module)
    return cast("Callable[..., Any]", getattr(found, name))


class Order(NamedTuple):
    """A job to be done, as it travels; `body` is its header and its arguments."""

    id: str
    function: str
    timeout: Optional[float]
    submitted: float
    body: bytes

    @classmethod
    def write(
        cls, id: str, function: Any, args: Sequence[Any], timeout: Optional[float]
    ) -> Order:
        """Return an order, of which everything is known to be able to travel.

        Raises:
            PixieError: the function can't be found in a worker.
            TypeError, ValueError: an argument can't travel, or does not fit.
        """
        name = function_name(function)
        if timeout is not None and not (type(timeout) in (int, float) and timeout > 0):
            raise ValueError(f"timeout is in seconds, more than 0, got {timeout!r}")
        try:
            inspect.signature(function).bind(*args)
        except TypeError as error:
            raise TypeError(f"the job {name}: {error}") from None
        except ValueError:
            pass  # a builtin that does not tell
        infinite = timeout is not None and math.isinf(timeout)
        told = -1 if infinite else timeout
        now = time.time()
        header = {"id": id, "function": name, "timeout": told, "submitted": now}
        try:
            body = pack(args, header)
        except (TypeError, ValueError) as error:
            what = f"the job {name}: an argument is JSON or bytes; argument {error}"
            raise type(error)(what) from None
        if len(body) > MAX_ORDER_BYTES:
            raise ValueError(
                f"the job {name}: its arguments have {len(body)} bytes, and at most "
                f"{MAX_ORDER_BYTES} travel; write them to a file and pass its path"
            )
        return cls(id, name, timeout, now, body)

    @classmethod
    def read(cls, body: bytes) -> Order:
        """Return the order that a worker has sent.

        Raises:
            ValueError, TypeError, KeyError, struct.error: it is none.
        """
        header, _ = unpack(body)
        timeout = header["timeout"]
        timeout = math.inf if timeout == -1 else timeout
        id, name = str(header["id"]), str(header["function"])
        return cls(id, name, timeout, float(header["submitted"]), body)


def new_record(order: Order) -> Dict[str, Any]:
    """Return what the state holds of a job that waits."""
    return {
        "function": order.function,
        "run": Request.run,
        "state": "waiting",
        "progress": None,
        "error": "",
        "submitted": order.submitted,
        "started": None,
        "ended": None,
    }


def error_text(error: Union[BaseException, str]) -> str:
    """Return the text of an error, as long as a record may hold."""
    try:
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    except Exception:  # its own __str__ fails
        text = f"{type(error).__name__}, which has no text"
    return text if len(text) <= MAX_ERROR_CHARS else f"{text[:MAX_ERROR_CHARS]} ..."


# Where it runs ------------------------------------------------------------------------


class CurrentJob:
    """The job that runs here: `from pixie_web.jobs import job`."""

    _now: ClassVar[ContextVar[Tuple[str, Any]]] = ContextVar("job", default=("", None))

    @property
    def id(self) -> str:
        """Its id; "" outside of a job, and in one that is called."""
        return self._now.get()[0]

    def progress(self, value: Any) -> None:
        """Tell how far it is, by what JSON can say; outside of a job nothing happens.

        `app.job(id).progress` is the last one, and the channel "job:<id>" of the state
        has a message for each. Of a job that has ended, being cancelled, nothing is
        told any more.

        Raises:
            TypeError, ValueError: JSON can't say it, or it has over 64 KiB.
        """
        id, state = self._now.get()
        if not id:
            return
        size = len(dump_json(value))
        if size > MAX_PROGRESS_BYTES:
            raise ValueError(
                f"progress is at most {MAX_PROGRESS_BYTES} bytes of JSON, got {size}"
            )

        def tell(record: Any) -> Any:
            is_running = record is not None and record["state"] == "running"
            return {**record, "progress": value} if is_running else record

        record = state.update(f"job:{id}", function=tell)
        if record is not None and record["state"] == "running":
            state.publish(f"job:{id}", {"progress": value})

    def enter(self, id: str, state: Any) -> None:
        """Begin a job in this context; for the worker."""
        self._now.set((id, state))


job = CurrentJob()


def _begun(record: Any) -> Any:
    if record is None or record["state"] != "waiting":
        return record  # it was cancelled on its way
    return {**record, "state": "running", "started": time.time()}


def run_order(env: Request) -> Response:
    """Do a job in a worker: the handler behind all of them."""
    header, args = unpack(env.body)
    name, id = header["function"], header["id"]
    try:
        if id:
            state = env.app.state
            job.enter(id, state)
            record = state.update(f"job:{id}", function=_begun)
            if record is None:
                return Response({"error": "the state has lost what it knew of it"}, 500)
            if record["state"] != "running":
                return Response({"error": "it was cancelled"}, 409)
        result = find_function(name)(*args)
        try:
            body = pack([result], {})
        except (TypeError, ValueError) as error:
            raise type(error)(f"the result is JSON or bytes; result {error}") from None
        if len(body) > MAX_ORDER_BYTES:
            raise ValueError(
                f"the result has {len(body)} bytes, and at most {MAX_ORDER_BYTES} "
                "travel; write it to a file and return its path"
            )
    except BaseException as error:
        if ends_worker(error):
            raise
        env.fatal = not isinstance(error, Exception)  # as of a handler: sys.exit()
        fold(error)
        log.error("the job %s failed", name, exc_info=error)
        return Response({"error": error_text(error)}, 500)
    return Response(body, content_type="application/octet-stream")
