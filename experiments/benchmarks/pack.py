"""Ingest: every file decoded once into a pack, against one epoch of a peer's dataset that decodes them every time.

Ours is the whole of `pack`: listing, decoding, statistics, checksums, fsync. Files are links to the imagery, warm in
the page cache, the same ones for both sides.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness import Bench, Figure, attempts, in_turn, seconds

NOTE = "Ours packs once, with checksums and statistics, and waits for the disk; theirs decodes and keeps nothing."


def figures(bench: Bench) -> Iterator[Figure]:
    yield from attempts(bench, geotiffs, jpegs)


def geotiffs(bench: Bench) -> Iterator[Figure]:
    """packing GeoTIFFs of 13 bands, against torchgeo"""
    from torchgeo.datasets import EuroSAT

    root = bench.scratch / "pack_torchgeo"
    files = linked(bench.data / "EuroSAT_MS", "*.tif", root / EuroSAT.base_dir, 20 if bench.quick else 1000)
    (root / EuroSAT.split_filenames["train"]).write_text("".join(f"{file.stem}.jpg\n" for file in files))

    def theirs() -> float:
        return epoch(EuroSAT(str(root), split="train", checksum=False), bench.threads)

    # The range is given: taken from a sample otherwise, which any configuration of a known dataset spares.
    ours = partial(packing, bench, root / EuroSAT.base_dir, valid_range=[0, 10000])
    peer = f"torchgeo {version('torchgeo')} EuroSAT, {bench.threads} workers"
    yield figure(bench, "packing 13-band GeoTIFFs, a file", peer, ours, theirs, files, 5, gdal_reads)


def jpegs(bench: Bench) -> Iterator[Figure]:
    """packing JPEGs, against torchvision"""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import PILToTensor

    root = bench.scratch / "pack_torchvision"
    files = linked(bench.data / "EuroSAT_RGB", "*.jpg", root, 20 if bench.quick else 1000)

    def theirs() -> float:
        return epoch(ImageFolder(str(root), PILToTensor()), bench.threads)

    peer = f"torchvision {version('torchvision')} ImageFolder, {bench.threads} workers"
    yield figure(bench, "packing JPEGs, a file", peer, partial(packing, bench, root), theirs, files, 1, pillow_decodes)


def figure(
    bench: Bench,
    name: str,
    peer: str,
    ours: Callable[[], float],
    theirs: Callable[[], float],
    files: Sequence[Path],
    target: float,
    decoder: Callable[[Path], object],
) -> Figure:
    """Microseconds a file; the bound is the reader that the pack uses, and nothing else, on all cores."""
    from rsssl.data.raster import read

    for measure in (ours, theirs):  # once untimed: imports, the page cache
        measure()
    measured = [tuple(1e6 * s / len(files) for s in times) for times in in_turn(ours, theirs, bench.repeats)]
    sample = files[:: max(1, len(files) // 1000)]
    reader, bare = (best(partial(each, function, sample)) / len(sample) * 1e6 for function in (read, decoder))
    return Figure(
        name,
        peer,
        "us",
        measured[0],
        measured[1],
        target,
        False,
        min(reader, bare) / bench.threads,
        f"the quicker of our reader alone, {reader:.0f} us a file, and {decoder.__doc__}, {bare:.0f} us, in one "
        f"process; divided by {bench.threads} cores",
        f"{len(files):,} files, {bench.threads} processes. {NOTE}",
    )


def packing(bench: Bench, root: Path, **fields: Any) -> float:
    """Seconds of one pack, made from nothing."""
    import rsssl
    from rsssl.data.packing import pack

    folder = bench.scratch / "packed"
    took = seconds(lambda: pack(rsssl.dataset("folder", str(root), **fields), folder, bench.threads, progress=False))
    shutil.rmtree(folder)
    return took


def epoch(dataset: Any, workers: int) -> float:
    """Seconds of one epoch through torch's DataLoader in batches of 64, the start of its workers included."""
    from torch.utils.data import DataLoader

    return seconds(lambda: sum(1 for _ in DataLoader(dataset, 64, num_workers=workers)))


def linked(source: Path, pattern: str, target: Path, n: int) -> list[Path]:
    """`n` links in each class folder of `target`, to the files of `source` in turn, each link with another name."""
    links = []
    for folder in sorted(p for p in source.iterdir() if p.is_dir()):
        (target / folder.name).mkdir(parents=True, exist_ok=True)
        files = itertools.islice(itertools.cycle(sorted(folder.glob(pattern))), n)
        for i, file in enumerate(files):
            link = target / folder.name / f"{folder.name}_{i:05d}{file.suffix}"
            if not link.is_symlink():
                os.symlink(file.resolve(), link)
            links.append(link)
    return links


def gdal_reads(path: Path) -> object:
    """GDAL's Open and ReadRaster"""
    import numpy as np
    from osgeo import gdal

    gdal.UseExceptions()
    return np.frombuffer(gdal.Open(str(path)).ReadRaster(), np.uint16)


def pillow_decodes(path: Path) -> object:
    """Pillow's open and decode into numpy"""
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image)


def each(function: Callable[[Path], object], files: Sequence[Path]) -> None:
    for file in files:
        function(file)


def best(run: Callable[[], object], tries: int = 5) -> float:
    """The least wall seconds of several runs: what the machine does when nothing else runs."""
    return min(seconds(run) for _ in range(tries))
