"""Example errors and a map of the features, of what the store still holds; needs neither torch nor the dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from rsssl import rng
from rsssl.data.pack import Pack
from rsssl.data.packs import open_packed
from rsssl.engine.store import damage, is_artifact, is_finished
from rsssl.errors import UserError
from rsssl.evaluation.bank_files import read_rows
from rsssl.evaluation.predictions import Prediction, read_predictions
from rsssl.models.bands import shown_bands
from rsssl.report.datasets import recorded
from rsssl.report.results import Result
from rsssl.report.tiles import picture, stretch, thumbnail, visible

ERRORS = 24  # the surest ones that are shown
ERROR_SIDE, POINT_SIDE = 96, 64  # pixels of their thumbnails, and of those of the map
POINTS = 1000  # of the maps of all datasets together
FEWEST = 100  # of each of them
AT_ONCE = 64  # images that are read together


@dataclass(frozen=True)
class Tested:
    """The test images of one run: what its classifier said of them, and the pack that holds them.

    Args:
        result: of the run.
        predictions: of its test images.
        rows: (n,) their rows in the pack.
        pack: their pixels.
        spread: what becomes black and white.
    """

    result: Result
    predictions: Sequence[Prediction]
    rows: np.ndarray
    pack: Pack
    spread: tuple[float, float]

    def pictures(self, some: Sequence[int], side: int) -> list[Image.Image]:
        """Thumbnails of some of the images, in their shape, with `side` pixels on the longer one."""
        bands, small = shown_bands(self.pack.card.bands), []
        for start in range(0, len(some), AT_ONCE):
            rows = self.rows[list(some[start : start + AT_ONCE])]
            tiles = visible(self.pack.read(rows), self.pack.card, bands)
            small += [thumbnail(picture(tile, *self.spread), side) for tile in tiles]
        return small


def tested(results: Sequence[Result]) -> Tested | str:
    """The first of some runs of one row whose images are there; or a sentence that says why there is none."""
    why = "These results are older than the list of predictions: run the command again to see example errors here."
    for result in results:
        data, run = recorded(result), result.path.parent
        if "predictions" not in result.content:
            if data:
                why = "This evaluation has no list of predictions (cross-validation, or protocol=paper)."
            continue
        predictions = read_predictions(run, result.content["predictions"])
        if not predictions or not {p.true for p in predictions} | {p.predicted for p in predictions} <= {
            *result.classes
        }:
            why = f"{run / 'predictions.csv'} is missing or not what was written, so no images are shown."
            continue
        pack = opened(str(data.get("pack")), str(data.get("fingerprint")))
        if pack is None:
            why = "The store no longer holds these images, so none are shown; RSSSL_STORE=DIR names another place."
            continue
        listed = {p.image for p in predictions}
        row_of = {path: row for row, path in enumerate(pack.paths) if path in listed}
        rows = np.array([row_of.get(p.image, -1) for p in predictions])
        if (rows < 0).any():
            why = f"{run / 'predictions.csv'} names images that the store does not hold, so none are shown."
            continue
        return Tested(result, predictions, rows, pack, stretch(pack, rows, shown_bands(pack.card.bands)))
    return why


def moved_to(result: Result, store: Path) -> Result:
    """The result with the folders that it names in a store, or, where they are gone, those below another store."""

    def now(entry: object, keys: Sequence[str]) -> object:
        if not isinstance(entry, dict):
            return entry
        lost = {k: Path(str(entry[k])) for k in keys if k in entry and place(str(entry[k])) is None}
        return entry | {k: str(store / folder.parent.name / folder.name) for k, folder in lost.items()}

    content = result.content
    known = {
        "data": now(content.get("data"), ("pack", "features")),
        "pretrain": now(content.get("pretrain"), ("folder",)),
    }
    return replace(result, content=content | known)


def place(folder: str) -> Path | None:
    """A folder of a store that a result names; None where it is gone, or any other folder is named."""
    recorded_at = Path(folder)
    return recorded_at if is_artifact(recorded_at) and recorded_at.is_dir() else None


def opened(folder: str, fingerprint: str) -> Pack | None:
    """The pack in a folder of a store, if it holds the very images that were tested on."""
    try:
        found = place(folder)
        pack = open_packed(found) if found and is_finished(found) and not damage(found) else None
    except (OSError, UserError):
        return None
    return pack if pack is not None and pack.fingerprint == fingerprint else None


def surest_errors(some: Tested) -> list[tuple[Prediction, Image.Image]]:
    """The wrong predictions that the classifier is surest of, with their thumbnails."""
    wrong = [i for i, p in enumerate(some.predictions) if p.true != p.predicted]
    wrong = sorted(wrong, key=lambda i: (-some.predictions[i].confidence, some.predictions[i].image))[:ERRORS]
    return list(zip([some.predictions[i] for i in wrong], some.pictures(wrong, ERROR_SIDE), strict=True))


@dataclass(frozen=True)
class Embedding:
    """Test images in the plane.

    Args:
        predictions: of n images.
        maps: by name (n, 2) places in 0..1.
        atlas: their thumbnails in a square grid, by rows.
        across: of the grid.
        explained: the share of the variance that the two principal components have.
        note: what would bring a further map; empty where there is one.
    """

    predictions: Sequence[Prediction]
    maps: dict[str, np.ndarray]
    atlas: Image.Image
    across: int
    explained: float
    note: str


def embedding(some: Tested, most: int) -> Embedding | str:
    """A map of the features of at most so many test images; or a sentence that says why there is none."""
    folder = recorded(some.result).get("features")
    if not folder:
        return (
            "The network was trained with the labels, and the store keeps no features of it: there is no map of them."
        )
    chosen = np.sort(rng.permutation(rng.fold("embedding"), len(some.rows))[:most])
    found = place(str(folder))
    features = read_rows(found, len(some.pack), some.rows[chosen]) if found else None
    if features is None or not np.isfinite(features).all() or len(features) < 3:
        return "The store no longer holds the features of these images, so there is no map of them."
    components, explained = principal_components(features, 50)
    maps = {"PCA": in_unit(components[:, :2])}
    note = ""
    try:
        maps |= {"t-SNE": in_unit(t_sne(components))} if len(components) >= 10 and components.any() else {}
    except ImportError:
        note = "For t-SNE beside PCA: pip install 'rsssl[report]'"
    across = int(np.ceil(np.sqrt(len(chosen))))
    atlas = Image.new("RGB", (across * POINT_SIDE, -(-len(chosen) // across) * POINT_SIDE), "#808080")
    for i, tile in enumerate(some.pictures(chosen.tolist(), POINT_SIDE)):
        x, y = i % across * POINT_SIDE, i // across * POINT_SIDE
        atlas.paste(tile, (x + (POINT_SIDE - tile.width) // 2, y + (POINT_SIDE - tile.height) // 2))
    return Embedding([some.predictions[i] for i in chosen.tolist()], maps, atlas, across, explained, note)


def principal_components(features: np.ndarray, most: int) -> tuple[np.ndarray, float]:
    """Features (n, D) as their first components (n, at least 2, at most `most`), and the share of the variance that two
    of them have. Each points to where its largest weight is positive."""
    centred = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
    components = centred @ (axes * signs[:, None])[:most].T
    if components.shape[1] < 2:
        components = np.pad(components, ((0, 0), (0, 2 - components.shape[1])))
    return components, float((sizes[:2] ** 2).sum() / max((sizes**2).sum(), 1e-300))


def t_sne(components: np.ndarray) -> np.ndarray:
    """(n, 2) places with neighbours beside each other (van der Maaten and Hinton 2008). ImportError without
    scikit-learn."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(components) - 1) / 3)
    places: np.ndarray = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(components)
    return places


def in_unit(places: np.ndarray) -> np.ndarray:
    """(n, 2) in 0..1, both directions on one scale, in the middle of the square."""
    low, high = places.min(0), places.max(0)
    span = float((high - low).max()) or 1.0
    unit: np.ndarray = (places - (low + high) / 2) / span + 0.5
    return unit
