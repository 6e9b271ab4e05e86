"""`task=accuracy`: how good a class map is, and how large its classes are, by reference points, polygons or a
raster."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rsssl.checks import writable
from rsssl.engine.run import Run

SEEN = (
    "Warning: {reference} is what the map's classifier was trained from. These figures say how well it remembers its "
    "labels, and not how good the map is: type reference=FILE with labels that the map has not seen."
)


@dataclass
class AssessAccuracy:
    """Compares a class map with reference data.

    Args:
        class_map: the map, a raster of class numbers.
        reference: points or polygons in any format GDAL reads, a CSV with lon, lat or x, y, or a raster of class
            numbers.
        field: the column or attribute that holds the class; None to find it.
        out: where the figures go, OUT.json and OUT.csv, or a folder; None: beside the map.
    """

    class_map: str
    reference: str
    field: str | None
    out: str | None

    examples: ClassVar[dict[str, str]] = {"class_map": "map.tif", "reference": "points.gpkg"}

    def check(self) -> None:
        """Refuses a place for the figures that cannot be made."""
        if self.out is not None:
            writable("out", self.out, folder=True)

    def run(self, run: Run) -> dict[str, Any]:
        """Writes the figures and the confusion matrix, and prints a table.

        Returns:
            The figures, as they stand in the JSON file.

        Raises:
            UserError: for files, fields and classes that do not exist, or when nothing can be compared.
        """
        from rsssl.engine.files import write_atomic, write_json
        from rsssl.engine.ranks import rank
        from rsssl.geo.assessment import summary
        from rsssl.geo.class_map import ClassMap
        from rsssl.geo.reference import compare
        from rsssl.geo.seen import learnt_from
        from rsssl.report.assessment import matrix_csv, show
        from rsssl.report.versions import versions

        if rank() > 0:
            return {}
        class_map = ClassMap(os.path.expanduser(self.class_map))
        samples = compare(class_map, os.path.expanduser(self.reference), self.field)
        mapped, unit = class_map.areas()
        results: dict[str, Any] = {"task": "accuracy", "class_map": self.class_map, "reference": self.reference}
        results |= summary(class_map.names, samples, mapped, unit)
        results["seen"] = learnt_from(self.class_map, self.reference)
        if results["seen"]:
            results["notes"].insert(0, SEEN.format(reference=self.reference))
        results |= {"versions": versions("numpy"), "config": run.config, "finished": time.time()}
        files = targets(self.out, self.class_map)
        write_json(files[0], results)
        write_atomic(files[1], matrix_csv(class_map.names, samples.counts).encode())
        show(results, files)
        return results


def targets(out: str | None, class_map: str) -> tuple[Path, Path]:
    """Where JSON and CSV go: beside the map, into the folder `out`, or beside each other as OUT.json and OUT.csv."""
    if out is None:
        beside = Path(class_map).expanduser()
        return beside.with_name(f"{beside.stem}_accuracy.json"), beside.with_name(f"{beside.stem}_confusion.csv")
    base = Path(out).expanduser()
    if base.is_dir():
        return base / "accuracy.json", base / "confusion.csv"
    base = base.with_suffix("") if base.suffix.lower() in (".json", ".csv") else base
    return base.with_name(base.name + ".json"), base.with_name(base.name + ".csv")
