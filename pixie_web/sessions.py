"""What an application remembers of a client from one request to the next: env.session.

It lies in a signed cookie, or in the state that all processes share, and the signed
cookie is its id then. It is read where a handler first asks for it, and written when
the head of the answer is made; requests that do not ask for it know nothing of it.
"""

from __future__ import annotations

import os
import time
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    MutableMapping,
    NamedTuple,
    Sequence,
)

from .cookies import (
    MAX_COOKIE_CHARS,
    UNSET,
    MaybeSecrets,
    cookie_values,
    read_signed,
    sign,
)
from .errors import PixieError
from .text import dump_json, is_token, load_json

IDLE_SECONDS = 14 * 86_400  # as Django's sessions
ABSOLUTE_SECONDS = 90 * 86_400
MAX_SESSION_BYTES = 64 * 1024  # of one in the state
REFRESH_SHARE = 0.1  # of its idle time: then its end is put off, though unchanged
ID_BYTES = 16  # OWASP asks for 64 bits of entropy at least
_SIGNATURE_CHARS = 44  # with its dot
# Of one name, that are tried: one that another path, another host of the domain or an
# older program has set may stand in front of the right one.
MAX_COOKIES = 4


class Sessions(NamedTuple):
    """How an application keeps sessions: `Pixie(sessions=Sessions("state"))`.

    Attributes:
        store: "cookie", signed and readable by the client, or "state": in `app.state`.
        cookie: the name of the cookie.
        idle_seconds: a session ends when no request has asked for it for so long.
        absolute_seconds: it ends so long after it began, or was renewed.
        samesite: of the cookie: "Lax", "Strict" or "None".
    """

    store: str = "cookie"
    cookie: str = "session"
    idle_seconds: float = IDLE_SECONDS
    absolute_seconds: float = ABSOLUTE_SECONDS
    samesite: str = "Lax"


def check_sessions(given: Any) -> Sessions:
    """Return how sessions are kept; raise PixieError if they can't be kept so."""
    options = Sessions(given) if isinstance(given, str) else given
    if not isinstance(options, Sessions) or options.store not in ("cookie", "state"):
        raise PixieError(
            'sessions is "cookie", "state" or Sessions("state", idle_seconds=3600), '
            f"got {given!r}"
        )
    times = options.idle_seconds, options.absolute_seconds
    if any(type(one) not in (int, float) or not 1 <= one < 1e10 for one in times):
        raise PixieError(f"a session lasts for seconds, 1 or more, got {times}")
    if not isinstance(options.cookie, str) or not is_token(options.cookie):
        raise PixieError(f"a cookie's name is a token, got {options.cookie!r}")
    if options.samesite not in ("Lax", "Strict", "None"):
        raise PixieError(f"samesite is Lax, Strict or None, got {options.samesite!r}")
    return options


class SessionHome(NamedTuple):
    """Where an application's sessions are at home.

    Attributes:
        path: under which the application is mounted, as clients ask for it.
        state: returns the state that all processes share.
    """

    options: Sessions
    secrets: MaybeSecrets
    path: str
    state: Callable[[], Any]

    @property
    def purpose(self) -> str:
        """The name that is signed: no other cookie, nor that of another mount."""
        return f"{self.options.cookie} session {self.path}"

    def cookie_path(self, root_path: str) -> str:
        """Return the path of the cookie, below what a proxy has taken off."""
        # RFC 6265bis 4.1.3.2: of a __Host- cookie it is "/", or browsers drop it.
        is_of_host = self.options.cookie.lower().startswith("__host-")
        return "/" if is_of_host else root_path + self.path or "/"

    def left(self, born: float, now: float) -> int:
        """Return for how many seconds a session lives on that is used now."""
        absolute = born + self.options.absolute_seconds - now
        return int(min(self.options.idle_seconds, absolute))


class Held(NamedTuple):
    """A session as it was found; JSON can say it, so that it travels to a worker.

    Attributes:
        found: what it held, as JSON; "" if there was none.
        born, seen: when it began, and when its cookie was written.
        id: in the state; "" for a new one.
        ended: ids in the state that are no longer good.
        is_renewed: its cookie is to be written whatever it holds.
    """

    found: str
    born: int
    seen: int
    id: str
    ended: List[str]
    is_renewed: bool


def _state_key(id: str) -> str:
    return f"session:{id}"


def _find_session(home: SessionHome, text: str, now: int) -> Held:
    """Return the session that a cookie stands for, or a new one."""
    new = Held("", now, now, "", [], False)
    options, secrets = home.options, home.secrets
    assert secrets is not UNSET
    in_state = options.store == "state"
    # In the state its own end is what counts: another answer may have put it off.
    age = options.absolute_seconds if in_state else options.idle_seconds
    try:
        seen, value = read_signed(home.purpose, text, secrets, age, now)
        id = value if in_state else ""
        kept = home.state().get(_state_key(id)) if in_state else value
        born, seen, data = kept[0], kept[1] if in_state else seen, kept[-1]
        if not isinstance(data, dict) or home.left(born, now) <= 0:
            return new
    except (ValueError, TypeError):  # forged, too old, ended; or of other sessions
        return new
    return Held(dump_json(data).decode(), born, seen, id, [], False)


class Session(MutableMapping[str, Any]):
    """What is remembered of a client: a dict of what JSON can say, by name.

    It is saved with the head of the answer, when something has changed, also inside of
    the values; not if the answer is an error of 500 or more.

    Raises, when it is changed:
        TypeError: a name that is no text, a value that JSON can't say.
        ValueError: there is too much in it: over 4 KB in a cookie.
        PixieError: the head of the answer has been made.
    """

    def __init__(self, home: SessionHome, held: Held, data: Dict[str, Any]) -> None:
        self._home = home
        self._held = held
        self._data = data
        self.is_kept = False  # the head is made, or the handler has it elsewhere

    def __getitem__(self, name: str) -> Any:
        return self._data[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __setitem__(self, name: str, value: Any) -> None:
        self._check_open()
        if not isinstance(name, str):
            raise TypeError(f"a session's names are text, got {name!r}")
        self._check_size({**self._data, name: value})
        self._data[name] = value

    def __delitem__(self, name: str) -> None:
        self._check_open()
        del self._data[name]

    def __repr__(self) -> str:
        # SECURITY: what is in it may be secret, and this comes into logs.
        return f"<Session of {', '.join(self._data) or 'nothing'}>"

    def clear(self) -> None:
        """End this session, for logout; what is set after that begins another one.

        In the state it is gone then, wherever its cookie is. A cookie that holds the
        session itself is only forgotten by this client: a copy of it lasts.
        """
        self._check_open()
        self._data.clear()
        self.renew()

    def renew(self) -> None:
        """Begin anew with the same content, under a new id: call it at login.

        SECURITY: who has planted the id of a session of his own in a browser (session
        fixation) would be logged in with it; the old id is no longer good.
        """
        self._check_open()
        held = self._held
        ended = [*held.ended, held.id] if held.id else held.ended
        now = int(time.time())
        self._held = Held(held.found, now, now, "", ended, True)

    def _check_open(self) -> None:
        if self.is_kept:
            raise PixieError(
                "the session was saved with the head of the answer: change it in the "
                "handler ahead of its first yield, or in triggers that are a def"
            )

    def _check_size(self, data: Mapping[str, Any]) -> bytes:
        held, options = self._held, self._home.options
        raw = dump_json(data)
        if options.store == "state":
            if len(raw) > MAX_SESSION_BYTES:
                raise ValueError(
                    f"a session has at most {MAX_SESSION_BYTES} bytes, got {len(raw)}; "
                    "keep the rest elsewhere, under an id that is in the session"
                )
            return raw
        size = len(dump_json([held.seen, [held.born, 0]])) + len(raw) - 1
        chars = len(options.cookie) + (size * 4 + 2) // 3 + _SIGNATURE_CHARS
        if chars > MAX_COOKIE_CHARS:
            raise ValueError(
                f"the session would be a cookie of {chars} characters, and browsers "
                f"drop it over {MAX_COOKIE_CHARS}; Pixie(sessions='state') keeps it on "
                "the server"
            )
        return raw

    def hand_over(self) -> List[Any]:
        """Return what another process makes the same session of; this one is done."""
        self.is_kept = True
        return [*self._held, self._data]

    def keep(self, response: Any, root_path: str) -> None:
        """Save it, if it has changed, and say in the response what caches must know."""
        headers, is_kept, self.is_kept = response.headers, self.is_kept, True
        headers.vary("Cookie")
        headers.setdefault("Cache-Control", "private")
        if is_kept or response.status >= 500:
            return
        held, data, now = self._held, self._data, int(time.time())
        options, path = self._home.options, self._home.cookie_path(root_path)
        if not data:
            if held.found and not self._lives_on(now):
                self._say_uncached(headers)
                response.delete_cookie(options.cookie, path=path)
            return
        is_stale = now - held.seen > options.idle_seconds * REFRESH_SHARE
        raw = self._check_size(data)
        if not (held.is_renewed or is_stale) and raw.decode() == held.found:
            return
        value = self._save(now)
        if value is None:
            return  # another request has ended it
        self._say_uncached(headers)
        secrets, left = self._home.secrets, max(1, self._home.left(held.born, now))
        assert secrets is not UNSET
        text = sign(self._home.purpose, value, secrets, now)
        response.set_cookie(
            options.cookie,
            text,
            secret=False,
            max_age=left,
            path=path,
            samesite=options.samesite,
        )

    def _say_uncached(self, headers: Any) -> None:
        # SECURITY: a cache that stores Set-Cookie gives one client's session to all
        # (RFC 9111 section 7.3).
        said = headers["Cache-Control"].lower()
        if "private" not in said and "no-store" not in said:
            headers["Cache-Control"] = "no-store"

    def _save(self, now: int) -> Any:
        """Return what the cookie is to hold; None: the session has ended meanwhile."""
        held, data = self._held, self._data
        if self._home.options.store == "cookie":
            return [held.born, data]
        state = self._home.state()
        left = max(1, self._home.left(held.born, now))
        if held.id:
            key = _state_key(held.id)
            merge = self._changes(now)
            return held.id if state.update(key, function=merge, expire=left) else None
        id = os.urandom(ID_BYTES).hex()
        state.set(_state_key(id), [held.born, now, data], expire=left)
        self._end(held.ended)
        return id

    def _lives_on(self, now: int) -> bool:
        """End a session that is empty; return whether another request has filled it."""
        held = self._held
        self._end(held.ended)
        if not held.id:
            return False
        merge = self._changes(now)
        left = max(1, self._home.left(held.born, now))
        state, key = self._home.state(), _state_key(held.id)
        return state.update(key, function=merge, expire=left) is not None

    def _changes(self, now: int) -> Callable[[Any], Any]:
        """Return what makes of the content that is there now the one to be kept.

        Requests of one client run side by side: what another has set meanwhile stays,
        and what it has ended stays ended.
        """
        held, data = self._held, dict(self._data)
        found: Any = load_json(held.found.encode())
        gone = found.keys() - data.keys()
        new = {
            name: value
            for name, value in data.items()
            # As JSON has them: 1 == True here.
            if name not in found or dump_json(found[name]) != dump_json(value)
        }

        def merge(kept: Any) -> Any:
            if kept is None:
                return None
            merged = {k: v for k, v in kept[-1].items() if k not in gone}
            merged.update(new)
            return [held.born, now, merged] if merged else None

        return merge

    def _end(self, ids: List[str]) -> None:
        for id in ids:
            self._home.state().delete(_state_key(id))


def open_session(home: SessionHome, headers: Sequence[str], found: Any) -> Session:
    """Return the session of a request.

    Args:
        headers: its Cookie headers; one, but for HTTP/2.
        found: what another process has handed over; False: the head is made.

    Raises:
        PixieError: the application has no secrets.
    """
    if home.secrets is UNSET:
        raise PixieError(
            "env.session is kept in a signed cookie, which needs a secret: write "
            'Pixie(secrets="...") or app.secrets = "..."; '
            'python -c "import secrets; print(secrets.token_hex(32))" prints a good one'
        )
    if found:
        held = Held(*found[:-1])
        return Session(home, held, found[-1])
    now = int(time.time())
    held = Held("", now, now, "", [], False)
    for text in cookie_values(headers, home.options.cookie)[:MAX_COOKIES]:
        held = held if held.found else _find_session(home, text, now)
    data: Any = load_json(held.found.encode()) if held.found else {}
    session = Session(home, held, data)
    session.is_kept = found is False
    return session
