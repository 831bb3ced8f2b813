"""Header compression (RFC 7541): a block of bytes to header fields, and back.

Nothing here waits or knows a connection. The decoder is the whole of the RFC, since
the client chooses what it uses. The encoder uses the least of it: names of the static
table, texts as they are, and no dynamic table. So it has no state that a client could
fill or shrink, and what it makes of a header line is the same each time: it is kept.
"""

from __future__ import annotations

from functools import lru_cache
from typing import List, Optional, Tuple

from .tables import EOS, STATIC_TABLE, Field, huffman_codes

TABLE_BYTES = 4096  # of the dynamic table; the default of RFC 9113 section 6.5.2
FIELD_BYTES = 32  # that each field counts beside its texts (RFC 7541 section 4.1)
# SECURITY: `hpack` 4.0 took 0.8 s for one number of 64 KB. This many octets say 2^28.
MAX_INTEGER_OCTETS = 4
# SECURITY: a block of 16 KB may say 47 MB ("HPACK bomb", CVE-2016-6581). A client that
# has too much to say is told so; nobody has this much.
FLOOD_TIMES = 4
MAX_KEPT_BYTES = 128  # of a coded text that is kept decoded; 1,024 of them

# What a field of a response may be sent as, so that no cache on the way to the client
# compresses it together with others (RFC 7541 section 7.1.3).
_NEVER_INDEXED = frozenset((b"set-cookie",))
_STATIC_NAMES = {name: at for at, (name, _) in reversed([*enumerate(STATIC_TABLE, 1)])}
_STATIC_FIELDS = {field: at for at, field in enumerate(STATIC_TABLE, 1)}
_STATIC_COUNT = len(STATIC_TABLE)


class HpackError(Exception):
    """A header block can't be decoded: both sides' tables differ from here on."""


class HeaderFlood(HpackError):
    """A header list is so much longer than may come that it is not decoded further."""


# Huffman codes ------------------------------------------------------------------------


class _HuffmanTable:
    """What four bits mean after those before them.

    Attributes:
        steps: at 16 * state + bits the next state, times 16, and the octet that ends
            here, or -1; None where the bits are the code of EOS.
        ends: states in which a text may end: all bits of the last code are ones, and
            fewer than 8 (RFC 7541 section 5.2).
    """

    def __init__(self) -> None:
        children: List[List[int]] = [[0, 0]]  # of each state; octets are ~octet
        for symbol, (code, bits) in enumerate(huffman_codes()):
            node = 0
            for at in range(bits - 1, 0, -1):
                bit = code >> at & 1
                if not children[node][bit]:
                    children.append([0, 0])
                    children[node][bit] = len(children) - 1
                node = children[node][bit]
            children[node][code & 1] = ~symbol
        self._children = children
        self.steps = [
            self._step(node, bits)
            for node in range(len(children))
            for bits in range(16)
        ]
        ends, node = [0], 0
        for _ in range(7):
            node = children[node][1]
            ends.append(node)
        self.ends = frozenset(16 * one for one in ends)

    def _step(self, node: int, bits: int) -> Optional[Tuple[int, int]]:
        octet = -1
        for at in (3, 2, 1, 0):
            node = self._children[node][bits >> at & 1]
            if node < 0:
                octet, node = ~node, 0
                if octet == EOS:
                    return None
        return 16 * node, octet


@lru_cache(maxsize=1)
def _huffman_table() -> _HuffmanTable:
    return _HuffmanTable()


def huffman_decode(data: bytes) -> bytes:
    """Return the text of a Huffman-coded string.

    Raises:
        HpackError: it holds EOS, or its padding is no padding.
    """
    table = _huffman_table()
    steps, state, text = table.steps, 0, bytearray()
    for octet in data:
        for bits in (octet >> 4, octet & 15):
            step = steps[state + bits]
            if step is None:
                raise HpackError("a coded text holds EOS")
            state, found = step
            if found >= 0:
                text.append(found)
    if state not in table.ends:
        raise HpackError("the padding of a coded text is not the start of EOS")
    return bytes(text)


# PERF: clients repeat themselves: 0.1 us in place of 2 for a text of ten octets.
# SECURITY: looking one up takes all of its octets, so nobody can feel his way to what
# others have sent.
_kept_decode = lru_cache(maxsize=1024)(huffman_decode)


# Numbers and texts --------------------------------------------------------------------


def read_integer(data: bytes, position: int, bits: int) -> Tuple[int, int]:
    """Return a number whose first octet has so many bits of it, and what follows it.

    Raises:
        HpackError: it is too long.
        IndexError: it has no end.
    """
    mask = (1 << bits) - 1
    value = data[position] & mask
    position += 1
    if value < mask:
        return value, position
    for at in range(MAX_INTEGER_OCTETS):
        octet = data[position + at]
        value += (octet & 127) << 7 * at
        if octet < 128:
            return value, position + at + 1
    raise HpackError(f"a number has more than {MAX_INTEGER_OCTETS} octets")


def read_text(data: bytes, position: int) -> Tuple[bytes, int]:
    """Return a text, and the position behind it.

    Raises:
        HpackError: it is none.
        IndexError: it has no end.
    """
    is_coded = data[position] > 127
    length, position = read_integer(data, position, 7)
    end = position + length
    if end > len(data):
        raise IndexError
    text = data[position:end]
    if is_coded:
        text = _kept_decode(text) if length <= MAX_KEPT_BYTES else huffman_decode(text)
    return text, end


def encode_integer(value: int, bits: int, first: int) -> bytes:
    """Return a number whose first octet has so many bits of it, and others beside."""
    mask = (1 << bits) - 1
    if value < mask:
        return bytes((first | value,))
    octets = [first | mask]
    value -= mask
    while value > 127:
        octets.append(value & 127 | 128)
        value >>= 7
    octets.append(value)
    return bytes(octets)


# Blocks -------------------------------------------------------------------------------


class Decoder:
    """Decodes the header blocks of one connection, in their order.

    Args:
        max_list_bytes: of a header list, with FIELD_BYTES for each field. A list that
            is longer is decoded to its end, for the table's sake, and not kept; one
            that is FLOOD_TIMES as long is a flood.
        max_table_bytes: of the dynamic table.
    """

    def __init__(self, max_list_bytes: int, max_table_bytes: int = TABLE_BYTES) -> None:
        self._max_list_bytes = max_list_bytes
        self._most_list_bytes = FLOOD_TIMES * max_list_bytes
        self._most_bytes = max_table_bytes  # that the client may choose
        self._table_bytes = max_table_bytes  # that it has chosen
        self._fields: List[Field] = []  # of the dynamic table; the newest is the last
        self._held_bytes = 0

    def decode(self, block: bytes) -> Optional[List[Field]]:
        """Return the fields of a block; None if they are more than may come.

        Raises:
            HpackError: it can't be decoded, or is a flood.
        """
        try:
            return self._decode(block)
        except IndexError:
            raise HpackError("a header block ends inside of a field") from None

    def _decode(self, block: bytes) -> Optional[List[Field]]:
        fields: List[Field] = []
        size, position, end = 0, 0, len(block)
        while position < end:
            if size > self._most_list_bytes:
                raise HeaderFlood("a header list is many times as long as may come")
            octet = block[position]
            if octet > 127:  # 6.1: indexed
                if octet < 128 + 127:
                    index, position = octet & 127, position + 1
                else:
                    index, position = read_integer(block, position, 7)
                field = self._field(index)
            elif octet > 63:  # 6.2.1: literal, which goes into the table
                field, position = self._literal(block, position, 6)
                self._insert(field)
            elif octet > 31:  # 6.3: another size of the table
                if size:  # 4.2: at the beginning of a block
                    raise HpackError("the table's size changes inside of a block")
                chosen, position = read_integer(block, position, 5)
                if chosen > self._most_bytes:
                    raise HpackError(f"the table has at most {self._most_bytes} bytes")
                self._table_bytes = chosen
                self._evict()
                continue
            else:  # 6.2.2 and 6.2.3: literal
                field, position = self._literal(block, position, 4)
            size += len(field[0]) + len(field[1]) + FIELD_BYTES
            if size <= self._max_list_bytes:
                fields.append(field)
        return fields if size <= self._max_list_bytes else None

    def _field(self, index: int) -> Field:
        if 0 < index <= _STATIC_COUNT:
            return STATIC_TABLE[index - 1]
        at = index - _STATIC_COUNT
        if not 0 < at <= len(self._fields):
            raise HpackError(f"no field has the index {index}")
        return self._fields[-at]

    def _literal(self, block: bytes, position: int, bits: int) -> Tuple[Field, int]:
        index, position = read_integer(block, position, bits)
        if index:
            name = self._field(index)[0]
        else:
            name, position = read_text(block, position)
        value, position = read_text(block, position)
        return (name, value), position

    def _insert(self, field: Field) -> None:
        # Section 4.4: one that is larger than the table empties it, and is no error.
        self._fields.append(field)
        self._held_bytes += len(field[0]) + len(field[1]) + FIELD_BYTES
        if self._held_bytes > self._table_bytes:
            self._evict()

    def _evict(self) -> None:
        count = 0
        while self._held_bytes > self._table_bytes:
            name, value = self._fields[count]
            self._held_bytes -= len(name) + len(value) + FIELD_BYTES
            count += 1
        del self._fields[:count]


# What a first header block begins with: the dynamic table is empty, and stays so. Then
# whatever size a client asks for is kept (RFC 7541 section 4.2).
NO_TABLE = b"\x20"


def encode_field(name: bytes, value: bytes) -> bytes:
    """Return a field as every decoder takes it, whatever came before."""
    index = _STATIC_FIELDS.get((name, value))
    if index is not None:
        return bytes((128 | index,))
    first = 16 if name in _NEVER_INDEXED else 0
    start = encode_integer(_STATIC_NAMES.get(name, 0), 4, first)
    if len(start) == 1 and start[0] == first:
        start += encode_integer(len(name), 7, 0) + name
    return b"%b%b%b" % (start, encode_integer(len(value), 7, 0), value)
