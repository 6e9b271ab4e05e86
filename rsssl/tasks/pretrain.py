"""`task=pretrain`: a backbone trained on unlabelled images, kept in the store."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from rsssl.engine.run import Run
from rsssl.errors import UserError
from rsssl.networks.recipe import Recipe
from rsssl.tasks.pack import PackImages

log = logging.getLogger(__name__)


@dataclass
class Pretrain(Recipe, PackImages):
    """Trains a backbone without labels. Its keys are those of `Recipe`, and the dataset."""

    def check(self) -> None:
        """Refuses impossible values, before any data is read."""
        PackImages.check(self)
        Recipe.check(self)
        self.check_method()

    def check_method(self) -> None:
        """A pre-training needs a method."""
        if self.ssl.get("_target_") is None:
            raise UserError("ssl=none has nothing to pre-train with: type ssl=simclr")

    def weights_asked(self, checkpoint: str | None, run: Run) -> str:
        """Which weights a command asks for, in words."""
        if checkpoint:
            return f"checkpoint={checkpoint}"
        start = f"start={run.options['start']} ({self.backbone['name']})"
        return start if self.ssl.get("_target_") is None else f"ssl={run.options['ssl']} from {start}"

    def run(self, run: Run) -> dict[str, Any]:
        """Pre-trains, or finds the finished training in the store; prints where the weights are.

        Returns:
            The record of the training: "weights" (the file), "artifact", "images", "epochs", "seconds", ...
        """
        from rsssl.engine.files import write_json
        from rsssl.engine.ranks import rank
        from rsssl.networks.pretraining import pretrain

        log.info("%s", self.weights_asked(None, run))
        record = pretrain(self, self.dataset, run)
        if rank() > 0:
            return {}
        run.save_config()
        write_json(run.record("pretrain.json"), {"pretrain": record})
        done = "reused" if record["reused"] else "pre-trained"
        print(f"{done} on {record['images']} images in {record['seconds']:.0f} s: {record['weights']}")
        return record
