"""The version, the log, and the name of this package."""

from __future__ import annotations

import logging

__version__ = "0.1.0"

# One line is written anew by the builder of the single file. A name can't tell: a copy
# of that file in another package is as alone as ever.
LONE = False
ROOT = __name__ if LONE else __package__  # what a new interpreter imports

log = logging.getLogger("pixie_web")
