"""What the pages of the documentation show."""

from __future__ import annotations

import re
from pathlib import Path
from typing import List


def python_blocks(page: Path) -> List[str]:
    """Return the Python examples of a page, in their order."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
