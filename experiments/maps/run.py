"""How good a map is beside the tiles its classifier was tested on: scenes of the built-in imagery with known truth.

    rsssl-run dataset=synthetic ssl=simclr backbone=resnet18 start=random pretrain.average=0 \\
      pretrain.epochs=12 evaluate=linear ts=100 hydra.run.dir=runs/maps
    python experiments/maps/run.py --checkpoint runs/maps [--scenes 10] [--size 2048]

Scenes have patches of 128, 256 and 512 pixels; a patch is drawn as a tile is. Windows overlap by a half,
tile by tile and with the fully convolutional short cut. Prints the table, and writes every row to
results.csv in the scratch folder.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np
import torch

from rsssl.data.raster import write_geotiff
from rsssl.data.synthetic import CRS, GSD, scene
from rsssl.geo.scene import Scene
from rsssl.geo.windows import Blender, Layout
from rsssl.networks.load import find_classifier
from rsssl.networks.mapper import Mapper, read_ahead

WAYS = ((32, False), (32, True))  # stride, fully convolutional
PATCHES = (128, 256, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--patches", type=int, nargs="+", default=PATCHES)
    parser.add_argument("--scratch", type=Path, default=Path("runs/maps/scenes"))
    args = parser.parse_args()
    tested = json.loads((args.checkpoint / "results.json").read_text())
    print(f"tiles: {100 * tested['oa']:.1f} % of {tested['n_test']} test tiles")
    rows = []
    for patch in args.patches:
        for seed in range(args.scenes):
            rows += [{"patch": patch, "seed": seed} | row for row in one(args, patch, seed)]
        summary(rows, patch)
        with open(args.scratch / "results.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def one(args: argparse.Namespace, patch: int, seed: int) -> list[dict[str, float]]:
    """A row for each way of mapping one scene."""
    args.scratch.mkdir(parents=True, exist_ok=True)
    file = args.scratch / "scene.tif"
    image, truth = scene(3, args.size, 1000 + seed, patch)  # seeds that no tile was drawn with
    write_geotiff(file, image, (500_000.0, GSD, 0.0, 5_500_000.0, 0.0, -GSD), CRS, None, ("red", "green", "blue"))
    rows = []
    for stride, fast in WAYS:
        classifier = find_classifier(args.checkpoint)
        opened = Scene(file, classifier.card)
        mapper = Mapper(classifier, torch.device("cpu"), classifier.window, stride, 128, fast)
        layout = Layout(*opened.size, classifier.window, stride)
        begin = time.perf_counter()
        head = args.scratch / "head"
        head.unlink(missing_ok=True)
        mapper.learn(opened, layout, head)
        parts = {
            i: mapper.block(b, region)
            for i, b, region in read_ahead(opened, layout, list(range(np.prod(layout.blocks))))
        }
        seconds = time.perf_counter() - begin
        made = Blender(layout, parts.__getitem__, len(classifier.classes), 255).blend(0, 0, *opened.size)
        grid = np.concatenate(
            [
                np.concatenate(
                    [parts[r * layout.blocks[1] + c].probabilities.argmax(-1) for c in range(layout.blocks[1])], 1
                )
                for r in range(layout.blocks[0])
            ]
        )
        rows.append(
            {
                "stride": stride,
                "fast": fast,
                "map": float((made.classes == truth).mean()),
                "pure_windows": pure(grid, truth, classifier.window, stride),
                "seconds": seconds,
            }
        )
    return rows


def pure(found: np.ndarray, truth: np.ndarray, window: int, stride: int) -> float:
    """The share of windows that are right, of those that lie in one patch: tiles, cut out of the scene."""
    windows = np.lib.stride_tricks.sliding_window_view(truth, (window, window))[::stride, ::stride]
    one_class = (windows == windows[..., :1, :1]).all((2, 3))
    right = found[: one_class.shape[0], : one_class.shape[1]] == windows[..., 0, 0]
    return float(right[one_class].mean()) if one_class.any() else float("nan")


def summary(rows: list[dict[str, float]], patch: int) -> None:
    for stride, fast in WAYS:
        chosen = [r for r in rows if (r["patch"], r["stride"], r["fast"]) == (patch, stride, fast)]
        maps, windows = (100 * np.array([r[k] for r in chosen]) for k in ("map", "pure_windows"))
        way, seconds = "fast" if fast else "tile by tile", np.mean([r["seconds"] for r in chosen])
        print(
            f"patches of {patch} px, stride {stride}, {way}: map {maps.mean():.1f} +- {maps.std():.1f} %, "
            f"pure windows {np.nanmean(windows):.1f} %, {seconds:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
