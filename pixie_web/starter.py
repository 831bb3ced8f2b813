"""The files of `pixie new NAME`: a directory with a first application and its test."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Dict

from .errors import PixieError
from .settings import say

APP = '''\
"""NAME, an application on pixie_web: `pixie run app`, or `python3 app.py`."""

from pathlib import Path

from pixie_web import Pixie, RouteType, Template, template

Template.path = Path(__file__).resolve().parent / "views"
app = Pixie(__name__)


@app.get("/", RouteType.sync)  # in the main process: short answers
def index(env):
    return template("index", name=env.query.get("name", "world"))


@app.get("/primes/<limit:int>", timeout=10)  # in a worker process: what computes
def primes(env, limit):
    sieve = bytearray([1]) * (limit + 1)
    for number in range(2, int(limit**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(limit // number - number + 1)
    return {"limit": limit, "primes": max(0, sum(sieve) - 2)}


if __name__ == "__main__":
    app.run()
'''
PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>NAME</title>
<h1>Hello, {{name}}!</h1>
<p>There are <a href="/primes/1000000">primes</a> below a million. How many?</p>
</html>
"""
TEST = '''\
"""Tests of the application: `python3 -m unittest`, or pytest."""

import json
import os
import subprocess
import sys
import unittest
import urllib.request
from pathlib import Path

APP = Path(__file__).resolve().parent / "app.py"


class TestApp(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = subprocess.Popen(
            [sys.executable, str(APP)],
            env={**os.environ, "PIXIE_HOST": "127.0.0.1", "PIXIE_PORT": "0"},
            stderr=subprocess.PIPE,
            text=True,
        )
        banner = cls.server.stderr.readline()  # "pixie_web ... on http://... (..."
        cls.url = banner.partition(" on ")[2].partition(" ")[0]

    @classmethod
    def tearDownClass(cls):
        cls.server.terminate()
        cls.server.communicate()

    def get(self, path):
        with urllib.request.urlopen(self.url + path) as answer:
            return answer.read().decode()

    def test_the_page_greets(self):
        self.assertIn("Hello, world!", self.get("/"))
        self.assertIn("Hello, &lt;b&gt;!", self.get("/?name=%3Cb%3E"))

    def test_a_worker_counts_primes(self):
        found = json.loads(self.get("/primes/100"))
        self.assertEqual(found, {"limit": 100, "primes": 25})


if __name__ == "__main__":
    unittest.main()
'''
FILES: Dict[str, str] = {
    "app.py": APP,
    "test_app.py": TEST,
    "views/index.tpl": PAGE,
    ".gitignore": "__pycache__/\n",
}


def make(name: str) -> None:
    """Make the directory `name`, which must not be there, and tell how to go on.

    Raises:
        PixieError: the name is none, or something has it already.
    """
    own = os.path.basename(os.path.normpath(name))
    if not re.fullmatch(r"\w[\w.-]*", own):
        raise PixieError(f"a name is letters, digits, _ . and -, got {name!r}")
    try:
        os.makedirs(name)
        for path, text in FILES.items():
            file = Path(name, path)
            file.parent.mkdir(exist_ok=True)
            file.write_text(text.replace("NAME", own), encoding="utf-8")
    except FileExistsError:
        raise PixieError(f"{name} is there already; take another name") from None
    except OSError as error:
        raise PixieError(f"can't make {name}: {error.strerror}") from None
    say(
        f"made {name}: {', '.join(FILES)}\n"
        f"next: cd {name} && pixie run app    (its tests: python3 -m unittest)"
    )
