"""The bodies of forms: multipart/form-data, and its limits.

Forms and uploads: application/x-www-form-urlencoded and multipart/form-data, by RFC
7578 and as browsers write it (WHATWG HTML section 4.10.21.8).

    piece of body -> MultipartParser.feed -> Part, bytes, bytes ..., None, Part ...

The parser gets pieces, and does no I/O. It keeps only an unfinished part head, or
bytes that may begin a delimiter. It searches each byte once, for CRLF "--" boundary,
or twice, behind a line that only begins like one. An upload is not copied: a large
body lies in a file already, and `FileUpload.file` is a view of its part.

SECURITY: ambiguous input is refused (bare LF, folded or repeated headers, text ahead
of the first boundary, no end): a filter in front may read it differently. `filename*`
is ignored (RFC 7578 section 4.2 forbids it).
"""

from __future__ import annotations

import re
import sys
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

from ..errors import HTTPError
from ..text import TOKEN_BYTES, expression

MAX_FORM_FIELDS = 1000  # urlencoded; Django, PHP, aiohttp, qs
MAX_PADDING_BYTES = 64  # blanks after a boundary; no HTTP client sends any
MAX_FALSE_LINES = 1000  # in a body, that begin like a boundary; clients send none
MAX_PREAMBLE_BYTES = 64  # line ends ahead of the first boundary: some clients send one


class FormLimits(NamedTuple):
    """Limits of a form; over any of these the answer is 413."""

    max_fields: int = MAX_FORM_FIELDS
    max_form_bytes: int = 500_000  # all text, names too; Werkzeug; bottle 100 KiB
    max_field_bytes: int = 64 * 1024  # one text field of a multipart; multipart
    max_file_bytes: int = sys.maxsize  # each file; the whole body has its own limit
    max_parts: int = 128  # of a multipart; Starlette and Werkzeug 1000
    max_part_headers: int = 8  # multipart, python-multipart; RFC 7578 knows three
    max_part_head_bytes: int = 4096  # multipart, python-multipart

    def check(self, name: str, count: int) -> None:
        """Raise HTTPError(413) if `count` is over the limit of that name."""
        limit = getattr(self, name)
        if count > limit:
            raise HTTPError(413, f"The form is over a limit: {name} is {limit}.")


FORM_LIMITS = FormLimits()


# Header parameters --------------------------------------------------------------------

# A quote ends a value unless a backslash stands before it and no `;` or end after it:
# browsers send backslashes as they are ("C:\"), older clients write \" for a quote.
_PARAMETER = expression(
    rf"""[ \t]*;[ \t]*(?:([{TOKEN_BYTES.decode()}]+)=
    (?:"([^"]*(?:(?<=\\)"(?![ \t]*(?:;|\Z))[^"]*)*)"|([^ \t";]+)))?[ \t]*""",
    re.VERBOSE,
)


def parse_parameters(value: str) -> Tuple[str, Dict[str, str]]:
    """Return a header's first word and its parameters, both names in lower case.

    'Form-Data; name="a b"' -> ("form-data", {"name": "a b"})

    Raises:
        HTTPError: 400, for bad syntax or a parameter that comes twice.
    """
    word = value.partition(";")[0]
    position = len(word)
    parameters: Dict[str, str] = {}
    while position < len(value):
        match = _PARAMETER.match(value, position)
        key = (match.group(1) or "").lower() if match else ""
        if match is None or key in parameters:
            raise HTTPError(400, "Malformed parameters in a header.")
        if key:
            parameters[key] = match.group(2) or match.group(3) or ""
        position = match.end()
    return word.strip(" \t").lower(), parameters


_CODECS = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "us-ascii": "ascii",
    "ascii": "ascii",
    "iso-8859-1": "latin-1",
    "latin1": "latin-1",
    "windows-1252": "cp1252",
    "cp1252": "cp1252",
}


def codec_of(content_type: str) -> str:
    """Return the codec of the text that has this Content-Type: its charset's, or utf-8.

    SECURITY: never codecs.lookup, which imports and keeps whatever a client names.

    Raises:
        HTTPError: 415, for a charset that is none of those above.
    """
    if "charset" not in content_type.lower():
        return "utf-8"
    charset = parse_parameters(content_type)[1].get("charset", "utf-8")
    codec = _CODECS.get(charset.lower())
    if codec is None:
        text = f"Send text in UTF-8; the charset {charset[:40]!r} is not known here."
        raise HTTPError(415, text)
    return codec


# The parser ---------------------------------------------------------------------------

_BOUNDARY = expression(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
# RFC 2046 5.1.1: blanks after a boundary are those of gateways, and are to be taken.
_AFTER_BOUNDARY = expression(
    rb"([ \t]{%d})|[ \t]*(?:\r(?:(\n)|\Z)|\Z)|-(?:(-)|\Z)" % (MAX_PADDING_BYTES + 1)
)
_PART_HEAD = expression(  # RFC 9112 section 5, without folded lines
    rf"(?:[{TOKEN_BYTES.decode()}]+:[^\x00-\x08\x0a-\x1f\x7f]*(?:\r\n|\Z))+"
)
_COMMON_HEAD = expression(
    r'Content-Disposition: form-data; name="([^"%\\\x00-\x1f\x7f]*)"'
    r'(?:; filename="([^"%\\\x00-\x1f\x7f]*)")?'
    r"(?:\r\nContent-Type: ([^ \t\x00-\x1f\x7f]*))?"
)


def _unquote(text: str) -> str:
    """Return a part's name as its sender meant it (WHATWG HTML 4.10.21.8)."""
    text = text.replace('\\"', '"').replace("%22", '"')
    return text.replace("%0D", "\r").replace("%0A", "\n")


class Part:
    """The head of one part of a multipart body.

    `filename` is None for a text field; `offset` is where in the body its data begins;
    `size` (bytes) is final when the part has ended.
    """

    def __init__(self, head: bytes) -> None:
        self.head = head.decode("utf-8", "replace")
        self.filename: Optional[str] = None
        self.offset = self.size = 0
        # PERF: what browsers send, in one match: small parts take 0.5 of the time.
        common = _COMMON_HEAD.fullmatch(self.head)
        if common:
            self.name, self.filename, content_type = common.groups()
            self.content_type: str = content_type or ""
        else:
            self._read()

    def lines(self) -> List[Tuple[str, str]]:
        """Return the header lines as (name, value)."""
        pairs = [line.partition(":") for line in self.head.split("\r\n")]
        return [(name, value.strip(" \t")) for name, _, value in pairs]

    def _read(self) -> None:
        lines = self.lines()
        found = {name.lower(): value for name, value in lines}
        if not _PART_HEAD.fullmatch(self.head) or len(found) < len(lines):
            raise HTTPError(400, "Malformed or repeated headers of a part.")
        word, parameters = parse_parameters(found.get("content-disposition", ""))
        if word != "form-data" or "name" not in parameters:
            raise HTTPError(400, "A part's Content-Disposition is form-data; name=...")
        self.name = _unquote(parameters["name"])
        if "filename" in parameters:
            self.filename = _unquote(parameters["filename"])
        self.content_type = found.get("content-type", "")
        # RFC 7578 section 4.7: deprecated, and no browser ever encoded anything.
        encoding = found.get("content-transfer-encoding", "binary").lower()
        if encoding not in ("7bit", "8bit", "binary"):
            text = f"Send parts of a form as they are, not in {encoding[:40]!r}."
            raise HTTPError(415, text)


class MultipartParser:
    """A push parser of multipart/form-data; see the head of this section.

    Args:
        boundary: the boundary, without the leading `--` (str, 1 to 70 characters).
        limits: the bounds; `max_fields` is not used.

    Raises:
        HTTPError: 400, if the boundary is none (RFC 2046 section 5.1.1).
    """

    def __init__(self, boundary: str, limits: FormLimits = FORM_LIMITS) -> None:
        if not _BOUNDARY.fullmatch(boundary):
            raise HTTPError(400, "A multipart form needs a boundary (RFC 2046 5.1.1).")
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._false_lines = 0  # that only begin like a delimiter
        self._limits = limits
        # The first delimiter may stand at the very beginning, without its CRLF.
        self._rest = b"\r\n"
        self._offset = -2  # of _rest in the body
        self._part: Optional[Part] = None  # the one whose data comes
        self._in_head = False
        self._ended = False
        self._form_bytes = 0
        self._parts = 0

    def feed(self, data: bytes) -> Iterator[Union[Part, bytes, None]]:
        """Iterate over what `data` adds: a `Part`, pieces of its data, None at its end.

        To be exhausted before the next call. What follows the last boundary is ignored.

        Raises:
            HTTPError: 400 where it is malformed, 413 over a limit; the parser is of no
                use afterwards.
        """
        buffer = self._rest + data if self._rest else data
        position = 0
        while not self._ended:
            if self._in_head:
                part = self._take_head(buffer, position)
                if part is None:
                    break
                self._part, self._in_head = part, False
                position = part.offset - self._offset
                yield part
            end, stop, is_last = self._find_delimiter(buffer, position)
            if end > position:
                piece = buffer[position:end]
                self._check_data(piece, self._offset + end)
                if self._part is not None:
                    yield piece
                position = end
            if not stop:
                break
            if self._part is not None:
                yield None
            position, self._part = stop, None
            self._ended, self._in_head = is_last, not is_last
        self._offset += position
        self._rest = b"" if self._ended else buffer[position:]

    def close(self) -> None:
        """Raise HTTPError(400) unless the last boundary came, or nothing at all."""
        if not self._ended and self._offset + len(self._rest):
            raise HTTPError(400, "The multipart body ends before its last boundary.")

    def _find_delimiter(self, buffer: bytes, position: int) -> Tuple[int, int, bool]:
        """Return where the data ends, where its delimiter does, and if it is the last.

        The second is 0 while the delimiter is not here to its end.
        """
        delimiter, length = self._delimiter, len(self._delimiter)
        end, found = buffer.find(delimiter, position), None
        while end >= 0:
            found = _AFTER_BOUNDARY.match(buffer, end + length)
            if found is not None:
                break
            # RFC 2046 5.1.1: no line of the data may begin like a delimiter.
            # SECURITY: each is a turn of Python; 16 MiB of them took 0.7 s.
            self._false_lines += 1
            if self._false_lines > MAX_FALSE_LINES:
                raise HTTPError(400, "Too many lines begin like a multipart boundary.")
            end = buffer.find(delimiter, end + length)
        if found is None:
            # It may begin in the tail, and then at the last CR: it has no other.
            end = buffer.rfind(b"\r", max(position, len(buffer) - length + 1))
            if end < 0 or not delimiter.startswith(buffer[end:]):
                end = len(buffer)
            return end, 0, False
        if found.group(1):
            raise HTTPError(400, "Too many blanks after a multipart boundary.")
        is_whole = found.group(2) or found.group(3)
        return end, found.end() if is_whole else 0, bool(found.group(3))

    def _take_head(self, buffer: bytes, position: int) -> Optional[Part]:
        """Return the part that begins at a position; None while its head goes on."""
        limits = self._limits
        longest = limits.max_part_head_bytes + 4
        end = buffer.find(b"\r\n\r\n", position, position + longest)
        if end < 0:
            limits.check("max_part_head_bytes", len(buffer) - position - 3)
            return None
        head = buffer[position:end]
        self._parts += 1
        limits.check("max_parts", self._parts)
        limits.check("max_part_headers", head.count(b"\r\n") + 1)
        part = Part(head)
        part.offset = self._offset + end + 4
        if part.filename is None:
            self._form_bytes += len(part.name)
        return part

    def _check_data(self, piece: bytes, end: int) -> None:
        """Check a piece of data, ending at `end` in the body, against the limits."""
        part = self._part
        if part is None:
            if piece.strip(b"\r\n") or end > MAX_PREAMBLE_BYTES:
                raise HTTPError(400, "The multipart body begins with no boundary.")
            return
        part.size += len(piece)
        if part.filename is not None:
            self._limits.check("max_file_bytes", part.size)
            return
        self._form_bytes += len(piece)
        limits, form_bytes = self._limits, self._form_bytes
        over_field = part.size - limits.max_field_bytes
        # Of two limits passed in one piece the first one counts, however it was cut.
        if form_bytes - limits.max_form_bytes > max(0, over_field):
            limits.check("max_form_bytes", form_bytes)
        elif over_field > 0:
            limits.check("max_field_bytes", part.size)
