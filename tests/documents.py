"""The manual's code blocks: found, understood, and made small enough to be run; and the imagery that they speak of."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsssl.data.raster import import_gdal, write_geotiff
from rsssl.geo.write_vectors import Drawn, write_features

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
FENCE = re.compile(r'^(?:<!-- ([^\n]*) -->\n)?```(\w+)(?: title="([^"\n]*)")?\n(.*?)^```$', re.M | re.S)
SMALL = ["pretrain.minutes=null", "pretrain.batch_size=8", "pretrain.pictures=0", "pretrain.probes=0", "workers=1"]
TOLD_APART = ("-", "rsssl", "task=", "dataset=")
STRUCTURE = (*TOLD_APART, "checkpoint=", "pretrain.resume=", "pretrain.dataset=", "dataset.test=", "ssl.teacher=")
TRAINING = ("pipeline", "pretrain", "evaluate", "suggest", "map")
NETWORK = ["backbone.name=resnet10t", "+backbone.kwargs.channels=[8,16,32,64]"]
SIDE, SQUARE, PIXEL, WEST, NORTH = 192, 48, 10.0, 500_000.0, 5_600_000.0
CLASSES = ("forest", "harbour", "meadow")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Args:
        note: the comment on the line before it: why it is not run.
        language: shell, python, yaml or text.
        title: the file that it is.
        text: what stands in it.
    """

    note: str
    language: str
    title: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of each of its commands, without prompts and comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line.split(" #")[0], comments=True))]


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in their order."""
    return [Block(*(part or "" for part in found)) for found in FENCE.findall(page.read_text())]


def files_of(page: Path, folder: Path) -> None:
    """Writes the files that a page shows, each under its title."""
    for block in blocks_of(page):
        if block.title:
            (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.title).write_text(block.text)


def overrides_of(words: list[str]) -> list[str] | None:
    """What follows rsssl-run, or torchrun -m rsssl.run; None for another command."""
    if words[0] == "rsssl-run":
        return words[1:]
    return words[words.index("rsssl.run") + 1 :] if words[0] == "torchrun" else None


def kind(words: list[str]) -> frozenset[str]:
    """What a command does, apart from numbers and names: its flags, its task on what, and keys that change the way."""
    return frozenset(w if w.startswith(TOLD_APART) else w.partition("=")[0] for w in words if w.startswith(STRUCTURE))


def run_for_real() -> set[tuple[Path, tuple[str, ...]]]:
    """(page, words) of the commands that are run: of each kind the longest, and those whose product a page goes on
    with; with RSSSL_DOCS=all every one that is not marked. The others are composed, as they stand."""
    pages = {page: [block for block in blocks_of(page) if not block.note] for page in PAGES}
    commands = {p: [w for b in blocks if b.language == "shell" for w in b.commands] for p, blocks in pages.items()}
    everywhere = [(page, tuple(words)) for page, listed in commands.items() for words in listed]
    if os.environ.get("RSSSL_DOCS") == "all":
        return {*everywhere}
    longest = {kind([*words]): (page, words) for page, words in sorted(everywhere, key=lambda pair: len(pair[1]))}
    chosen = {*longest.values()}
    for page, listed in commands.items():
        python = " ".join(block.text for block in pages[page] if block.language == "python")
        for i, words in enumerate(listed):
            made = [w.partition("=")[2] for w in words if w.startswith(("out=", "hydra.run.dir=", "hydra.sweep.dir="))]
            later = [*(other for other in listed[i + 1 :] if (page, tuple(other)) in chosen), [python]]
            if any(name in word for name in made for other in later for word in other):
                chosen.add((page, tuple(words)))
    return chosen


def shrunk(words: list[str]) -> list[str]:
    """A command that does the same with two steps of a small network, a plain classifier, and two jobs of a sweep."""
    given = dict(word.split("=", 1) for word in words if "=" in word)
    task = given.get("task", "pipeline")
    if task not in TRAINING or {"--cfg", "--version", "--help"} & {*words}:
        return words
    some, swept, more = [], 0, list(SMALL)
    for word in words:
        several = "," in word and not re.search(r"[\[{]", word)
        some.append(",".join(word.split(",")[: 1 if swept else 2]) if several else word)
        swept += several
    if "evaluate" not in given and task in ("pipeline", "evaluate"):
        more += ["evaluate=ridge", "baselines=false"]
    if task == "map":
        more.append("baselines=false")
    if "dataset.labels" in given:
        more.append("dataset.block=80")
    if given.get("pretrain.epochs") not in ("1", "2", "3"):
        more += ["pretrain.epochs=null", "pretrain.steps=2"]
    if not {"checkpoint", "backbone", "backbone.name"} & given.keys() and given.get("start", "random") == "random":
        more += NETWORK
    if not {"checkpoint", "start"} & given.keys():
        more.append("start=random")
    if "dataset" not in given and task != "map":
        more += [f"dataset.generate.{key}" for key in ("per_class=12", "size=32", "scene_size=0")]
    return some + more


def kinds() -> np.ndarray:
    """(SIDE, SIDE) the class of each pixel of the scene: squares."""
    y, x = np.mgrid[:SIDE, :SIDE] // SQUARE
    return np.asarray((x + 2 * y) % 3)


def texture(kind: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """(3, h, w) uint8 pixels that show the class of each: stripes across, stripes down, or none."""
    y, x = np.mgrid[: kind.shape[0], : kind.shape[1]]
    waves = np.stack([np.sin(x / 1.5), np.sin(y / 4), np.zeros(kind.shape)])
    plane = 90 + 40 * np.take_along_axis(waves, kind[None], 0)[0] + 25 * kind
    return np.clip(plane + draw.normal(0, 8, (3, *kind.shape)), 1, 250).astype(np.uint8)


def make_imagery(folder: Path) -> None:
    """What the manual's commands read: tiles with and without labels, scenes, points drawn on one."""
    draw = np.random.default_rng(0)
    grid, bands = ((WEST, PIXEL, 0.0, NORTH, 0.0, -PIXEL), "EPSG:32632", None), ("red", "green", "blue")

    def tile(path: Path, kind: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_geotiff(path, texture(np.full((32, 32), kind), draw), *grid, bands)

    for i in range(30):
        for kind, name in enumerate(CLASSES):
            tile(folder / "my_tiles" / name / f"{i}.tif", kind)
        tile(folder / "my_unlabelled_tiles" / f"{2 * i}.tif", i % 3)
        tile(folder / "my_unlabelled_tiles" / f"{2 * i + 1}.tif", i % 2)
        if i < 5:
            tile(folder / "new_tiles" / f"{i}.tif", i % 3)
    write_geotiff(folder / "scene.tif", texture(kinds(), draw), *grid, bands)
    osr = import_gdal("the scene", "osr")
    srs = osr.SpatialReference()
    srs.ImportFromEPSG(32632)
    for name, n in (("points.gpkg", 12), ("other.gpkg", 8)):
        drawn = []
        for kind, called in enumerate(CLASSES):
            rows, cols = np.nonzero(kinds() == kind)
            inside = (np.abs(rows % SQUARE - 24) < 16) & (np.abs(cols % SQUARE - 24) < 16)
            for i in draw.choice(np.flatnonzero(inside), n, replace=False):
                place = (WEST + (cols[i] + 0.5) * PIXEL, NORTH - (rows[i] + 0.5) * PIXEL)
                drawn.append(Drawn(place, {"class": called}))
        write_features(folder / name, "labels", srs.ExportToWkt(), drawn)
