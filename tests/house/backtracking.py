"""How many steps a regular expression takes, counted and not timed.

`re` matches by backtracking. `Matcher` does the same, by the same syntax tree, in the
same order, and counts its steps: for one text they are the same number on every
machine. `hostile_texts` makes the texts that an expression is slowest with, out of the
expression itself:

    prefix      leads to a loop p
    pump * n    goes round p, may as well lead from p to a loop q, and goes round q:
                so there are n places at which to change over (Weideman et al., CIAA
                2016); or it goes round p in two ways, and there are 2**n
    suffix      fits neither, so that all of them are tried
"""

from __future__ import annotations

import functools
import re
from typing import (
    Any,
    Dict,
    FrozenSet,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Set,
    Tuple,
)

try:
    from re import _constants as sre  # type: ignore[attr-defined]
    from re import _parser as sre_parse  # type: ignore[attr-defined]
except ImportError:  # Python 3.8 to 3.10
    import sre_constants as sre
    import sre_parse

# One of each kind that an expression may tell apart.
CHARACTERS = [*map(chr, range(256)), "\u0100", "\u0660", "\u2028", "\ud800"]
WORD = frozenset(c for c in CHARACTERS if re.match(r"\w", c))
ASCII_WORD = frozenset(c for c in CHARACTERS if re.match(r"(?a)\w", c))
MAX_PUMP = 8  # characters
MAX_SEARCHED = 500  # states of the search for a pump
FEW, SOME = 48, 96  # characters, to find the worst texts by


class TooManySteps(Exception):
    """A text takes more steps than it may."""


# The program --------------------------------------------------------------------------
#
# ("char", set)            the next character is one of these
# ("split", a, b)          go on at a; if that fails, at b
# ("jump", a)
# ("mark", r)              note where a round of loop r began
# ("again", r, a)          go on at a, if that round took a character
# ("at", kind, word)       a position: the end of a line ...
# ("look", negative, back, end)   what follows, up to `end`, is tried here, not taken
# ("match",)

Instruction = Tuple[Any, ...]


def characters_of(items: List[Tuple[Any, Any]], flags: int) -> FrozenSet[str]:
    """Return which of CHARACTERS a set such as [^a-z] matches."""
    found: Set[str] = set()
    negative = False
    for kind, value in items:
        if kind is sre.NEGATE:
            negative = True
        elif kind is sre.LITERAL:
            found.add(chr(value))
        elif kind is sre.RANGE:
            found.update(c for c in CHARACTERS if value[0] <= ord(c) <= value[1])
        else:
            found |= category(value, flags)
    if flags & re.IGNORECASE:
        folds = [str.lower, str.upper]
        found = {
            c
            for c in CHARACTERS
            if c in found
            or (
                (c.isascii() or not flags & re.ASCII)
                and any(fold(c) in found for fold in folds)
            )
        }
    return frozenset(c for c in CHARACTERS if (c in found) != negative)


def category(code: Any, flags: int) -> FrozenSet[str]:
    """Return which of CHARACTERS \\d, \\w ... match."""
    letter = {"DIGIT": "d", "SPACE": "s", "WORD": "w"}[str(code).rpartition("_")[2]]
    letter = letter.upper() if "_NOT_" in str(code) else letter
    expression = re.compile(f"\\{letter}", flags & re.ASCII)
    return frozenset(c for c in CHARACTERS if expression.match(c))


class Compiler:
    """Turns a syntax tree into a program.

    Args:
        outline: leave counted repetitions at two rounds or endless, and make what is
            looked at a way to go: a smaller program, to find hostile texts by.
    """

    def __init__(self, outline: bool = False) -> None:
        self.program: List[Instruction] = []
        self.outline = outline
        self.loops = 0

    def emit(self, *instruction: Any) -> int:
        self.program.append(instruction)
        return len(self.program) - 1

    def put(self, at: int, *instruction: Any) -> None:
        self.program[at] = instruction

    def sequence(self, tree: Any, flags: int) -> None:
        for kind, value in tree:
            name = str(kind).lower()
            method = getattr(self, f"do_{name}", None)
            if method is None:
                raise NotImplementedError(f"{kind} has no steps here yet: add them")
            method(value, flags)

    def do_literal(self, value: int, flags: int) -> None:
        self.do_in([(sre.LITERAL, value)], flags)

    def do_not_literal(self, value: int, flags: int) -> None:
        self.do_in([(sre.NEGATE, None), (sre.LITERAL, value)], flags)

    def do_in(self, value: List[Tuple[Any, Any]], flags: int) -> None:
        self.emit("char", characters_of(value, flags))

    def do_any(self, _: None, flags: int) -> None:
        dot = {"\n"} if not flags & re.DOTALL else set()
        self.emit("char", frozenset(CHARACTERS) - dot)

    def do_at(self, value: Any, flags: int) -> None:
        name = str(value)
        lines = (
            "_LINE"
            if flags & re.MULTILINE and name in ("AT_BEGINNING", "AT_END")
            else ""
        )
        word = ASCII_WORD if flags & re.ASCII else WORD
        self.emit("at", name + lines, word)

    def do_subpattern(self, value: Any, flags: int) -> None:
        _, added, removed, tree = value
        self.sequence(tree, (flags | added) & ~removed)

    def do_branch(self, value: Any, flags: int) -> None:
        ends = []
        for tree in value[1][:-1]:
            split = self.emit("split")
            self.sequence(tree, flags)
            ends.append(self.emit("jump"))
            self.put(split, "split", split + 1, len(self.program))
        self.sequence(value[1][-1], flags)
        for end in ends:
            self.put(end, "jump", len(self.program))

    def do_max_repeat(self, value: Any, flags: int, greedy: bool = True) -> None:
        least, most, tree = value
        if self.outline:
            most = most if most - least < 2 else sre.MAXREPEAT
            least = min(least, 2)
        for _ in range(least):
            self.sequence(tree, flags)
        if most is sre.MAXREPEAT:
            self.loop(tree, flags, greedy)
            return
        splits = []
        for _ in range(most - least):
            splits.append(self.emit("split"))
            self.sequence(tree, flags)
        for split in splits:
            self.put_split(split, split + 1, len(self.program), greedy)

    def do_min_repeat(self, value: Any, flags: int) -> None:
        self.do_max_repeat(value, flags, greedy=False)

    def loop(self, tree: Any, flags: int, greedy: bool) -> None:
        split = self.emit("split")
        if tree.getwidth()[0]:
            self.sequence(tree, flags)
            self.emit("jump", split)
        else:  # a round without a character is the last one
            number = self.loops = self.loops + 1
            self.emit("mark", number)
            self.sequence(tree, flags)
            self.emit("again", number, split)
        self.put_split(split, split + 1, len(self.program), greedy)

    def put_split(self, at: int, into: int, past: int, greedy: bool) -> None:
        self.put(at, "split", *((into, past) if greedy else (past, into)))

    def do_assert(self, value: Any, flags: int, negative: bool = False) -> None:
        direction, tree = value
        if self.outline:
            split = self.emit("split")
            self.sequence(tree, flags)
            self.emit("match")
            self.put(split, "split", split + 1, len(self.program))
            return
        look = self.emit("look")
        self.sequence(tree, flags)
        self.emit("match")
        back = tree.getwidth()[0] if direction < 0 else 0
        self.put(look, "look", negative, back, len(self.program))

    def do_assert_not(self, value: Any, flags: int) -> None:
        self.do_assert(value, flags, negative=True)


def is_at(kind: str, word: FrozenSet[str], text: str, position: int) -> bool:
    """Return whether a position is what ^, $, \\b ... ask for."""
    size = len(text)
    if kind == "AT_BEGINNING_LINE":
        return position == 0 or text[position - 1] == "\n"
    if kind in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
        return position == 0
    if kind == "AT_END_LINE":
        return position == size or text[position] == "\n"
    if kind == "AT_END":
        return position == size or (position == size - 1 and text[position] == "\n")
    if kind == "AT_END_STRING":
        return position == size
    before = position > 0 and text[position - 1] in word
    after = position < size and text[position] in word
    return {"AT_BOUNDARY": before != after, "AT_NON_BOUNDARY": before == after}[kind]


class Matcher:
    """An expression that counts its steps.

    Args:
        pattern: an expression, of text or of bytes; texts are str all the same, latin-1
            for bytes.
    """

    def __init__(self, pattern: re.Pattern[Any]) -> None:
        self.pattern = pattern
        # Flags that the text itself sets would count twice.
        flags = pattern.flags | (re.ASCII if isinstance(pattern.pattern, bytes) else 0)
        self._flags = flags & ~re.UNICODE if flags & re.ASCII else flags
        self._tree = sre_parse.parse(pattern.pattern, pattern.flags)
        self.program = self.compile()
        self.steps = 0
        self.limit = 10_000_000

    def compile(self, outline: bool = False) -> List[Instruction]:
        """Return the program of the expression, or a smaller one."""
        compiler = Compiler(outline)
        compiler.sequence(self._tree, self._flags)
        compiler.emit("match")
        return compiler.program

    def count(self, how: str, text: str) -> int:
        """Return the steps that one use takes; TooManySteps if over `limit`.

        Args:
            how: "match", "fullmatch", "search"; "each" for finditer, findall, split and
                sub; "follow" for match(text, position) until that fails.
        """
        self.steps = position = 0
        while True:
            span = self.find(how, text, position)
            if how not in ("each", "follow") or span is None:
                return self.steps
            position = span[1] + (span[0] == span[1])
            if position > len(text):
                return self.steps

    def find(self, how: str, text: str, position: int = 0) -> Any:
        """Return the span of the match, or None."""
        last = len(text) if how in ("search", "each") else position
        for start in range(position, last + 1):
            end = self.run(0, text, start, how == "fullmatch")
            if end is not None:
                return start, end
        return None

    def run(self, pc: int, text: str, position: int, whole: bool = False) -> Any:
        """Return where a match that begins at `position` ends, or None."""
        size, program = len(text), self.program
        waiting: List[Tuple[int, int, Dict[int, int]]] = [(pc, position, {})]
        while waiting:
            pc, position, marks = waiting.pop()
            while True:
                self.steps += 1
                if self.steps > self.limit:
                    raise TooManySteps
                one = program[pc]
                kind = one[0]
                pc += 1
                if kind == "char":
                    if position == size or text[position] not in one[1]:
                        break
                    position += 1
                elif kind == "split":
                    waiting.append((one[2], position, marks))
                    pc = one[1]
                elif kind == "jump":
                    pc = one[1]
                elif kind == "match":
                    if not whole or position == size:
                        return position
                    break
                elif kind == "mark":
                    marks = {**marks, one[1]: position}
                elif kind == "again":
                    pc = one[2] if position > marks[one[1]] else pc
                elif kind == "at":
                    if not is_at(one[1], one[2], text, position):
                        break
                else:
                    _, negative, back, end = one
                    there = position >= back and self.run(pc, text, position - back)
                    if (there is None or there is False) != negative:
                        break
                    pc = end
        return None


# Hostile texts ------------------------------------------------------------------------


class Hostile(NamedTuple):
    """A text that takes long."""

    prefix: str
    pump: str
    suffix: str

    def text(self, size: int) -> str:
        """Return it in about `size` characters."""
        room = max(size - len(self.prefix) - len(self.suffix), len(self.pump))
        return self.prefix + self.pump * (room // len(self.pump)) + self.suffix


START = -1  # the state in front of a search: it takes whatever comes


class Outline:
    """The ways through an expression, character by character."""

    def __init__(self, matcher: Matcher, how: str, alphabet: FrozenSet[str]) -> None:
        self._program = matcher.compile(outline=True)
        self._again = how in ("search", "each", "follow")
        # PERF: the search for pumps asks for nothing else.
        self.after = functools.lru_cache(maxsize=None)(self._after)
        sets = {one[1] for one in self._program if one[0] == "char"} | {WORD}
        kinds: Dict[Tuple[bool, ...], str] = {}
        # The first of its kind, and letters rather than controls.
        for c in sorted(alphabet, key=lambda c: (not c.isprintable(), c)):
            kinds.setdefault(tuple(c in one for one in sets), c)
        self.letters = sorted(kinds.values())
        self.first = [START] if self._again else self.closure(0)
        self.words: Dict[int, str] = {}  # a shortest one that leads to each state
        self._walk()

    def closure(self, pc: int) -> List[int]:
        """Return the states that read next, some of them more than once."""
        found: List[int] = []
        ways = [(pc, frozenset([pc]))]
        while ways:
            at, seen = ways.pop()
            one = self._program[at]
            if one[0] == "char":
                found.append(at)
                following: Tuple[int, ...] = ()
            elif one[0] == "match":
                following = ()
            elif one[0] == "split" or one[0] == "jump":
                following = one[1:]
            elif one[0] == "again":
                following = (one[2], at + 1)
            else:
                following = (at + 1,)
            ways += [(to, seen | {to}) for to in following if to not in seen]
        return found

    def _after(self, state: int, letter: str) -> List[int]:
        """Return the states to which a letter leads, each once."""
        if state == START:  # a match that begins with this very letter has read it
            begun = [to for one in self.closure(0) for to in self.after(one, letter)]
            return list(dict.fromkeys([START, *begun]))
        if letter not in self._program[state][1]:
            return []
        return list(dict.fromkeys(self.closure(state + 1)))

    def _walk(self) -> None:
        todo = [(state, "") for state in self.first]
        for state, word in todo:
            if state not in self.words:
                self.words[state] = word
                todo += [
                    (to, word + letter)
                    for letter in self.letters
                    for to in self.after(state, letter)
                ]

    def texts(self) -> Iterator[Hostile]:
        """Yield what goes round the loops, and from one to another, and then fails."""
        loops = [state for state in self.words if self.trip((state,), (state,))]
        for p in loops:
            for word in self.trip((p,), (p,)):
                yield from self.ended(self.words[p], word, p, p)
                if self._again:  # a search may begin, and go on, all over again
                    yield from self.ended("", self.words[p] + word, p, p)
            for q in loops:
                trip = ((p, q), (p, q)) if p == q else ((p, p, q), (p, q, q))
                for word in self.trip(*trip):
                    yield from self.ended(self.words[p], word, p, q)

    def ended(self, prefix: str, pump: str, p: int, q: int) -> Iterator[Hostile]:
        """Yield the text as it is, and with ends that fit into neither of two loops."""
        wrong = [c for c in self.letters if not self.after(p, c) + self.after(q, c)]
        for suffix in ["", *wrong[:2]]:
            yield Hostile(prefix, pump, suffix)

    def trip(self, start: Tuple[int, ...], goal: Tuple[int, ...]) -> List[str]:
        """Return the shortest words that lead from all of `start` to all of `goal`."""
        found: List[str] = []
        seen, todo = {start}, [(start, "")]
        for states, word in todo:
            if len(word) >= MAX_PUMP or len(seen) > MAX_SEARCHED or len(found) > 3:
                break
            for letter in self.letters:
                steps: List[Tuple[int, ...]] = [()]
                for state in states:
                    after = self.after(state, letter)
                    steps = [(*done, to) for done in steps for to in after]
                for to in steps:
                    if to == goal:
                        found.append(word + letter)
                    elif to not in seen:
                        seen.add(to)
                        todo.append((to, word + letter))
        return list(dict.fromkeys(found))


def hostile_texts(
    matcher: Matcher, how: str, alphabet: FrozenSet[str], count: int = 3
) -> List[Hostile]:
    """Return the worst texts for an expression: the longest, and the fastest growing.

    Args:
        alphabet: the characters that may come.
    """
    outline = Outline(matcher, how, alphabet)

    @functools.lru_cache(maxsize=None)
    def steps(hostile: Hostile, size: int) -> int:
        try:
            return matcher.count(how, hostile.text(size))
        except TooManySteps:
            return matcher.limit

    def worst(texts: Iterable[Hostile], most: int) -> List[Hostile]:
        slow = sorted(set(texts), key=lambda one: (-steps(one, FEW), one))[: 2 * most]
        growth = {one: steps(one, SOME) / steps(one, FEW) for one in slow}
        growing = sorted(slow, key=lambda one: (-growth[one], one))
        return list(dict.fromkeys(slow[: most // 2] + growing))[:most]

    matcher.limit = 100_000
    letters = [Hostile("", letter, "") for letter in outline.letters]
    best = worst([*letters, *outline.texts()], 10 * count)
    ends = ["", *outline.letters]
    return worst((one._replace(suffix=end) for one in best for end in ends), 2 * count)
