"""The versions that results were made with."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version

import rsssl


def versions(*packages: str) -> dict[str, str]:
    """Of rsssl, Python and the packages. Nothing is imported for it: of a package not in use, its metadata is read.

    Args:
        *packages: names; those of an evaluation where none is given.
    """
    named = packages or ("torch", "timm", "numpy")
    at_work = {name: getattr(sys.modules.get(name), "__version__", None) or version(name) for name in named}
    return {"rsssl": rsssl.__version__, "python": platform.python_version()} | {k: str(v) for k, v in at_work.items()}
