"""`task=predict`: images in files in, a CSV of classes and probabilities out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rsssl.checks import positive, writable
from rsssl.engine.run import Run
from rsssl.errors import UserError, typed


@dataclass
class Predict:
    """Classifies images in files: a row for each image, and beside it the list of those that could not be used.

    Args:
        checkpoint: the classifier: a run folder or an exported one.
        images: a folder, or a list: a path a line, or a CSV with a column path.
        out: the CSV.
        bands: of the images for each of the classifier's, numbers from 1 or names; None to find them by name.
        batch_size: images classified at a time; None: 64, on an accelerator 512 where they fit.
        tta: average over the eight flips and quarter turns.
    """

    checkpoint: str
    images: str
    out: str
    bands: list[Any] | None
    batch_size: int | None
    tta: bool

    examples: ClassVar[dict[str, str]] = {"checkpoint": "runs/mine", "images": "tiles/", "out": "classes.csv"}

    def check(self) -> None:
        """Refuses impossible values."""
        positive(batch_size=self.batch_size)
        writable("out", self.out)

    def check_files(self) -> None:
        """Refuses images that do not exist, and one image in place of a list."""
        from rsssl.data.catalog import EXTENSIONS

        images = Path(self.images).expanduser()
        if not images.exists():
            raise UserError(f"images={images} does not exist: type images=FOLDER, or images=LIST.txt, a path a line")
        if images.is_file() and images.suffix.lower() in EXTENSIONS:
            scene = f"rsssl-run task=map {typed('checkpoint', self.checkpoint)} {typed('scene', images)} out=map.tif"
            raise UserError(
                f"images={images} is an image, and images= takes a folder of them or a list, a path a line: type "
                f"{typed('images', images.parent)}; for a map of a scene type {scene}"
            )

    def run(self, run: Run) -> dict[str, Any]:
        """Predicts, unless the same predictions stand already.

        Returns:
            {"images": those predicted, "unusable": those that could not be used}.
        """
        from rsssl.engine.ranks import rank
        from rsssl.networks.load import find_classifier
        from rsssl.networks.predicting import PredictOptions, predict_files, unusable_file

        out = Path(self.out).expanduser()
        if out.suffix.lower() != ".csv":
            raise UserError(f"out={out} is not the name of a CSV: type out={out.with_suffix('.csv')}")
        classifier = find_classifier(self.checkpoint)
        options = PredictOptions(
            bands=None if self.bands is None else list(self.bands),
            batch_size=self.batch_size,
            tta=self.tta,
            workers=run.workers,
        )
        counts = predict_files(classifier, Path(self.images).expanduser(), out, options, run.device, run.config)
        if rank() == 0 and not counts["reused"]:
            print(f"\n{out}: {counts['images']} images")
            if counts["unusable"]:
                print(f"  {counts['unusable']} could not be used; they are listed in {unusable_file(out)}")
        return counts
