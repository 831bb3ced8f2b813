"""Pages that reload themselves when the program has been restarted.

Each whole HTML page gets a script, which keeps one request open while the page is
visible. That request ends with the program. The next program has another name, and
then the page reloads.
"""

from __future__ import annotations

import asyncio
import base64
import os
from functools import lru_cache
from typing import Any, AsyncIterator, Awaitable, Callable

from .requests import Request
from .responses import Response
from .text import escape, expression

NEWS_PATH = "/_pixie/news"
SCRIPT_PATH = "/_pixie/refresh.js"
RETRY_MILLISECONDS = 100

SCRIPT = f"""\
"use strict";
(() => {{
  const own = document.currentScript.src;
  const news = own.slice(0, own.lastIndexOf("{SCRIPT_PATH}")) + "{NEWS_PATH}";
  let name = "", source = null;
  function follow() {{
    if (document.hidden) {{ // A browser has six connections for all its pages.
      if (source) source.close();
      source = null;
    }} else if (!source) {{
      source = new EventSource(news);
      source.onmessage = (event) => {{
        if (name && name !== event.data) location.reload();
        name = event.data;
      }};
      source.onerror = () => {{ // Some browsers give up after an error.
        if (source && source.readyState === 2) {{
          source = null;
          setTimeout(follow, {RETRY_MILLISECONDS * 5});
        }}
      }};
    }}
  }}
  document.addEventListener("visibilitychange", follow);
  follow();
}})();
"""


@lru_cache(maxsize=1)
def script_hash() -> str:
    """Return the hash by which a page's policy allows the script, and no other.

    Of Content-Security-Policy; W3C CSP 3 section 2.3.1.
    """
    import hashlib  # PERF: 2 of 97 ms of the import of all

    digest = hashlib.sha256(SCRIPT.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


_HTML = expression(rb"(?i)\r\ncontent-type: *text/html")
_CODED_PAGE = expression(rb"(?i)\r\ncontent-encoding:")
Handle = Callable[[Request], Awaitable[Response]]


class News(AsyncIterator[bytes]):
    """The request for which a page waits: the name of this program, then its end.

    Args:
        name: of the program.
        ended: set when it ends.
    """

    def __init__(self, name: str, ended: asyncio.Event) -> None:
        self._text = f"retry: {RETRY_MILLISECONDS}\ndata: {name}\n\n"
        self._ended = ended

    async def __anext__(self) -> bytes:
        if self._text:
            text, self._text = self._text, ""
            return text.encode()
        await self._ended.wait()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Nothing is left to close."""


class FreshPages:
    """Stands before an application's `handle`, and has its pages refresh themselves.

    Args:
        handle: the application's own.
    """

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._name = os.urandom(8).hex()
        self._ended: Any = None  # an Event of the loop that serves

    def end(self) -> None:
        """Let the pages go: the program ends."""
        if self._ended is not None:
            self._ended.set()

    async def handle(self, request: Request) -> Response:
        """Answer a request."""
        if request.head.path == NEWS_PATH:
            self._ended = self._ended or asyncio.Event()
            return self._own(News(self._name, self._ended), "text/event-stream")
        if request.head.path == SCRIPT_PATH:
            return self._own(SCRIPT.encode(), "text/javascript")
        response = await self._handle(request)
        is_page = isinstance(response.body, bytes) and response.body
        return self._with_script(response, request) if is_page else response

    def _own(self, body: Any, content_type: str) -> Response:
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return Response(body, content_type=content_type, headers=headers).settle()

    def _with_script(self, response: Response, request: Request) -> Response:
        """Return a copy of a page that a browser shows, with the script at its end."""
        block = response.header_block(request.scheme == "https")
        whole = b"\r\n" + block
        # Fetch Metadata: a part of a page is "empty". Who sends none tells by Accept.
        goal = request.header("sec-fetch-dest")
        is_shown = goal == "document" or (
            goal is None and "text/html" in (request.header("accept") or "")
        )
        if not is_shown or not _HTML.search(whole) or _CODED_PAGE.search(whole):
            return response
        body: Any = response.body
        own = escape(request.root_path + SCRIPT_PATH)
        tag = f'<script src="{own}" integrity="{script_hash()}"></script>\n'
        return Response.from_block(response.status, block, body + tag.encode())
