"""examples/chat.py in two real browsers, side by side.

`PIXIE_SCREENSHOTS=directory` keeps a screenshot of both.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from shapes import home
from support import Server, server_fixture

CHAT = home() / "examples" / "chat.py"
JSON = {"Content-Type": "application/json"}
SIDE_BY_SIDE = """
document.body.style.cssText = "margin: 0; display: flex; gap: 8px; background: #444";
for (const shot of arguments) {
  const image = new Image();
  image.src = "data:image/png;base64," + shot;
  document.body.append(image);
}
"""
server = server_fixture(CHAT, drain_seconds=1)


def test_it_is_short() -> None:
    assert CHAT.read_text(encoding="utf-8").count("\n") < 100


WRONG = [
    ({}, JSON),
    ("text", JSON),
    ({"name": "a", "text": ""}, JSON),
    ({"name": 1}, {}),
]


@pytest.mark.parametrize("body, headers", WRONG)
def test_what_is_no_message_is_refused(server: Server, body: Any, headers: Any) -> None:
    answer = server.request("POST", "/say", json.dumps(body), headers)
    assert answer.status == (400 if headers else 415)


def test_another_site_says_nothing(server: Server) -> None:
    body = json.dumps({"name": "x", "text": "y"})
    headers = {**JSON, "Sec-Fetch-Site": "cross-site", "Origin": "https://x.example"}
    assert server.request("POST", "/say", body, headers).status == 403


def say(browser: Browser, name: str, text: str) -> None:
    browser.type("#name", name)
    browser.type("#text", text)
    browser.click("button")


def shows(browser: Browser, *texts: str) -> None:
    browser.until(
        lambda: [one.text.partition(" ")[0] for one in browser.all("li")] == [*texts],
        f"the messages {texts}",
    )


@pytest.mark.browser
def test_two_browsers_hear_each_other(
    server: Server, browser: Browser, tmp_path: Path
) -> None:
    other = Browser(tmp_path / "profile")
    try:
        for one in (browser, other):
            one.look(480, 640)
            one.open(server.url)
            one.until(lambda one=one: one.text("#state") == "connected", "the stream")
        say(browser, "Ann", "Hello!")
        shows(other, "Hello!")
        say(other, "Bob", "<b>Hi</b>")
        for one in (browser, other):
            shows(one, "Hello!", "<b>Hi</b>")
            assert "Ann, by way of worker" in one.text("li:first-child")
            assert one.complaints() == []
        wanted = os.environ.get("PIXIE_SCREENSHOTS")
        if wanted:
            shots = [one.chrome.get_screenshot_as_base64() for one in (browser, other)]
            browser.open("about:blank")
            browser.look(968, 640)
            browser.run(SIDE_BY_SIDE, *shots)
            path = Path(wanted) / "chat.png"
            path.write_bytes(
                base64.b64decode(browser.chrome.get_screenshot_as_base64())
            )
            browser.open(server.url)
        # Who comes late gets what is kept; who comes back, what it has missed.
        late = f"{server.url}/"
        other.open(late)
        shows(other, "Hello!", "<b>Hi</b>")
    finally:
        other.close()
