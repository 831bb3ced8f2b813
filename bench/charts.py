"""Tables and charts of what `bench/run.py` has measured.

    python bench/charts.py

Reads results/results.json, and results/again.json if it is there: a second run, which
shows how far the figures repeat. Writes results/README.md, the charts beside it, for a
light page and for a dark one, and the tables between the marks in docs/benchmarks.md.
"""

from __future__ import annotations

import json
import math
import re
from html import escape
from pathlib import Path
from statistics import median
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

RESULTS = Path(__file__).resolve().parent / "results"
DOCS = RESULTS.parent.parent / "docs" / "benchmarks.md"
MARKS = ("<!-- measured -->\n", "<!-- end of what was measured -->\n")
OURS = "pixie_web"
RIVAL = "Starlette, uvicorn"
IN_SUMMARY = [
    "plain",
    "plain fresh",
    "json",
    "wildcard fresh",
    "browser fresh",
    "form fresh",
    "10 KB JSON",
    "page",
]
IN_CHART = ["plain", "plain fresh", "json", "wildcard fresh", "browser fresh", "page"]

NUMBER = re.compile(r"[\d.,]+")

Row = Dict[str, Any]


def middle(row: Row, key: str) -> float:
    """Return the median of a figure's rounds."""
    return median(one[key] for one in row["rounds"])


def total_us(row: Row) -> float:
    """Return the median of user and system time together."""
    return median(one["user_us"] + one["system_us"] for one in row["rounds"])


def number(value: float) -> str:
    """Return a figure with three digits that mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spread(row: Row, key: str) -> str:
    values = [one[key] for one in row["rounds"]]
    return f"{number(min(values))} to {number(max(values))}"


class Figures:
    """All rows of a run."""

    def __init__(self, path: Path) -> None:
        found = json.loads(path.read_text())
        self.about: Row = found["about"]
        self.rows: List[Row] = found["rows"]

    def of(self, group: str) -> List[Row]:
        """Return the rows of a group that have a figure."""
        return [row for row in self.rows if row["group"] == group and row["rounds"]]

    def by_case(self, group: str) -> Dict[str, Dict[str, Row]]:
        """Return the rows of a group by case and peer."""
        found: Dict[str, Dict[str, Row]] = {}
        for row in self.of(group):
            found.setdefault(row["case"], {})[row["peer"]] = row
        return found

    @property
    def groups(self) -> List[str]:
        """The titles of the groups that wrk has asked."""
        return list(dict.fromkeys(r["group"] for r in self.rows if "case" in r))


# Tables -------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of Markdown, or nothing where there is nothing to tell."""
    if not rows or len(head) == 1:
        return ""
    columns = zip(*rows)
    rule = [
        "---:" if any(map(NUMBER.fullmatch, column)) else "---" for column in columns
    ]
    lines = [head, rule, *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def summary(figures: Figures, group: str, cases: Sequence[str]) -> str:
    """Return user time, a line for each peer, a column for each case; and our part."""
    by_case = figures.by_case(group)
    cases = [case for case in cases if case in by_case]
    peers = list(dict.fromkeys(peer for case in cases for peer in by_case[case]))

    def line(name: str, cell: Callable[[Dict[str, Row]], str]) -> List[str]:
        return [name, *(cell(by_case[case]) for case in cases)]

    def of_peer(peer: str) -> Callable[[Dict[str, Row]], str]:
        return lambda rows: (
            number(middle(rows[peer], "user_us")) if peer in rows else "-"
        )

    def part(rows: Dict[str, Row]) -> str:
        if OURS not in rows or RIVAL not in rows:
            return "-"
        us, them = (middle(rows[name], "user_us") for name in (OURS, RIVAL))
        return f"{us / them:.2f}"

    lines = [line(peer, of_peer(peer)) for peer in peers]
    return table(["us", *cases], [*lines, line(f"{OURS} / {RIVAL}", part)])


def pool_summary(figures: Figures) -> str:
    """Return rates and times of the pool."""
    lines = [
        [
            group,
            row["case"],
            row["peer"],
            number(middle(row, "per_second")),
            number(total_us(row)),
            "-" if "gunicorn" in row["peer"] else number(middle(row, "main_user_us")),
            number(middle(row, "median_ms")),
        ]
        for group in figures.groups
        if group.startswith("pool")
        for rows in figures.by_case(group).values()
        for row in rows.values()
    ]
    head = "servers, case, peer, a second, us in all, us of user in main, median ms"
    return table(head.split(", "), lines)


def size_summary(figures: Figures) -> str:
    """Return memory and what an import costs."""
    imports = {r["peer"]: r for r in figures.rows if r["group"] == "import"}
    memory = {r["peer"]: r["processes"] for r in figures.rows if r["group"] == "memory"}
    lines = []
    for name in dict.fromkeys([*imports, *memory]):
        cells = ["-", "-", "-"]
        if name in imports:
            cells[0] = f"{middle(imports[name], 'cpu_ms'):.0f}"
        if name in memory:
            main, *others = memory[name]
            cells[1] = f"{main['resident_bytes'] / 1e6:.1f}"
            sizes = (f"{one['private_bytes'] / 1e6:.1f}" for one in others)
            cells[2] = ", ".join(sizes) or "-"
        lines.append([name, *cells])
    head = ["", "import: ms of CPU", "first process: MB", "others: MB of their own"]
    return table(head, lines)


def repeats(figures: Figures, again: Figures) -> str:
    """Return how far a second run came to the same."""

    def key(row: Row) -> Tuple[str, ...]:
        return row["group"], row["case"], row["peer"], str(row.get("x"))

    second = {key(r): r for r in again.rows if "case" in r and r["rounds"]}
    apart = sorted(
        abs(middle(second[key(row)], "user_us") / middle(row, "user_us") - 1)
        for group in figures.groups
        for row in figures.of(group)
        if key(row) in second and middle(row, "user_us")
    )
    if not apart:
        return ""
    half, most = (apart[int(len(apart) * part)] for part in (0.5, 0.9))
    return (
        f"A second run ({again.about['began']}): of {len(apart)} medians of user time "
        f"half are within {half:.0%} of the first run's, and nine of ten within "
        f"{most:.0%}.\n\n"
    )


def circumstances(about: Row) -> str:
    """Return what the figures were measured with."""
    versions = ", ".join(f"{name} {v}" for name, v in about["versions"].items())
    changed = " and changes on top" if about["is_changed_since"] else ""
    left_out = ", ".join(about["left_out"])
    return (
        f"{about['began']}, commit {about['commit']}{changed}; {about['machine']}, "
        f"{about['system']}, load {about['load_before']:.1f} before and "
        f"{about['load_after']:.1f} after; Python {about['python']}, {versions}; "
        + (f"not installed: {left_out}; " if left_out else "")
        + f"{about['rounds']} rounds of {about['seconds']} s.\n\n"
    )


def full_tables(figures: Figures) -> Iterator[str]:
    """Yield all that wrk has measured."""
    for group in figures.groups:
        axis = [row["axis"] for row in figures.of(group) if "axis" in row][:1]
        yield f"## {group}\n\n" + "".join(f"By {words}.\n\n" for words in axis)
        lines = [
            [
                str(row.get("x", row["case"])),
                row["peer"],
                number(middle(row, "user_us")),
                spread(row, "user_us"),
                number(middle(row, "system_us")),
                number(middle(row, "per_second")),
                spread(row, "per_second"),
                number(middle(row, "median_ms")),
            ]
            for row in figures.of(group)
        ]
        head = "case, peer, user us, from to, system us, a second, from to, median ms"
        yield table(head.split(", "), lines)
        for row in figures.rows:
            if row["group"] == group and "failed" in row:
                case = row.get("x", row["case"])
                yield f"{row['peer']} fails at {case}: {row['failed']}\n\n"


# Charts -------------------------------------------------------------------------------

PALETTES = {
    "light": {"paper": "#ffffff", "ink": "#1f2328", "line": "#d1d9e0"},
    "dark": {"paper": "#0d1117", "ink": "#e6edf3", "line": "#3d444d"},
}
COLOURS = {
    "pixie_web": "#d9480f",
    "pixie_web, asyncio": "#f08c00",
    "Starlette, uvicorn": "#1c7ed6",
    "aiohttp": "#0ca678",
    "bottle, granian": "#9c36b5",
    "socketify": "#868e96",
}
OTHER = "#868e96"
WIDTH = 860
BAR, PANEL = 17, 410


class Drawing:
    """The parts of an SVG."""

    def __init__(self, palette: Dict[str, str]) -> None:
        self._palette = palette
        self._parts: List[str] = []

    def text(
        self, x: float, y: float, words: str, anchor: str = "start", weight: int = 400
    ) -> None:
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" '
            f'font-weight="{weight}" fill="{self._palette["ink"]}">{escape(words)}'
            "</text>"
        )

    def bar(
        self, x: float, y: float, width: float, colour: str, opacity: float = 1
    ) -> None:
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" '
            f'height="{BAR - 5}" fill="{colour}" opacity="{opacity}"/>'
        )

    def line(self, points: Sequence[Tuple[float, float]], colour: str = "") -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        stroke = f'stroke="{colour or self._palette["line"]}" stroke-width="1.5"'
        self._parts.append(f'<polyline points="{path}" fill="none" {stroke}/>')

    def dots(self, points: Sequence[Tuple[float, float]], colour: str) -> None:
        self._parts += (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
            for x, y in points
        )

    def save(self, path: Path, height: float) -> None:
        path.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} '
            f'{height:.0f}" font-family="sans-serif" font-size="11">\n'
            f'<rect width="100%" height="100%" fill="{self._palette["paper"]}"/>\n'
            + "\n".join(self._parts)
            + "\n</svg>\n"
        )


def draw_bars(figures: Figures, name: str) -> None:
    """Draw CPU time by case: user time, and the system's after it, fainter."""
    by_case = figures.by_case("requests")
    cases = [case for case in IN_CHART if case in by_case]
    if not cases:
        return
    rows_of_panel = max(len(by_case[case]) for case in cases)
    height = rows_of_panel * BAR + 40
    drawing = Drawing(PALETTES[name])
    drawing.text(
        10, 20, "CPU of the server per request, us: user, and fainter the system's"
    )
    for index, case in enumerate(cases):
        left, top = index % 2 * (WIDTH / 2), 30 + index // 2 * height
        drawing.text(left + 10, top + 14, case, weight=700)
        most = max(map(total_us, by_case[case].values()))
        scale = (PANEL - 190) / most
        for place, (peer, row) in enumerate(by_case[case].items()):
            y = top + 24 + place * BAR
            user, system = (middle(row, key) for key in ("user_us", "system_us"))
            colour = COLOURS[OURS] if peer.startswith(OURS) else OTHER
            drawing.text(left + 128, y + 10, peer, "end")
            drawing.bar(left + 134, y, user * scale, colour)
            drawing.bar(left + 134 + user * scale, y, system * scale, colour, 0.4)
            end = left + 138 + (user + system) * scale
            drawing.text(end, y + 10, number(user))
    drawing.save(RESULTS / f"requests-{name}.svg", 30 + (len(cases) + 1) // 2 * height)


def draw_curve(
    drawing: Drawing, left: float, top: float, title: str, rows: List[Row]
) -> None:
    """Draw CPU time against a number, both by their logarithms."""
    width, height = PANEL - 60, 190
    xs = [row["x"] for row in rows]
    ys = list(map(total_us, rows))
    low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
    first, last = math.log10(min(xs)), math.log10(max(xs))

    def place(x: float, y: float) -> Tuple[float, float]:
        right = (math.log10(x) - first) / (last - first) * width
        up = (math.log10(y) - low) / (high - low) * height
        return left + 45 + right, top + 25 + height - up

    drawing.text(left + 10, top + 12, title, weight=700)
    for power in range(low, high + 1):
        start, end = place(min(xs), 10**power), place(max(xs), 10**power)
        drawing.line([start, end])
        drawing.text(start[0] - 5, start[1] + 4, f"{10**power:,}", "end")
    for x in sorted(set(xs)):
        drawing.text(place(x, 1)[0], top + height + 40, f"{x:,}", "middle")
    for peer in dict.fromkeys(row["peer"] for row in rows):
        own = [place(r["x"], total_us(r)) for r in rows if r["peer"] == peer]
        drawing.line(own, COLOURS[peer])
        drawing.dots(own, COLOURS[peer])


def draw_curves(figures: Figures, name: str) -> None:
    """Draw what becomes of more connections, header lines, bytes and routes."""
    drawing = Drawing(PALETTES[name])
    drawing.text(10, 20, "CPU of the server per request, us, user and system together")
    for index, (peer, colour) in enumerate(COLOURS.items()):
        drawing.bar(10 + index * 140, 30, 12, colour)
        drawing.text(26 + index * 140, 40, peer)
    curves = [g for g in figures.groups if any("axis" in r for r in figures.of(g))]
    for index, group in enumerate(curves):
        rows = figures.of(group)
        left, top = index % 2 * (WIDTH / 2), 60 + index // 2 * 260
        draw_curve(drawing, left, top, rows[0]["axis"], rows)
    drawing.save(RESULTS / f"curves-{name}.svg", 60 + (len(curves) + 1) // 2 * 260)


# Files --------------------------------------------------------------------------------


def picture(name: str, words: str) -> str:
    """Return what shows a chart, the one for a dark page where the reader has that."""
    folder = "../bench/results"
    return (
        "<picture>\n"
        f'  <source media="(prefers-color-scheme: dark)" '
        f'srcset="{folder}/{name}-dark.svg">\n'
        f'  <img alt="{words}" src="{folder}/{name}-light.svg">\n'
        "</picture>\n\n"
    )


def page(figures: Figures, again: str) -> str:
    """Return what stands between the marks in docs/benchmarks.md."""
    logged = list(figures.by_case("requests, access log"))
    others = ["waiting", "sync", "thread", "1000 rows"]
    return (
        f"Measured {circumstances(figures.about)}{again}"
        "### Requests\n\n"
        + picture("requests", "CPU per request of each server")
        + summary(figures, "requests", IN_SUMMARY)
        + f"Of the 10 KB JSON, {figures.about['json_us']:.0f} us are the library's "
        "own.\n\n"
        + summary(figures, "requests", others)
        + "### With an access log\n\n"
        + summary(figures, "requests, access log", logged)
        + "### The pool\n\n"
        + pool_summary(figures)
        + "### More of everything\n\n"
        + picture("curves", "CPU per request by connections, header lines and so on")
        + "### Import and memory\n\n"
        + size_summary(figures)
    )


def main() -> None:
    figures = Figures(RESULTS / "results.json")
    second = RESULTS / "again.json"
    again = repeats(figures, Figures(second)) if second.exists() else ""
    for name in PALETTES:
        draw_bars(figures, name)
        draw_curves(figures, name)
    text = "# All figures\n\nHow to read them: docs/benchmarks.md.\n\n"
    text += circumstances(figures.about) + again + "".join(full_tables(figures))
    (RESULTS / "README.md").write_text(text.rstrip("\n") + "\n")
    before, _, rest = DOCS.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    DOCS.write_text(before + MARKS[0] + page(figures, again) + MARKS[1] + after)


if __name__ == "__main__":
    main()
