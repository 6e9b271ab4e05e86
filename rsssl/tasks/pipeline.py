"""`task=pipeline`, the default: pack, pre-train on the pool, evaluate from a few labels, as the paper does.

Each stage is looked up in the store first, so the pipeline is the evaluation that trains what it does not find.
"""

from __future__ import annotations

from dataclasses import dataclass

from rsssl.tasks.evaluate import Evaluate


@dataclass
class Pipeline(Evaluate):
    """Its keys are those of `task=evaluate`."""

    def check_method(self) -> None:
        """Any method will do, and none."""
