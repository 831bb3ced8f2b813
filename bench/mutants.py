"""How much the tests notice: small faults are put into the source, one at a time.

    python bench/mutants.py                  90 mutants, of all rooms; 90 minutes
    python bench/mutants.py --room executors/pool --count 30
    python bench/mutants.py --list           say which, and run nothing
    python bench/mutants.py --only Scheduler.drop --tests "scheduler pool"

A mutant is the source with one change: a comparison turned, a condition negated, a
number one larger, a statement left out. It is killed if a test fails twice, or takes
far longer than without it; it survives if all files of tests of its room pass. What
survives is a hole in the tests, or means nothing: that is in EQUIVALENT below.

Which mutants are tried is decided by a seed and by the names of functions alone, so
moving a function to another file, or changing another one, leaves its mutants as they
were. The tests run in a copy of the tree, at low priority, one file after the other.

It needs a system with /proc, and the interpreter with what the tests need.
"""

from __future__ import annotations

import argparse
import ast
import ctypes
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "pixie_web"

# One line for each room:
#   its file below pixie_web/, without .py, or its folder: the longest that fits counts;
#   the definitions at which it begins where all of the source is one file, core.py;
#   the tests that know it, those that find most first: test_<name>.py, in any folder.
POOL = "scheduler pool pool_life pool_start pool_data pool_attacks"
ROOMS: Dict[str, Tuple[str, str]] = {
    "about": ("LazyExpression", "text wire run"),
    "errors": ("REASONS", "text application status parsers debug_page"),
    "forks": ("", "forks pool_start pool_life"),
    "text": ("TOKEN_BYTES", "text json properties wire access_log"),
    "cookies": ("parse_cookies", "cookies message properties"),
    "datastructures": ("Headers", "multidict message files cors"),
    "protocol/http11": ("Head", "wire properties conformance parsers"),
    "protocol/canonical": ("", "gateways"),
    "protocol/multipart": ("FormLimits", "bodies properties"),
    "http2": ("", "rules attacks hpack endings"),
    "http3": ("", "http3 http3_attacks"),
    "forms": ("safe_filename", "bodies form_limits acceptance"),
    "requests": ("Disconnect", "message json_requests flow acceptance"),
    "sessions": ("", "sessions"),
    "responses": ("quote_etag _content_type_line", "message files triggers wire cors"),
    "conditional": ("parse_etags deciding_headers", "files triggers"),
    "staticfiles": ("is_safe_name _send_parts resolve_file", "files server"),
    "templating": ("Renderable", "templates"),
    "routing": ("Filter", "routes application"),
    "executors/base": ("RouteType", "placement status scheduler"),
    "executors/streams": ("HandlerLeft", "broken_streams placement pool coroutines"),
    "executors/local": ("LoopStream", "placement coroutines flow"),
    "executors/pool": ("Frame", POOL),
    "executors/pool/worker": ("MainGone", f"{POOL} broken_streams placement"),
    "executors/pool/zygote": ("Launch", f"pool_start {POOL} listening"),
    "executors/pool/links": ("Job", f"{POOL} broken_streams"),
    "executors/pool/supervisor": ("", f"{POOL} status"),
    "executors/pool/pool": ("resident_bytes", f"{POOL} status"),
    "executors/dispatch": ("Placements", "placement status scheduler"),
    "handling": ("join_triggers", "application triggers placement flow cors"),
    "middleware": ("same_origin", "triggers cors"),
    "declaring": ("Declare _placement Triggers", "application placement status"),
    "application": (
        "_call_all trace",
        "application status placement flow json_libraries",
    ),
    "server": (
        "reader_class",
        "patience server flow heartbeats broken_streams conformance files listening "
        "overload",
    ),
    "server/proxies": ("_forwarded_hops", "proxies hosts properties"),
    "server/access": ("log_text", "access_log"),
    "server/transport": ("", "patience crowds server flow listening"),
    "server/exchange": (
        "_open_file",
        "server heartbeats broken_streams access_log files placement patience",
    ),
    "server/heads": ("", "heads"),
    "server/http1": ("", "server flow crowds conformance patience"),
    "server/listeners": ("Listener _bind_one", "listening patience server"),
    "server/server": (
        "connections_allowed",
        "patience server listening deployment crowds",
    ),
    "settings": ("DEFAULT_SETTINGS", "run form_limits"),
    "launch": ("configure_logging", "run pool_start deployment"),
    "runner": ("_Runner", "run listening server deployment pool_start reload"),
    "loops": ("", "run lifespan gateways"),
    "gateways": ("", "gateways servers"),
    "pixie": ("Pixie", "run application gateways"),
    "loading": ("load_application", "run pool_start"),
    "watching": ("MAX_WATCHED_FILES", "reload"),
    "reloading": ("ProgramCall", "reload"),
    "refreshing": ("News", "reload"),
    "restarted": ("ProgramEnded", "reload"),
    "flags": ("UsageError", "command_line"),
    "cli": ("print_routes", "run command_line"),
    "devtools": ("Shower", "debug_page"),
    "guard": ("LoopHeld", "loop_guard"),
    "starter": ("", "command_line"),
    "status": ("", "status"),
    "hosting": ("", "hosting"),
    "jobs": ("", "jobs"),
    "servers": ("", "servers"),
    "testing": ("", "testing"),
    "httptools": ("", "parsers wire"),
    "state": ("", "state store messages"),
    # Files that are to come.
    "lifespan": ("", "run listening server deployment pool_start loop_guard"),
    "single": ("", "packaging run"),
}

# Changes that change nothing that a test could see: "function: before -> after", as
# the survivors are printed, and why.
ONE_LOOK = "or left <= 0: -> if first < found == size or left < 0:"
EQUIVALENT: Dict[str, str] = {
    "Supervisor.__init__: self._all_gone: Optional[asyncio.Future[None]] = None "
    "-> pass": ("`stop` sets it before anybody looks"),
    "Supervisor.__init__: self._sweeper: Optional[asyncio.TimerHandle] = None "
    "-> pass": ("`start` sets it before anybody looks"),
    "Supervisor.stop: self._loop.remove_reader(zygote.fileno()) -> pass": (
        "its socket is closed in the same turn of the loop"
    ),
    "Supervisor._stop_waiting: "
    "if self._all_gone is not None and not self._all_gone.done(): "
    "-> if self._all_gone is not None or not self._all_gone.done():": (
        "whatever ends the waiting comes once"
    ),
    "Scheduler._set_deadline: if moment < self._alarm_at: "
    "-> if moment <= self._alarm_at:": ("the same alarm once more"),
    f"Trace._await: if first < found == size {ONE_LOOK}": "20 ms more",
    "WorkerStream.__init__: self.inside_chunk = False -> pass": (
        "who asks takes a stream without it for one that is not"
    ),
    'WorkerLink._take_file: body = FileSlice("", 0, 0) -> body = FileSlice("", 0, 1)': (
        "nobody gets it"
    ),
    "Zygote._obey: descriptors.frombytes(ancillary[0][2][:12]) -> "
    "descriptors.frombytes(ancillary[0][2][:13])": "there are twelve bytes",
    'Watcher._wake_on_change: options = {"debounce": 50, "step": 10, '
    '"raise_interrupt": False} -> options = {"debounce": 50, "step": 11, '
    '"raise_interrupt": False}': "1 ms more",
    "HttptoolsReader._take_chunks: self._is_plain = self._chunk_line[1] >= 16 "
    "-> self._is_plain = self._chunk_line[1] > 16": (
        "with a limit of 16 llhttp is not asked: the same bytes"
    ),
}

SLOWER = 3  # times longer than without the change, and
TRIES = 2  # of tests that fail: some mind how busy the machine is
SLACK_SECONDS = 20.0  # so much, before a file of tests is ended
COPY_WITHOUT = shutil.ignore_patterns(
    ".*", "__pycache__", "build", "dist", "*.egg-info", "venv"
)
SAY = re.compile(r"log(?:\.\w+)?|log_\w+|\w+_log\.\w+|print")  # no behaviour but words

TURNED = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
SUMS = {ast.Add: ("+", "-"), ast.Sub: ("-", "+")}


class Change(NamedTuple):
    """One replacement in a source, in bytes."""

    start: int
    end: int
    text: bytes


class Mutant(NamedTuple):
    """A change, and how it is called."""

    path: Path
    room: str
    function: str  # with its class
    kind: str
    number: int  # among those of this kind in the function
    change: Change
    line: int
    words: str  # "before -> after"

    @property
    def name(self) -> str:
        return f"{self.function}: {self.words}"

    def rank(self, seed: int) -> bytes:
        """Return by what it is chosen: the same wherever the function stands."""
        key = f"{seed} {self.function} {self.kind} {self.number}"
        return hashlib.sha256(key.encode()).digest()


# Which changes there are --------------------------------------------------------------


class Source:
    """A source text, and where its nodes are in it, in bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.tree = ast.parse(data)
        self._starts = [0]
        for line in data.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def start(self, node: ast.AST) -> int:
        return self._starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]

    def end(self, node: ast.AST) -> int:
        line, column = node.end_lineno, node.end_col_offset  # type: ignore[attr-defined]
        return self._starts[line - 1] + column

    def text(self, node: ast.AST) -> bytes:
        return self.data[self.start(node) : self.end(node)]

    def between(self, left: ast.AST, right: ast.AST, old: str, new: str) -> Change:
        """Return the change of an operator between two nodes."""
        start, end = self.end(left), self.start(right)
        at = re.search(
            rb"\s+".join(map(re.escape, old.encode().split())), self.data[start:end]
        )
        assert at is not None, (old, self.data[start:end])
        return Change(start + at.start(), start + at.end(), new.encode())

    def instead(self, node: ast.AST, text: bytes) -> Change:
        """Return the change that puts a text in place of a node, as many lines long."""
        old = self.text(node)
        lost = old.count(b"\n") - text.count(b"\n")
        return Change(self.start(node), self.end(node), text + b"\n" * max(0, lost))


def is_number(node: ast.AST) -> bool:
    """Return whether an expression is seen to be a number: text is added up, too."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (int, float))
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in ("len", "int")
    return isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Sub, ast.Mult))


def changes_of_operators(source: Source, node: ast.AST) -> Iterator[Tuple[str, Change]]:
    """Yield comparisons turned, `and` for `or`, sums for differences, no `not`."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        old, new = TURNED[type(node.ops[0])]
        yield "compare", source.between(node.left, node.comparators[0], old, new)
    elif isinstance(node, ast.BoolOp):
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        first, second = node.values[:2]
        change = source.between(first, second, old, new)
        if len(node.values) == 2:
            yield "and-or", change
    elif isinstance(node, ast.BinOp) and type(node.op) in SUMS:
        old, new = SUMS[type(node.op)]
        if new == "+" or is_number(node.left) or is_number(node.right):
            yield "sum", source.between(node.left, node.right, old, new)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        start = source.start(node)
        word = re.compile(rb"not\s*").match(source.data, start)
        assert word is not None
        yield "not", Change(start, word.end(), b"")


def changes_of_constants(source: Source, node: ast.AST) -> Iterator[Tuple[str, Change]]:
    """Yield numbers one larger, and True for False."""
    if not isinstance(node, ast.Constant):
        return
    if isinstance(node.value, bool):
        yield "truth", source.instead(node, str(not node.value).encode())
    elif isinstance(node.value, int):
        yield "number", source.instead(node, str(node.value + 1).encode())


def changes_of_conditions(
    source: Source, node: ast.AST
) -> Iterator[Tuple[str, Change]]:
    """Yield conditions negated."""
    if isinstance(node, (ast.If, ast.While, ast.IfExp)):
        test = node.test
        if not isinstance(test, (ast.Constant, ast.Compare, ast.UnaryOp)):
            start, end = source.start(test), source.end(test)
            yield "negate", Change(start, end, b"not (%b)" % source.data[start:end])


def is_saying(source: Source, node: ast.AST) -> bool:
    """Return whether a statement does nothing but log or print."""
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
        return False
    return bool(SAY.fullmatch(source.text(node.value.func).decode()))


def changes_of_statements(
    source: Source, node: ast.AST
) -> Iterator[Tuple[str, Change]]:
    """Yield statements left out, and results."""
    if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
        if not is_saying(source, node) and not isinstance(node.value, ast.Yield):
            yield "statement", source.instead(node, b"pass")
    elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        held = isinstance(target, (ast.Attribute, ast.Subscript))
        if (held or isinstance(node, ast.AugAssign)) and node.value is not None:
            yield "statement", source.instead(node, b"pass")
    elif isinstance(node, (ast.Raise, ast.Delete, ast.Break, ast.Continue)):
        yield "statement", source.instead(node, b"pass")
    elif isinstance(node, ast.Return) and not isinstance(
        node.value, (type(None), ast.Constant, ast.Await)
    ):
        yield "result", source.instead(node, b"return None")


CHANGES = (
    changes_of_operators,
    changes_of_constants,
    changes_of_conditions,
    changes_of_statements,
)


def parts(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and what is below it, without annotations, assertions and words."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_comment"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, (ast.Assert, ast.JoinedStr)):
                continue
            if isinstance(child, ast.AST):
                yield from parts(child)


def functions(tree: ast.Module) -> Iterator[Tuple[str, ast.AST]]:
    """Yield the functions of a module, those of classes as "Class.function"."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for one in node.body:
                if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    yield f"{node.name}.{one.name}", one


def short(data: bytes) -> str:
    """Return a text on one line, cut."""
    text = " ".join(data.decode().split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def words_of(source: Source, change: Change) -> str:
    """Return what a change does, with the words around an operator."""
    data = source.data
    start = data.rfind(b"\n", 0, change.start) + 1
    end = data.find(b"\n", change.end)
    if b"\n" in data[change.start : change.end]:
        return f"{short(data[change.start : change.end])} -> {short(change.text)}"
    before = data[start:end].split(b"  #")[0].strip()
    after = data[start : change.start] + change.text + data[change.end : end]
    return f"{before.decode()} -> {after.split(b'  #')[0].strip().decode()}"


def mutants_of(path: Path, data: bytes, rooms: Dict[str, str]) -> Iterator[Mutant]:
    """Yield all mutants of a source.

    Args:
        rooms: the room of each function or class at the top, by name; of "" the file's.
    """
    source = Source(data)
    for function, node in functions(source.tree):
        counts: Counter[str] = Counter()
        room = rooms.get(function.partition(".")[0], rooms[""])
        for part in parts(node):
            for find in CHANGES:
                for kind, change in find(source, part):
                    line = data.count(b"\n", 0, change.start) + 1
                    words = words_of(source, change)
                    number = counts[kind]
                    counts[kind] += 1
                    yield Mutant(
                        path, room, function, kind, number, change, line, words
                    )


# Rooms --------------------------------------------------------------------------------


def room_of(name: str) -> str:
    """Return the room of a file below the package, named without .py.

    Raises:
        SystemExit: the table has no line for it.
    """
    room = name
    while room not in ROOMS:
        room, slash, _ = room.rpartition("/")
        if not slash:
            raise SystemExit(f"{name}: ROOMS has no line for it")
    return room


def rooms_of(name: str, tree: ast.Module) -> Dict[str, str]:
    """Return the rooms in a file: each definition's where it is the one file."""
    if name != "core":
        return {"": room_of(name)}
    begins = {first: room for room in ROOMS for first in ROOMS[room][0].split()}
    found = {"": "about"}
    room = "about"
    for node in tree.body:
        names = [getattr(node, "name", "")]
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [one.id for one in targets if isinstance(one, ast.Name)]
        for one in names:
            room = begins.pop(one, room)
            found[one] = room
    gone = [first for first in begins if first]
    if gone:
        raise SystemExit(f"ROOMS: core.py does not define {', '.join(gone)}")
    return {**found, "": "about"}


def all_mutants(root: Path) -> List[Mutant]:
    """Return the mutants of all sources that have functions."""
    found: List[Mutant] = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        data = path.read_bytes()
        tree = ast.parse(data)
        if path.name in ("__init__.py", "__main__.py") and not any(functions(tree)):
            continue
        name = path.relative_to(root / PACKAGE).with_suffix("").as_posix()
        relative = path.relative_to(root)
        found += mutants_of(relative, data, rooms_of(name, tree))
    return found


def chosen(mutants: Sequence[Mutant], count: int, seed: int) -> List[Mutant]:
    """Return `count` mutants: one of each room, the others by the rooms' sizes."""
    by_room: Dict[str, List[Mutant]] = {}
    for one in sorted(mutants, key=lambda one: one.rank(seed)):
        by_room.setdefault(one.room, []).append(one)
    shares = {room: len(ones) / len(mutants) for room, ones in by_room.items()}
    counts = dict.fromkeys(by_room, 1)
    while sum(counts.values()) < min(count, len(mutants)):
        able = [room for room in counts if counts[room] < len(by_room[room])]
        least = min(able, key=lambda room: counts[room] / shares[room])
        counts[least] += 1
    return [
        one for room in ROOMS for one in by_room.get(room, [])[: counts.get(room, 0)]
    ]


# Running ------------------------------------------------------------------------------


def adopt_orphans() -> None:
    """Have what a test leaves running come to this process, which ends it (Linux)."""
    try:
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    except (OSError, AttributeError):
        pass


def end_children() -> None:
    """Kill and reap what is below this process, until nothing is."""
    while True:
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                status = Path(f"/proc/{name}/stat").read_text()
            except OSError:
                continue
            if int(status.rpartition(")")[2].split()[1]) == os.getpid():
                os.kill(int(name), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


class Laboratory:
    """A copy of the tree, in which mutants are tried.

    Args:
        root: of the tree.
        copy: where the copy is made.
        python: the interpreter that runs the tests.
        tests: names of files in place of those of the rooms; "": of the rooms.
    """

    def __init__(self, root: Path, copy: Path, python: str, tests: str) -> None:
        self._copy = copy
        self._tests = tests
        self._python = python
        self._seconds: Dict[str, float] = {}
        shutil.copytree(root, copy, ignore=COPY_WITHOUT)

    def files_of(self, room: str) -> List[str]:
        """Return the files of tests of a room.

        Raises:
            SystemExit: there is no such file.
        """
        found = []
        for name in (self._tests or ROOMS[room][1]).split():
            paths = list((self._copy / "tests").rglob(f"test_{name}.py"))
            if not paths:
                raise SystemExit(f"ROOMS, {room}: there is no test_{name}.py")
            found.append(paths[0].relative_to(self._copy).as_posix())
        return found

    def _run(self, file: str, limit_seconds: float) -> bool:
        """Run a file of tests; return whether all pass within the limit."""
        command = [self._python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        began = subprocess.Popen(
            [*command, file],
            cwd=self._copy,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            return began.wait(limit_seconds) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            began.kill()
            began.wait()
            end_children()

    def _limit(self, file: str) -> float:
        """Return how long a file may take, as measured without a mutant.

        It is 0 where the tests fail without one: they can tell nothing.
        """
        for _ in range(TRIES):
            if file not in self._seconds:
                start = time.monotonic()
                if self._run(file, 1200):
                    self._seconds[file] = time.monotonic() - start
        if file not in self._seconds:
            print(f"    {file} fails as it is, and is left out", flush=True)
            self._seconds[file] = 0.0
        seconds = self._seconds[file]
        return SLACK_SECONDS + SLOWER * seconds if seconds else 0.0

    def _fails(self, file: str, limit_seconds: float) -> bool:
        """Return whether the tests fail each time: once may be the machine's fault."""
        return not any(self._run(file, limit_seconds) for _ in range(TRIES))

    def killer(self, mutant: Mutant) -> Optional[str]:
        """Return the file of tests that notices a mutant; None: it survives."""
        path = self._copy / mutant.path
        data = path.read_bytes()
        start, end, text = mutant.change
        for file in self.files_of(mutant.room):
            limit_seconds = self._limit(file)
            try:
                self._write(path, data[:start] + text + data[end:])
                if limit_seconds and self._fails(file, limit_seconds):
                    return file
            finally:
                self._write(path, data)
        return None

    def _write(self, path: Path, data: bytes) -> None:
        # What was compiled goes: of the same second and size, it would be taken.
        shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)
        path.write_bytes(data)


# Telling ------------------------------------------------------------------------------


def print_table(tried: Sequence[Tuple[Mutant, Optional[str]]]) -> None:
    """Print for each room how many were killed, survived, and mean nothing."""
    print(f"\n{'room':26}{'killed':>8}{'survived':>10}{'equivalent':>12}")
    columns = ("killed", "survived", "equivalent")
    total: Counter[str] = Counter()
    for room in ROOMS:
        counts: Counter[str] = Counter()
        for mutant, killer in tried:
            if mutant.room == room:
                known = "equivalent" if mutant.name in EQUIVALENT else "survived"
                counts["killed" if killer else known] += 1
        if counts:
            print(f"{room:26}{counts[columns[0]]:>8}", end="")
            print(f"{counts[columns[1]]:>10}{counts[columns[2]]:>12}")
        total += counts
    print(f"{'all':26}{total[columns[0]]:>8}", end="")
    print(f"{total[columns[1]]:>10}{total[columns[2]]:>12}")
    real = total["killed"] + total["survived"]
    if real:
        print(f"{100 * total['killed'] / real:.1f} % of those that mean something")


def try_all(mutants: Sequence[Mutant], python: str, tests: str) -> int:
    """Try mutants, and print what became of them; return how many survive."""
    adopt_orphans()
    os.nice(10)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and leave nothing behind
    tried: List[Tuple[Mutant, Optional[str]]] = []
    with tempfile.TemporaryDirectory(prefix="mutants") as directory:
        laboratory = Laboratory(ROOT, Path(directory, "tree"), python, tests)
        for number, mutant in enumerate(mutants, 1):
            killer = laboratory.killer(mutant)
            tried.append((mutant, killer))
            known = "equivalent" if mutant.name in EQUIVALENT else "SURVIVED"
            print(
                f"{number:3} {'killed' if killer else known:10} "
                f"{mutant.path}:{mutant.line} {mutant.name}"
                + (f" by {Path(killer).stem}" if killer else ""),
                flush=True,
            )
    print_table(tried)
    return sum(not killer and one.name not in EQUIVALENT for one, killer in tried)


def main() -> int:
    parser = argparse.ArgumentParser(description="Put faults into the source.")
    parser.add_argument("--count", type=int, default=90)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--room", default="", help="with all below it")
    parser.add_argument("--only", default="", help="text in the function or change")
    parser.add_argument("--list", action="store_true", help="run nothing")
    parser.add_argument("--tests", default="", help="in place of those of the rooms")
    parser.add_argument("--python", default=sys.executable)
    given = parser.parse_args()
    mutants = [
        one
        for one in all_mutants(ROOT)
        if f"{one.room}/".startswith(f"{given.room}/" if given.room else "")
        and given.only in one.name
    ]
    if not mutants:
        parser.error("there is no such mutant")
    sample = chosen(mutants, given.count, given.seed)
    if given.list:
        for one in sample:
            print(f"{one.room:24} {one.path}:{one.line} {one.name}")
        print(f"{len(sample)} of {len(mutants)}")
        return 0
    return 1 if try_all(sample, given.python, given.tests) else 0


if __name__ == "__main__":
    sys.exit(main())
