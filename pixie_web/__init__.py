"""pixie_web: a small web framework in which each route says where it runs."""

from .core import *  # noqa: F403
from .core import __all__ as __all__
from .core import __version__ as __version__
