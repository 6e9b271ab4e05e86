"""Self-supervised methods, one file each, on one small base."""

from rsssl.methods.base import Method
from rsssl.methods.simclr import SimCLR

__all__ = ["Method", "SimCLR"]
