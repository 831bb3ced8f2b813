"""The demo and the message board, used in a real browser.

Nothing here judges speed: a test waits for what must come, however slow the machine.
`PIXIE_SCREENSHOTS=directory` keeps the screenshots.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Iterator

import pytest
from browser import Browser, served
from shapes import home
from support import Server, server_fixture

pytestmark = pytest.mark.browser

TILES = 40

# Records how many pixels are painted, each time the page says that it got further.
RECORD_GROWTH = """
const canvas = document.getElementById("tiles-canvas");
window.growth = [];
new MutationObserver(() => {
  const pen = canvas.getContext("2d");
  const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
  let painted = 0;
  for (let at = 3; at < data.length; at += 4) painted += data[at] > 0;
  window.growth.push(painted);
}).observe(document.getElementById("tiles-status"), { childList: true, subtree: true });
"""

# Adds up how far things have moved under the reader's eyes, clicks or not.
LAYOUT_SHIFT = """
return new Promise((resolve) => {
  const observer = new PerformanceObserver((list) => {
    resolve(list.getEntries().reduce((sum, entry) => sum + entry.value, 0));
  });
  observer.observe({ type: "layout-shift", buffered: true });
  setTimeout(resolve, 500, 0);  // None at all is not reported.
});
"""


# Finds texts that come nearer than 6 pixels to the line above or below their row.
TOO_NEAR = """
const near = [], range = document.createRange();
for (const row of document.querySelectorAll(".actions li, tbody tr, .specimen li")) {
  const { top, bottom } = row.getBoundingClientRect();
  for (const part of row.children) {
    range.selectNodeContents(part);
    const text = range.getBoundingClientRect();
    if (text.height && Math.min(text.top - top, bottom - text.bottom) < 6) {
      near.push(part.outerHTML);
    }
  }
}
return near;
"""


server = server_fixture(home() / "demo.py", drain_seconds=3)


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    wanted = os.environ.get("PIXIE_SCREENSHOTS")
    directory = Path(wanted) if wanted else tmp_path_factory.mktemp("screenshots")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@pytest.fixture
def demo(browser: Browser, server: Server) -> Iterator[Browser]:
    """Open the demo, and wait until its clock ticks."""
    browser.look(1280, 900)
    browser.open(server.url)
    browser.until(lambda: number(browser, "#clock-ticks") >= 3, "the first ticks")
    for name in ("tiles", "strips"):  # what the page draws by itself, when it is loaded
        browser.run(f"document.getElementById('{name}-stop').click()")
    browser.until(lambda: picture_is_complete(browser), "nothing is drawn")
    yield browser
    browser.open("about:blank")  # Leaves the clock: nothing holds the server up.
    browser.complaints()


def number(browser: Browser, selector: str) -> int:
    return int(browser.text(selector).replace(",", ""))


def progress(browser: Browser) -> int:
    return int(browser.run("return document.getElementById('tiles-progress').value"))


def picture_is_complete(browser: Browser) -> bool:
    """Return whether neither of the two drawings can be stopped any more."""
    stops = browser.all("#tiles-stop, #strips-stop")
    return not any(stop.is_enabled() for stop in stops)


# The picture and the clock ------------------------------------------------------------


def test_the_picture_grows_while_the_clock_ticks(
    demo: Browser, screenshots: Path
) -> None:
    demo.screenshot(screenshots / "demo-idle.png")
    demo.run(RECORD_GROWTH)
    demo.run("window.began = performance.now()")
    ticks = number(demo, "#clock-ticks")

    demo.click("#draw-both")
    demo.until(lambda: progress(demo) >= TILES // 4, "the first tiles")
    demo.screenshot(screenshots / "demo-computing.png")
    demo.until(lambda: picture_is_complete(demo), "the whole picture")

    ticks = number(demo, "#clock-ticks") - ticks
    elapsed = demo.run("return performance.now() - window.began")
    growth = demo.run("return window.growth")
    demo.screenshot(screenshots / "demo-drawn.png")
    assert growth == sorted(growth)
    assert len(set(growth)) > TILES // 2
    assert growth[-1] == 800 * 500
    interval = int(demo.one(".pulse").get_attribute("data-tick-ms"))
    assert ticks > elapsed / interval / 2
    assert number(demo, "#clock-drawing") > 0
    assert demo.complaints() == []


def test_the_page_draws_once_when_it_is_loaded(
    browser: Browser, server: Server
) -> None:
    browser.look(1280, 900)
    browser.open(server.url)
    browser.until(lambda: progress(browser) == TILES, "all tiles")
    browser.until(lambda: picture_is_complete(browser), "the image")
    for name in ("tiles", "strips"):
        assert browser.text(f"#{name}-status").endswith(" s")
    asked = browser.run(
        "return performance.getEntriesByType('resource').map((e) => e.name)"
    )
    assert sum("/tile/" in name for name in asked) <= TILES
    browser.open("about:blank")


def test_what_holds_the_loop_up_on_purpose_is_no_gap_of_drawing(demo: Browser) -> None:
    demo.click("#draw-both")
    demo.until(lambda: progress(demo) > 0, "the first tile")
    demo.click("[data-placement=sync] button")
    row = demo.one("[data-placement=sync]")
    demo.until(lambda: "ms" in cell(row, ".gap"), "the answer")
    demo.until(lambda: picture_is_complete(demo), "the whole picture")
    assert number(demo, "#clock-longest") > 300
    assert number(demo, "#clock-drawing") < number(demo, "#clock-longest")


def test_each_tile_is_drawn_by_a_worker_of_the_legend(
    demo: Browser, server: Server
) -> None:
    demo.click("#tiles-draw")
    demo.until(lambda: progress(demo) == TILES, "all tiles")
    workers = [entry.text.split() for entry in demo.all("#tiles-legend li")]
    assert sum(int(words[-2]) for words in workers) == TILES
    assert str(server.process.pid) not in [words[3].rstrip(",") for words in workers]


def test_the_streamed_image_is_complete_and_names_its_worker(demo: Browser) -> None:
    demo.click("#strips-draw")
    demo.until(lambda: demo.all("#strips-legend li"), "the worker's name")
    image = demo.one("#strips-image")
    assert image.get_property("complete")
    assert (
        image.get_property("naturalWidth"),
        image.get_property("naturalHeight"),
    ) == (
        800,
        500,
    )


def test_the_stream_comes_in_many_pieces(demo: Browser) -> None:
    script = """
    return fetch("/picture.png").then(async (response) => {
      const reader = response.body.getReader(), sizes = [];
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return sizes;
        sizes.push(value.length);
      }
    });
    """
    assert len(demo.run(script)) > 10


def test_a_drawing_can_be_stopped_and_begun_again(demo: Browser) -> None:
    demo.click("#draw-both")
    demo.until(lambda: progress(demo) > 0, "the first tile")
    demo.click("#tiles-stop")
    demo.click("#strips-stop")
    demo.until(lambda: "Stopped" in demo.text("#tiles-status"), "the stop")
    assert demo.text("#strips-status") == "Stopped"
    demo.click("#tiles-draw")
    demo.until(lambda: progress(demo) == TILES, "all tiles")
    demo.until(lambda: demo.text("#tiles-status").endswith(" s"), "the time it took")


def test_a_click_into_the_picture_zooms_in(demo: Browser) -> None:
    demo.click("#tiles-canvas")
    demo.until(lambda: demo.text("#tiles-status").endswith(" s"), "the picture")
    selected = demo.one("#place").get_property("selectedOptions")[0]
    assert selected.text == "Where you clicked"


# Placements, failures -----------------------------------------------------------------


def test_all_five_placements_answer(demo: Browser, server: Server) -> None:
    demo.click("#who-all")
    demo.until(lambda: demo.one("#who-all").is_enabled(), "five answers")
    rows = {
        row.get_attribute("data-placement"): row for row in demo.all("#who tbody tr")
    }
    who = {name: cell(row, ".by") for name, row in rows.items()}
    main = f"pid {server.process.pid}"
    assert [name for name in who if main in who[name]] == ["sync", "thread", "asnc"]
    assert [name for name in who if "Worker" in who[name]] == ["pool", "stream"]
    # The loop computes for 400 ms: no tick can come meanwhile, on any machine.
    assert int(cell(rows["sync"], ".gap").split()[0]) > 300


def cell(row: Any, selector: str) -> str:
    return str(row.find_element("css selector", selector).text)


@pytest.mark.parametrize("name, status", [("slow", 504), ("raise", 500), ("die", 502)])
def test_after_a_failure_the_pool_serves_on(
    demo: Browser, screenshots: Path, name: str, status: int
) -> None:
    demo.click(f"[data-fail={name}]")
    demo.until(lambda: len(demo.all("#fail-log li")) == 2, "two answers")
    answers = [int(entry.text) for entry in demo.all("#fail-log b")]
    assert answers == [status, 200]
    assert "pid" in demo.text("#fail-log li:last-child")
    demo.screenshot(screenshots / f"demo-{name}.png")
    complaints = demo.complaints()
    assert len(complaints) == 1
    assert f"status of {status}" in complaints[0]


def test_a_worker_dies_in_the_middle_of_a_picture_and_no_tile_is_missing(
    demo: Browser,
) -> None:
    demo.click("#tiles-draw")
    demo.until(lambda: progress(demo) > 2, "the first tiles")
    demo.click("[data-fail=die]")
    demo.until(lambda: demo.text("#tiles-status").endswith(" s"), "the whole picture")
    demo.until(lambda: len(demo.all("#fail-log li")) == 2, "two answers")
    assert [int(entry.text) for entry in demo.all("#fail-log b")] == [502, 200]


# Form, file, look ---------------------------------------------------------------------


def test_what_the_form_sends_is_shown_as_text(demo: Browser) -> None:
    name = '<script>alert("no")</script> & Zoë'
    demo.type("#form input", name)
    demo.click("#form button")
    demo.until(lambda: demo.all("#name"), "the greeting")
    assert demo.text("#name") == name
    demo.click("main .button")
    demo.until(lambda: demo.all("#form"), "the demo again")
    assert demo.complaints() == []


def test_the_file_is_fetched_whole_unchanged_and_in_part(demo: Browser) -> None:
    demo.click("#file-ask")
    demo.until(lambda: demo.text("#file-status"), "three answers")
    rows = demo.all("#file [data-kind] td:nth-child(2)")
    assert [row.text.split()[0] for row in rows] == ["200", "304", "206"]


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_window(
    demo: Browser, screenshots: Path, scheme: str, width: int
) -> None:
    demo.look(width, 900, scheme)
    demo.click("#file-ask")
    demo.until(lambda: demo.text("#file-status"), "three answers")
    assert demo.run("return document.documentElement.scrollWidth") <= width
    assert demo.run(TOO_NEAR) == []
    demo.screenshot(screenshots / f"demo-{scheme}-{width}.png", whole_page=True)


def test_nothing_on_the_page_jumps(demo: Browser) -> None:
    demo.click("#draw-both")
    demo.until(lambda: picture_is_complete(demo), "the whole picture")
    demo.click("#who-all")
    demo.until(lambda: demo.one("#who-all").is_enabled(), "five answers")
    assert demo.run(LAYOUT_SHIFT) < 0.02


def test_every_control_has_a_name(demo: Browser) -> None:
    nameless = """
    const controls = "button, input, select, canvas, progress, img";
    return [...document.querySelectorAll(controls)]
      .filter((e) => !e.hasAttribute("aria-hidden"))
      .filter((e) => !(e.textContent.trim() || e.labels?.length
        || e.getAttribute("aria-label") || e.hasAttribute("alt")))
      .map((e) => e.outerHTML);
    """
    assert demo.run(nameless) == []


# The message board --------------------------------------------------------------------


def test_a_message_appears_on_the_board_as_text(
    browser: Browser, tmp_path: Path, screenshots: Path
) -> None:
    message = '<b>Hello</b> & "welcome"'
    browser.look(1280, 900)
    with served("msgboard.py", tmp_path) as board:
        browser.open(board.url)
        browser.type("[name=name]", "Zoë <i>")
        browser.type("[name=message]", message)
        browser.click("form [type=submit], form button:not([type=button])")
        browser.until(lambda: browser.all(".message"), "the message")
        shown = browser.text(".message")
        browser.screenshot(screenshots / "msgboard.png")
        browser.open("about:blank")
    assert message in shown
    assert "Zoë <i>" in shown
