"""Cookies, and values that are signed."""

from __future__ import annotations

from enum import Enum
from typing import (
    TYPE_CHECKING,
    Any,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
    cast,
)

from .errors import PixieError
from .text import (
    UNSAFE_IN_HEADER,
    decode_escapes,
    dump_json,
    expression,
    format_date,
    is_token,
    parse_date,
    percent_decode,
    percent_encode,
)

if TYPE_CHECKING:
    from datetime import date

MAX_COOKIE_CHARS = 4096  # RFC 6265bis 5.7: browsers drop longer cookies, name included
MAX_COOKIE_ATTRIBUTE_CHARS = 1024  # RFC 6265bis 5.6
_COOKIE_VALUE_SAFE = rb"!#$&'()*+-./:<=>?@[]^_`{|}~"  # RFC 6265 cookie-octet, less %


def _utf8_or_latin1(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _cookie_text(value: str) -> str:
    if value[:1] == '"' == value[-1:] and len(value) > 1:
        value = value[1:-1]
    if value.isascii():
        if "%" not in value:
            return value
        try:
            # PERF: as percent_decode, without bytes: 0.4 of the time for what is ASCII.
            escaped = value.replace("\\", "\\\\").replace("%", "\\x")
            text = decode_escapes(escaped)[0]
            if text.isascii():
                return text
        except UnicodeDecodeError:  # some % begins no escape
            pass
    return _utf8_or_latin1(percent_decode(value.encode("latin-1", "replace")))


def parse_cookies(header: str) -> Dict[str, str]:
    """Return the cookies of a Cookie header (RFC 6265bis section 5.6).

    The first of two with one name wins: browsers send the more specific path first.
    SECURITY: a nameless cookie is dropped, or `=__Host-x=1` could pass for another.
    """
    cookies: Dict[str, str] = {}
    plain = "%" not in header and '"' not in header and header.isascii()
    for pair in header.split(";"):
        name, equals, value = pair.partition("=")
        name = name.strip(" \t")
        if not plain and not name.isascii():
            name = _utf8_or_latin1(name.encode("latin-1", "replace"))
        if equals and name and name not in cookies:
            value = value.strip(" \t")
            cookies[name] = value if plain else _cookie_text(value)
    return cookies


def cookie_values(headers: Sequence[str], name: str) -> List[str]:
    """Return the values of all cookies of a name, in order, from Cookie headers."""
    pairs = ";".join(headers).split(";")
    found = [parse_cookies(pair).get(name) for pair in pairs if name in pair]
    return [value for value in found if value]


def format_cookie(name: str, value: object, attributes: Mapping[str, object]) -> str:
    """Return the value of a Set-Cookie header; `parse_cookies` reads it back.

    The value is percent-encoded where a cookie could not carry it otherwise. An
    attribute that is True stands alone (Secure); one that is None or False is left out.

    Raises:
        ValueError: the name is no token, an attribute holds `;` or a control, or name
            and value, or an attribute, are too long (`MAX_COOKIE_CHARS`).
        TypeError: the value is no text.
    """
    if not is_token(name):
        raise ValueError(f"a cookie's name is a token (RFC 6265 4.1.1), got {name!r}")
    if not isinstance(value, str):
        kind = type(value).__name__
        raise TypeError(f"the cookie {name} is text if it is not signed, got {kind}")
    parts = [f"{name}={percent_encode(value, _COOKIE_VALUE_SAFE)}"]
    size = len(parts[0]) - 1
    if size > MAX_COOKIE_CHARS:
        raise ValueError(
            f"the cookie {name} has {size} characters, and browsers drop it over "
            f"{MAX_COOKIE_CHARS}; keep the data on the server, and an id here"
        )
    for key, attribute in attributes.items():
        if attribute is None or attribute is False:
            continue
        text = str(attribute)
        if ";" in text or UNSAFE_IN_HEADER.search(text):
            raise ValueError(f"the cookie attribute {key} can't hold {text!r}")
        if len(text) > MAX_COOKIE_ATTRIBUTE_CHARS:
            most = MAX_COOKIE_ATTRIBUTE_CHARS
            raise ValueError(f"browsers ignore a {key} of over {most} characters")
        parts.append(key if attribute is True else f"{key}={text}")
    return "; ".join(parts)


# What a browser ignores in a cookie, or drops it for, it never tells: so it is refused
# where it is set.

_COOKIE_TIMES = -11_644_473_600, 253_402_300_799  # RFC 6265 5.1.1: 1601 to 9999
_COOKIE_PATH_SAFE = bytes(range(128)).replace(b" ", b"")  # check_header sees the rest
_COOKIE_DOMAIN = expression(r"(?a)\.?[\w-]+(?:\.[\w-]+)*")


def secure_or_not(
    name: str, secure: Optional[bool], samesite: Optional[str], partitioned: bool
) -> Optional[bool]:
    """Return whether a cookie is Secure; None: if its request came over https."""
    if samesite is not None and samesite.lower() not in ("lax", "strict", "none"):
        raise ValueError(f"samesite is Lax, Strict or None, got {samesite!r}")
    prefixed = name.lower().startswith(("__secure-", "__host-"))
    if not (prefixed or partitioned or (samesite or "").lower() == "none"):
        return secure
    if secure is False:
        raise ValueError(
            f"the cookie {name} must be secure, because of its prefix, SameSite=None "
            "or Partitioned; leave secure=False out"
        )
    return True


def cookie_date(moment: Union[float, date, str, None]) -> Optional[str]:
    """Return the time at which a cookie ends as HTTP writes it, or raise ValueError."""
    if moment is None:
        return None
    seconds: Any = parse_date(moment) if isinstance(moment, str) else moment
    if not isinstance(moment, (int, float, str)):
        import calendar

        seconds = calendar.timegm(getattr(moment, "utctimetuple", moment.timetuple)())
    first, last = _COOKIE_TIMES
    if seconds is None or not first <= seconds <= last:
        raise ValueError(
            "expires is seconds since 1970, a datetime, a date, or the text of an HTTP "
            f"date, from the year 1601 to 9999; got {moment!r}"
        )
    return format_date(seconds)


def cookie_path(path: Optional[str]) -> Optional[str]:
    """Return a cookie's path, percent-encoded, or raise ValueError."""
    if path is None:
        return None
    if not path.startswith("/"):
        raise ValueError(f'the path of a cookie begins with "/", got {path!r}')
    return percent_encode(path, _COOKIE_PATH_SAFE)  # as browsers ask for it


def cookie_domain(domain: Optional[str]) -> Optional[str]:
    """Return a cookie's domain in ASCII, or raise ValueError."""
    if domain is None:
        return None
    text = domain
    if not domain.isascii():
        try:
            text = domain.lstrip(".").encode("idna").decode("ascii")
        except UnicodeError:
            text = ""
        # This codec is of 2003: it takes "ß" for "ss", which is another host today.
        if text.encode().decode("idna") != domain.lstrip(".").lower():
            text = ""
    if not _COOKIE_DOMAIN.fullmatch(text):
        raise ValueError(
            "the domain of a cookie is the name of a host, without scheme and port, "
            f"and as xn--... if it is beyond ASCII; got {domain!r}"
        )
    return text


# Signed values ------------------------------------------------------------------------
#
# payload "." signature, both in base64url without padding. The payload is JSON, [time
# of issue in seconds, value]: all can read it, none can forge it. The signature covers
# its purpose, the cookie's name and the payload, so that none of the three can be
# swapped. SECURITY: never pickle, which turns a leaked key into running code.

CLOCK_SKEW_SECONDS = 60  # between the machines of one site
_SIGNING_PURPOSE = b"pixie_web signed cookie 1"

MIN_SECRET_BYTES = 16  # 128 bits, if each is random; RFC 2104 section 3 asks for 32

Secrets = Union[str, bytes, Sequence[Union[str, bytes]]]


class _Unset(Enum):
    """The type of UNSET, for type checkers."""

    UNSET = "left out"


# SECURITY: what stands for "no secrets were given" is nothing that a program can come
# by in another way: os.environ.get("KEY") is None, "".split() is empty, and either
# would have cookies unsigned.
UNSET = _Unset.UNSET
MaybeSecrets = Union[Secrets, _Unset]


def secret_keys(secrets: Secrets) -> List[bytes]:
    """Return one secret or several as bytes.

    Raises:
        PixieError: there is none, or one is empty or too short. None is shown.
    """
    is_one = isinstance(secrets, (str, bytes)) or not hasattr(secrets, "__iter__")
    several = [secrets] if is_one else list(cast(Sequence[Union[str, bytes]], secrets))
    keys = [key.encode("utf-8") if isinstance(key, str) else key for key in several]
    sizes = [len(key) if isinstance(key, bytes) else 0 for key in keys]
    if not all(sizes) or not sizes:
        raise PixieError(
            "a secret is empty or missing: is an environment variable not set? For "
            "cookies without a signature leave secrets= out, or write secret=False"
        )
    if min(sizes) < MIN_SECRET_BYTES:
        raise PixieError(
            f"a secret has at least {MIN_SECRET_BYTES} bytes, got {min(sizes)}: "
            'python -c "import secrets; print(secrets.token_hex(32))" prints a good one'
        )
    return cast(List[bytes], keys)


def _signatures(name: str, payload: bytes, secrets: Secrets) -> List[bytes]:
    """Return the signature by each secret, in base64url without padding."""
    import hmac
    from base64 import urlsafe_b64encode

    keys = secret_keys(secrets)
    message = b"\0".join((_SIGNING_PURPOSE, name.encode("utf-8"), payload))
    digests = [hmac.digest(key, message, "sha256") for key in keys]
    return [urlsafe_b64encode(digest).rstrip(b"=") for digest in digests]


def sign(name: str, value: object, secrets: Secrets, now: float) -> str:
    """Return a cookie's value that `unsign` turns back into `value`.

    Args:
        name: the cookie's name; the signature is good for no other.
        value: what JSON can say; a tuple comes back as a list.
        secrets: one secret, or several, of which the first signs.
        now: the time of issue, in seconds since 1970.

    Raises:
        TypeError: a value that JSON can't say.
        PixieError: no secret, or one that is too short.
    """
    from base64 import urlsafe_b64encode

    payload = urlsafe_b64encode(dump_json([int(now), value])).rstrip(b"=")
    return (payload + b"." + _signatures(name, payload, secrets)[0]).decode("ascii")


def read_signed(
    name: str, text: str, secrets: Secrets, max_age: Optional[float], now: float
) -> Tuple[int, Any]:
    """Return the time of issue and the value that `sign` put into `text`.

    Args:
        name: the cookie's name.
        text: the cookie's value, as the client sent it.
        secrets: one secret, or several, any of which may have signed.
        max_age: how old it may be, in seconds; None: any age.
        now: the time, in seconds since 1970.

    Raises:
        ValueError: it is forged, too old, from the future, or no signed value at all.
        PixieError: no secret, or one that is too short.
    """
    if len(text) > MAX_COOKIE_CHARS or not text.isascii():
        raise ValueError("not a signed value")
    import hmac
    import json
    from base64 import urlsafe_b64decode

    payload, _, signature = text.encode("ascii").rpartition(b".")
    # SECURITY: in constant time, with every secret. Comparing the encoded text refuses
    # other encodings of the same bytes too.
    expected = _signatures(name, payload, secrets)
    if not sum([hmac.compare_digest(each, signature) for each in expected]):
        raise ValueError("the signature is wrong")
    issued, value = json.loads(urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
    if issued > now + CLOCK_SKEW_SECONDS:
        raise ValueError("signed in the future")
    if max_age is not None and now - issued > max_age:
        raise ValueError("signed too long ago")
    return issued, value


def unsign(
    name: str, text: str, secrets: Secrets, max_age: Optional[float], now: float
) -> Any:
    """Return the value that `sign` put into `text`; arguments as of `read_signed`.

    Raises:
        ValueError: it is forged, too old, from the future, or no signed value at all.
        PixieError: no secret, or one that is too short.
    """
    return read_signed(name, text, secrets, max_age, now)[1]
