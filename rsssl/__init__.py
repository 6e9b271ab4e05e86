"""Self-supervised pre-training and few-label scene classification for Earth observation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsssl.networks.load import load_backbone as load_backbone
    from rsssl.networks.load import load_classifier as load_classifier

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Late: `import rsssl`, and the commands' help, do not wait for torch.
    if name in ("load_backbone", "load_classifier"):
        from rsssl.networks import load

        return getattr(load, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
