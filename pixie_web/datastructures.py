"""Headers and MultiDict.

Two dictionaries in which a name may have several values. Both keep the order of first
appearance. They differ in `d[name]`. A header that is sent in several lines means one
list, so `Headers` joins them with ", " (RFC 9110 section 5.3). Of a form field that
is sent twice the last one counts, as in bottle.
"""

from __future__ import annotations

import builtins
from typing import (
    Any,
    Callable,
    Dict,
    Generic,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Tuple,
    TypeVar,
    Union,
    overload,
)

from .errors import BadValue, HTTPError, MissingValue
from .text import check_header

T = TypeVar("T")
Default = TypeVar("Default")
Made = TypeVar("Made")


class Headers:
    """Header names and values; names compare without regard to case.

    Args:
        items: pairs, or a mapping, of str to str.

    Raises:
        ValueError: a name is no token, or a value holds a control character or a
            character outside latin-1. No part of it is sent.
    """

    __slots__ = ("_lines",)

    def __init__(
        self, items: Union[Mapping[str, str], Iterable[Tuple[str, str]], None] = None
    ) -> None:
        self._lines: Dict[str, List[Tuple[str, str]]] = {}
        if items is not None:
            pairs = items.items() if isinstance(items, (Mapping, Headers)) else items
            for name, value in pairs:
                self.add(name, value)

    @classmethod
    def from_wire(cls, lines: Iterable[Tuple[str, str]]) -> Headers:
        """Return Headers of lines that the parser has proved well-formed."""
        headers = cls()
        found = headers._lines
        for line in lines:
            name = line[0].lower()
            # PERF: no list that is dropped where a name comes again, which is rare.
            if name in found:
                found[name].append(line)
            else:
                found[name] = [line]
        return headers

    def add(self, name: str, value: str) -> None:
        """Add a line, beside those that have this name already."""
        value = str(value)
        check_header(name, value)
        self._lines.setdefault(name.lower(), []).append((name, value))

    def get(self, name: str, default: Optional[str] = None) -> Optional[str]:
        """Return the value, several joined with ", ", or `default`."""
        lines = self._lines.get(name.lower())
        if lines is None:
            return default
        return lines[0][1] if len(lines) == 1 else ", ".join(v for _, v in lines)

    def getall(self, name: str) -> List[str]:
        """Return the values of all lines with this name, in order."""
        return [value for _, value in self._lines.get(name.lower(), ())]

    def setdefault(self, name: str, value: str) -> None:
        """Set a header that is not there yet."""
        if name.lower() not in self._lines:
            self[name] = value

    def vary(self, name: str) -> None:
        """Add a request header by which the answer differs (RFC 9110 12.5.5)."""
        value = self.get("vary") or ""
        named = [one.strip(" \t").lower() for one in value.split(",")]
        if "*" not in named and name.lower() not in named:
            self["Vary"] = f"{value}, {name}" if value else name

    def update(self, items: Mapping[str, str]) -> None:
        """Set each header of a mapping."""
        for name, value in items.items():
            self[name] = value

    def keys(self) -> Iterator[str]:
        """Iterate over the names, each once: so `dict()` takes this for a mapping."""
        return iter(self)

    def items(self) -> Iterator[Tuple[str, str]]:
        """Iterate over all lines as (name, value)."""
        for lines in self._lines.values():
            yield from lines

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __setitem__(self, name: str, value: str) -> None:
        value = str(value)
        check_header(name, value)
        self._lines[name.lower()] = [(name, value)]

    def __delitem__(self, name: str) -> None:
        del self._lines[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._lines

    def __iter__(self) -> Iterator[str]:
        return (lines[0][0] for lines in self._lines.values())

    def __len__(self) -> int:
        return len(self._lines)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return self._by_name() == other._by_name()

    def __repr__(self) -> str:
        return f"Headers({list(self.items())!r})"

    def _by_name(self) -> Dict[str, List[str]]:
        return {name: self.getall(name) for name in self._lines}


class MultiDict(Generic[T]):
    """Names with one or several values each: a query, a form, the uploaded files.

    `d["a"]` is the last value sent under that name; a missing one is a `MissingValue`,
    which answers 400 when the handler does not catch it.
    """

    __slots__ = ("_values",)

    def __init__(self, pairs: Iterable[Tuple[str, T]] = ()) -> None:
        self._values: Dict[str, List[T]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    @overload
    def get(
        self, name: str, default: None = None, type: None = None
    ) -> Optional[T]: ...

    @overload
    def get(
        self, name: str, default: Default, type: None = None
    ) -> Union[T, Default]: ...

    @overload
    def get(
        self, name: str, default: None = None, *, type: Callable[[T], Made]
    ) -> Optional[Made]: ...

    @overload
    def get(
        self, name: str, default: Default, type: Callable[[T], Made]
    ) -> Union[Made, Default]: ...

    def get(
        self,
        name: str,
        default: Any = None,
        type: Optional[Callable[[Any], Any]] = None,
    ) -> Any:
        """Return the last value, converted by `type`; without one, `default`.

        Raises:
            BadValue: `type` has refused the value, by ValueError, TypeError or
                ArithmeticError (Decimal); it answers 400 unless the handler catches it.
        """
        values = self._values.get(name)
        if not values:
            return default
        if type is None:
            return values[-1]
        try:
            return type(values[-1])
        except HTTPError:
            raise
        except (ValueError, TypeError, ArithmeticError) as error:
            kind = type.__name__ if isinstance(type, builtins.type) else "value"
            raise BadValue(name, values[-1], kind) from error

    def getall(self, name: str) -> List[T]:
        """Return all values sent under `name`, in order; a list that may be empty."""
        return list(self._values.get(name, ()))

    def keys(self) -> Iterable[str]:
        """Return the names, in order of first appearance."""
        return self._values.keys()

    def items(self) -> Iterator[Tuple[str, T]]:
        """Iterate over (name, value), each value of a name in turn."""
        for name, values in self._values.items():
            for value in values:
                yield name, value

    def __getitem__(self, name: str) -> T:
        try:
            return self._values[name][-1]
        except KeyError:
            raise MissingValue(name) from None

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MultiDict):
            return NotImplemented
        return self._values == other._values

    def __repr__(self) -> str:
        return f"MultiDict({list(self.items())!r})"
