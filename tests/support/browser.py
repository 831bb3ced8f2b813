"""Support for tests that start a program, and drive it in a real browser."""

from __future__ import annotations

import base64
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional

import pytest
import shapes

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

START_SECONDS = STOP_SECONDS = 30
PATIENCE_SECONDS = 60  # for a busy machine; nothing waits that long on a free one
BANNER = re.compile(r"http://[\w.\[\]:-]+:(\d+)")
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--hide-scrollbars --disable-dev-shm-usage"
).split()


class Server:
    """A program of the repository, running on a free port of 127.0.0.1.

    The port is read from the banner that the program prints when it listens.
    """

    def __init__(self, program: str, directory: Path) -> None:
        environment = {
            **os.environ,
            "PIXIE_HOST": "127.0.0.1",
            "PIXIE_PORT": "0",
            "PIXIE_DRAIN_SECONDS": "3",
        }
        self.process = subprocess.Popen(
            [sys.executable, str(shapes.home() / program)],
            cwd=str(directory),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: List[str] = []
        self._ports: queue.Queue[Optional[int]] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.port = self._ports.get(timeout=START_SECONDS)
        if self.port is None:
            self.stop()
            pytest.fail(f"{program} did not start:\n{self.output}")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        """Return what the program has written to standard error so far."""
        return "".join(self.lines)

    def stop(self) -> int:
        """End the program as a service manager does, and return its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail(f"the program did not end on SIGTERM:\n{self.output}")
        finally:
            self.process.wait()
            self._reader.join()
            assert self.process.stderr is not None
            self.process.stderr.close()

    def _read(self) -> None:
        """Read on to the end, or a chatty program would block on a full pipe."""
        found = False
        for line in self.process.stderr or ():
            self.lines.append(line)
            banner = None if found else BANNER.search(line)
            if banner:
                found = True
                self._ports.put(int(banner.group(1)))
        self._ports.put(None)


@contextmanager
def served(program: str, directory: Path) -> Iterator[Server]:
    """Run a program of the repository for as long as the block lasts."""
    server = Server(program, directory)
    try:
        yield server
    finally:
        server.stop()


class Browser:
    """A headless Chromium: what the tests need of it, in few words."""

    def __init__(self, profile: Path) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = find_chromium() or ""
        for flag in [*CHROMIUM_FLAGS, f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        options.set_capability("acceptInsecureCerts", True)  # those of the tests
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = shutil.which("chromedriver")
        self.chrome: Chrome = webdriver.Chrome(
            options=options, service=webdriver.ChromeService(driver)
        )
        self.chrome.set_script_timeout(PATIENCE_SECONDS)
        self.look(1280, 900)

    def look(self, width: int, height: int, scheme: str = "light") -> None:
        """Set the size of the window, and light or dark."""
        preference = {"name": "prefers-color-scheme", "value": scheme}
        self._command("Emulation.setEmulatedMedia", features=[preference])
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def open(self, url: str) -> None:
        self.chrome.get(url)

    def close(self) -> None:
        self.chrome.quit()

    def run(self, script: str, *arguments: object) -> Any:
        """Run a script in the page and return its result; a promise is awaited."""
        return self.chrome.execute_script(script, *arguments)

    def all(self, selector: str) -> List[Any]:
        return self.chrome.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        return self.chrome.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return str(self.one(selector).text)

    def click(self, selector: str) -> None:
        """Click like a person: the element is scrolled to where it can be seen."""
        element = self.one(selector)
        self.run("arguments[0].scrollIntoView({ block: 'center' })", element)
        element.click()

    def type(self, selector: str, text: str) -> None:
        element = self.one(selector)
        element.clear()
        element.send_keys(text)

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until the condition holds, and return what it gave."""
        from selenium.webdriver.support.wait import WebDriverWait

        wait = WebDriverWait(self.chrome, PATIENCE_SECONDS, poll_frequency=0.05)
        return wait.until(lambda _: condition(), f"never came: {what}")

    def complaints(self) -> List[str]:
        """Return the errors of the browser's console since the last call."""
        entries: List[Dict[str, Any]] = self.chrome.get_log("browser")
        return [str(e["message"]) for e in entries if e["level"] == "SEVERE"]

    def screenshot(self, path: Path, whole_page: bool = False) -> None:
        """Save what the window shows, or the whole page, as a PNG file."""
        if not whole_page:
            assert self.chrome.save_screenshot(str(path))
            return
        self.run("scrollTo(0, 0)")
        size = self._command("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "scale": 1, **{k: size[k] for k in ("width", "height")}}
        shot = self._command(
            "Page.captureScreenshot", captureBeyondViewport=True, clip=clip
        )
        path.write_bytes(base64.b64decode(shot["data"]))

    def _command(self, name: str, **arguments: object) -> Any:
        return self.chrome.execute_cdp_cmd(name, arguments)


def find_chromium() -> Optional[str]:
    """Return the path of the browser's program, or None."""
    return next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)


def why_no_browser() -> Optional[str]:
    """Return why no browser can be driven here, or None if one can."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed"
    if find_chromium() is None:
        return "Chromium is not installed"
    if shutil.which("chromedriver") is None:
        return "ChromeDriver is not installed"
    return None
