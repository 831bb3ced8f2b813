"""The access log."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any, Callable, ClassVar, Dict, Iterator, Mapping, Tuple

from ..about import log
from ..protocol.http11 import Head
from ..requests import Request
from ..text import OwnHandler, expression

access_log = logging.getLogger("pixie_web.access")
ACCESS_LOG_FORMAT = (
    '%(client)s "%(request)s" %(status)d %(bytes)d %(milliseconds).1fms '
    "%(placement)s q=%(queue_milliseconds).1fms %(outcome)s"
)

_UNPRINTABLE = expression(r"[^ !#-\[\]-~]")
_ITEM = expression(r"%(?:%|\((\w+)\))")  # of a format


def log_text(text: str) -> str:
    """Return a client's text for a line of the log: 'a"\\n' -> 'a\\x22\\x0a'."""
    if not _UNPRINTABLE.search(text):
        return text  # PERF: as nearly all: 0.2 us less
    return _UNPRINTABLE.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


NO_HEAD = Head()  # of what is logged where the head was none
NO_HEAD.raw = b"\r\n\r\n"
NO_HEAD.method = NO_HEAD.target = NO_HEAD.version = NO_HEAD.host = ""


class AccessRecord(Mapping[str, Any]):
    """The fields of the access log for an answer; `access_log_format` names them.

    Each item is made when it is asked for. It is the `args` of the log record, so that
    a handler of the program's own can write it as JSON, say.

    `outcome` tells a whole answer from one that was cut off after its status had been
    sent: "complete", or else "failed" (the handler, or its worker died), "timeout" (its
    deadline passed), "left" (the client left, or read too slowly), "stopped" (the
    server, before the answer had ended). Whole means handed to the kernel. "refused" is
    whole too: a 400 to a host that is none of `allowed_hosts`.
    """

    ITEMS: ClassVar[Dict[str, Callable[[Request, int, int, float, str], Any]]] = {
        "client": lambda request, *_: request.client[0] or "-",
        "request": lambda request, *_: (
            log_text(f"{request.method} {request.head.target} {request.protocol}")
            if request.method
            else "-"
        ),
        "method": lambda request, *_: request.method,
        "target": lambda request, *_: log_text(request.head.target),
        "protocol": lambda request, *_: request.protocol,
        "scheme": lambda request, *_: request.scheme,
        "host": lambda request, *_: log_text(request.host or "-"),
        "referer": lambda request, *_: log_text(request.header("referer") or "-"),
        "user_agent": lambda request, *_: log_text(request.header("user-agent") or "-"),
        "request_id": lambda request, *_: request.request_id,
        "route": lambda request, *_: request.route.path if request.route else "-",
        "placement": lambda request, *_: (
            request.route.placement.name if request.route else "-"
        ),
        "status": lambda request, status, *_: status,
        "bytes": lambda request, status, count, *_: count,
        "milliseconds": lambda request, status, count, seconds, _: seconds * 1000,
        "queue_milliseconds": lambda request, *_: request.queue_seconds * 1000,
        "outcome": lambda *of: of[-1],
    }

    def __init__(
        self, request: Request, status: int, count: int, seconds: float, outcome: str
    ) -> None:
        self.of = request, status, count, seconds, outcome

    def __getitem__(self, name: str) -> Any:
        return self.ITEMS[name](*self.of)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ITEMS)

    def __len__(self) -> int:
        return len(self.ITEMS)


@lru_cache(maxsize=8)
def _by_position(form: str) -> Tuple[str, Tuple[Callable[..., Any], ...]]:
    """Return a format that takes its items in order, and what makes them."""
    names = [name for name in _ITEM.findall(form) if name]
    plain = _ITEM.sub(lambda one: "%" if one.group(1) else "%%", form)
    return plain, tuple(AccessRecord.ITEMS[name] for name in names)


def log_answer(form: str, record: AccessRecord) -> None:
    """Log an answer, by a format of `AccessRecord`'s items."""
    # PERF: a line of a handler that nobody has touched needs no record: 6 us in place
    # of 38, beside 18 for the request (Python 3.13). A program's own handler gets one.
    handler = log.handlers[0] if log.handlers else None
    if not access_log.isEnabledFor(logging.INFO):
        return
    if isinstance(handler, OwnHandler) and handler.is_all_of(access_log):
        plain, items = _by_position(form)
        try:
            text = plain % tuple([item(*record.of) for item in items])
            handler.write_line("INFO", text)
            return
        except (OSError, ValueError):
            pass  # logging has its own way to tell
    access_log.info(form, record)
