"""`task=suggest`: which unlabelled tiles to label next, as a CSV and a contact sheet."""

from __future__ import annotations

import csv
import io
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsssl.checks import one_of, positive, writable
from rsssl.data.lists import listed_paths
from rsssl.engine.run import Run
from rsssl.errors import UserError, typed
from rsssl.tasks.pretrain import Pretrain

if TYPE_CHECKING:
    from rsssl.data.prepared import Data

log = logging.getLogger(__name__)
WAYS = ("typicality", "coverage", "margin")


@dataclass
class Suggest(Pretrain):
    """Ranks the tiles that are worth labelling first. Its keys are these, and those of `task=pretrain`.

    Args:
        checkpoint: weights, or for by=margin a classifier; None to pre-train first.
        out: the CSV; None: suggest.csv in the run folder.
        seed: of the clustering.
        n: how many tiles.
        by: "typicality", "coverage" or "margin".
        labelled: a CSV that lists, in its column path, the tiles that have their label.
    """

    checkpoint: str | None
    out: str | None
    seed: int
    n: int
    by: str
    labelled: str | None

    def check(self) -> None:
        """Refuses impossible values, before any data is read."""
        positive(suggest__n=self.n)
        one_of("suggest.by", self.by, WAYS)
        suffix, kind = (".gpkg", "GeoPackage") if self.on_scenes else (".csv", "CSV")
        if self.out is not None and (out := writable("out", self.out)).suffix.lower() != suffix:
            raise UserError(f"out={self.out} is not the name of a {kind}: type out={out.with_suffix(suffix)}")
        if self.on_scenes and self.labelled:
            raise UserError("on scenes the labels say what is labelled: type dataset.labels=FILE")
        super().check()

    def check_method(self) -> None:
        """Any method will do, and none."""

    @property
    def on_scenes(self) -> bool:
        """Whether windows of scenes are suggested, as places to label, and not tiles."""
        from rsssl.geo.scene_dataset import SceneDataset

        return isinstance(self.dataset, SceneDataset)

    def run(self, run: Run) -> dict[str, Any]:
        """Writes the CSV, a row a tile and the most useful first, with its contact sheet beside it.

        Tiles of the fixed test set are never suggested.

        Returns:
            {"paths": the tiles, "scores": what they were chosen by, "out": the CSV}.
        """
        import numpy as np
        import torch

        from rsssl.data.prepared import load
        from rsssl.engine.ranks import rank
        from rsssl.evaluation.suggest import refuse_too_many
        from rsssl.networks.checkpoints import find_checkpoint
        from rsssl.networks.load import find_classifier
        from rsssl.report.contact_sheet import contact_sheet

        if self.by == "margin" and not self.checkpoint:
            raise UserError(
                "suggest.by=margin needs a classifier: type checkpoint=DIR with the run folder of a task=pipeline"
            )
        classifier = find_classifier(self.checkpoint) if self.by == "margin" and self.checkpoint else None
        if self.checkpoint and classifier is None:
            find_checkpoint(self.checkpoint, run.store)  # a wrong path is told before any data is read
        data = load(self.dataset, run.store, run.workers, self.protocol, self.pack.tiles)
        names = list(data.pack.paths) if self.on_scenes else typed_paths(data)
        known = data.pack.labels >= 0 if self.on_scenes else np.zeros(len(data.pack), bool)
        if self.labelled:
            known[read_labelled(Path(self.labelled).expanduser(), names, str(self.dataset.root))] = True
        pool = np.asarray(data.split.pool)
        known = known[pool]
        free = int((~known).sum())
        refuse_too_many(self.n, free)
        weights = self.weights_asked(self.checkpoint, run)
        log.info(f"{self.n} of {free:,} tiles without a label, suggest.by={self.by}, by {weights}")
        covered = torch.from_numpy(np.flatnonzero(known))
        choice, columns, checkpoint = self._choose(data, classifier, covered, run)
        if rank() > 0:
            return {}
        rows = pool[choice.rows.numpy()]
        paths = [names[i] for i in rows]
        out = self._written(data, rows, paths, choice.score.tolist(), columns, run)
        title = f"{len(rows)} tiles of {data.pack.card.name} to label next, by {self.by}"
        notes = [[Path(path).name] for path in paths]
        if columns:
            pairs = zip(columns["class"], columns["probability"], notes, strict=True)
            notes = [[f"{name} {share}", *note] for name, share, note in pairs]
        pages = contact_sheet(data.pack, rows, notes, title, out.with_suffix(".png"))
        print(f"\n{title}: from {free} without a label" + (f" ({int(known.sum())} have one)" if known.any() else ""))
        if (tested := len(data.split.test)) and not self.on_scenes:  # their windows with a label are known anyway
            print(f"  left alone: the {tested} of the fixed test set (dataset.classes=[] for tiles without classes)")
        print(f"  {out}\n  {pages[0]}" + (f" and {len(pages) - 1} more pages" if len(pages) > 1 else ""))
        self._print_next(checkpoint)
        return {"paths": paths, "scores": choice.score.tolist(), "out": str(out)}

    def _written(
        self, data: Data, rows: Any, paths: list[str], scores: list[float], columns: dict[str, list[str]], run: Run
    ) -> Path:
        """The file of the choice, a GeoPackage for scenes and a CSV for tiles, with its record."""
        from rsssl.engine.outputs import write_record

        out = Path(self.out).expanduser() if self.out else run.record(f"suggest.{'gpkg' if self.on_scenes else 'csv'}")
        if self.on_scenes:
            write_places(out, data, rows, scores, columns)
        else:
            write_table(out, paths, scores, columns)
        if self.out:
            write_record(out, {"task": "suggest", "config": run.config})
        else:
            run.save_config()
        return out

    def _choose(self, data: Data, classifier: Any, covered: Any, run: Run) -> tuple[Any, dict[str, list[str]], Any]:
        """The choice, further columns of the table, and the checkpoint to go on with."""
        import numpy as np

        from rsssl.evaluation.features import feature_bank
        from rsssl.evaluation.suggest import coverage, margin, typicality
        from rsssl.networks.bank import class_probabilities, classifier_bank
        from rsssl.networks.weights import pretrained_or_train

        pool = np.asarray(data.split.pool)
        if classifier is not None:
            features = classifier_bank(classifier, data.pack, str(self.checkpoint), run.store, run.device).get(pool)
            shares = class_probabilities(classifier, features)
            choice = margin(shares, features, self.n, self.seed, covered)
            best = shares[choice.rows].max(1)
            names = [classifier.classes[i] for i in best.indices.tolist()]
            return choice, {"class": names, "probability": [f"{p:.4f}" for p in best.values.tolist()]}, self.checkpoint
        weights = pretrained_or_train(self, self.checkpoint, data, run)
        features = feature_bank(run.store, data.pack, weights, run.device).get(pool)
        checkpoint = weights.record["folder"] if weights.record else self.checkpoint
        if self.by == "coverage":
            return coverage(features, self.n, covered), {}, checkpoint
        return typicality(features, self.n, self.seed, covered), {}, checkpoint

    def _print_next(self, checkpoint: str | None) -> None:
        """What to do with the list."""
        given = typed("checkpoint", checkpoint) if checkpoint else "ssl=none"
        if self.on_scenes:
            print(
                "  next: open the GeoPackage in QGIS, fill in the class of each place, save it, and type it\n"
                "  beside the labels that you have: dataset=scene dataset.scenes=... "
                "'dataset.labels=[OLD.gpkg,THIS.gpkg]'"
            )
            return
        dataset = f"dataset={self.dataset.name} {typed('dataset.root', self.dataset.root)}"
        print(
            "  next: copy these tiles into folders named by their class, LABELLED/<class>/, and type\n"
            f"    rsssl-run task=evaluate dataset=folder dataset.root=LABELLED {given} ts=all\n"
            "  to go on after that, list all that are labelled, of this round and those before, in one CSV and type\n"
            f"    rsssl-run task=suggest {dataset} {given} suggest.labelled=ALL_LABELLED.csv"
        )


def typed_paths(data: Data) -> list[str]:
    """Every tile's path relative to dataset.root as it was typed: folders may lie between it and the class folders."""
    root = Path(data.dataset.root or "").expanduser().resolve()
    if not data.dataset.root or data.dataset.list or not root.is_dir():
        return list(data.pack.paths)
    between = os.path.relpath(data.dataset.source().root, root)
    return list(data.pack.paths) if between == "." else [f"{Path(between).as_posix()}/{p}" for p in data.pack.paths]


def read_labelled(file: Path, names: list[str], root: str) -> list[int]:
    """The rows of a pack that a CSV lists in its column `path`.

    Raises:
        UserError: no such file or column, or a path that is not a tile of the dataset.
    """
    row_of = {name: i for i, name in enumerate(names)}
    rows = []
    for line, path in listed_paths(file, "suggest.labelled", table=True):
        if (row := row_of.get(os.path.normpath(path).replace(os.sep, "/"))) is None:
            raise UserError(
                f"suggest.labelled={file} line {line} names {path}, which is not a tile of {root}: its paths are "
                f"relative to dataset.root, for example {names[0]}"
            )
        rows.append(row)
    return rows


def write_table(file: Path, paths: list[str], scores: list[float], columns: dict[str, list[str]]) -> None:
    """A row a tile: rank from 1, path, score, and the other columns."""
    from rsssl.engine.files import write_atomic

    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", "path", "score", *columns])
    for i, (path, score) in enumerate(zip(paths, scores, strict=True)):
        writer.writerow([i + 1, path, f"{score:.6g}", *(c[i] for c in columns.values())])
    write_atomic(file, text.getvalue().encode(errors="surrogateescape"))


def write_places(file: Path, data: Data, rows: Any, scores: list[float], columns: dict[str, list[str]]) -> None:
    """A GeoPackage of places to label, points in WGS 84 with an empty class; the window around each is what was looked
    at."""
    import numpy as np

    from rsssl.geo.write_vectors import Drawn, wgs84, write_features

    ground = data.pack.ground
    if ground is None or np.isnan(ground.lonlat[rows]).any():
        raise UserError("these scenes do not say where they lie (no CRS): type gdal_edit.py -a_srs EPSG:CODE SCENE")
    guesses = columns.get("class", [None] * len(rows))
    features = [
        Drawn(
            ground.lonlat[row].tolist(),
            {"class": None, "rank": i + 1, "score": float(score), "guess": guess, "window": data.pack.paths[row]},
        )
        for i, (row, score, guess) in enumerate(zip(rows, scores, guesses, strict=True))
    ]
    write_features(file, "suggestions", wgs84(), features)
