"""`task=pipeline`, the default: what the paper does. Pack, pre-train on the pool, evaluate from a few labels.

Each stage is looked up in the store first, so the pipeline is the evaluation with nothing assumed to be there.
"""

from rsssl.tasks.evaluate import pretrain_and_evaluate as run

__all__ = ["run"]
