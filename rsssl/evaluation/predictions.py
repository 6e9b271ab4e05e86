"""What a classifier said of its test images: `predictions.csv` in the run folder, for reports. Needs no torch."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rsssl import rng
from rsssl.engine.files import sha256, write_atomic

if TYPE_CHECKING:
    from rsssl.data.prepared import Data

FILE = "predictions.csv"
HEADINGS = ["image", "true", "predicted", "confidence"]
MOST = 20_000  # test images that are listed


class Prediction(NamedTuple):
    """One test image.

    Args:
        image: its path, relative to the dataset's root.
        true: its class.
        predicted: the class that the classifier gave it.
        confidence: the probability of that one, 0..1.
    """

    image: str
    true: str
    predicted: str
    confidence: float


def write_predictions(
    file: Path, data: Data, test: np.ndarray, predicted: np.ndarray, confidence: np.ndarray
) -> dict[str, Any]:
    """Writes the predictions; of more than MOST images a part, drawn by the hash of the split.

    Args:
        file: the CSV.
        data: the images.
        test: (m,) rows of its pack.
        predicted: (m,) numbers of classes.
        confidence: (m,) their probabilities.

    Returns:
        What results.json says of the file: how many images are listed, and the file's SHA-256.
    """
    some = np.sort(rng.permutation(rng.fold("predictions", data.split.hash), len(test))[:MOST])
    rows, names = np.asarray(test)[some], data.pack.card.classes
    listed = zip(some.tolist(), data.pack.paths.select(rows), data.pack.labels[rows].tolist(), strict=True)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(HEADINGS)
    for i, path, label in listed:
        lines.writerow([path, names[label], names[int(predicted[i])], f"{confidence[i]:.4f}"])
    content = text.getvalue().encode("utf-8", "surrogateescape")  # names of files may hold any bytes
    write_atomic(file, content)
    return {"listed": len(some), "sha256": sha256(content)}


def read_predictions(run: Path, record: Any) -> list[Prediction]:
    """The predictions of a run folder, none where they are not those that its results record.

    Args:
        run: the run folder.
        record: what its results.json says of them.
    """
    try:
        content = (run / FILE).read_bytes()
    except OSError:
        return []
    if not isinstance(record, dict) or sha256(content) != record.get("sha256"):
        return []
    lines = csv.reader(io.StringIO(content.decode("utf-8", "surrogateescape"), newline=""))
    return [Prediction(image, true, predicted, float(sure)) for image, true, predicted, sure in list(lines)[1:]]
