"""The versions that results were made with."""

from __future__ import annotations

import platform
from importlib.metadata import version

import rsssl


def versions(*packages: str) -> dict[str, str]:
    """Of rsssl, Python and the packages, by their metadata: nothing is imported for it."""
    named = packages or ("torch", "timm", "numpy")
    return {"rsssl": rsssl.__version__, "python": platform.python_version()} | {name: version(name) for name in named}
