"""Support for tests that start a program, and drive it in a real browser."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, ContextManager, Dict, List, Optional

import shapes
from support import Server, serve

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

PATIENCE_SECONDS = 60  # for a busy machine; nothing waits that long on a free one
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--hide-scrollbars --disable-dev-shm-usage"
).split()


def served(program: str, directory: Path) -> ContextManager[Server]:
    """Run a program of the repository for as long as the block lasts."""
    return serve(shapes.home() / program, directory=directory, drain_seconds=3)


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
