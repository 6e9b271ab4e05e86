"""`task=suggest` from end to end, as a user types it, on small imagery made here."""

from __future__ import annotations

import csv
import dataclasses
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rsssl
from rsssl.data.pack import Pack
from rsssl.data.prepared import load
from rsssl.engine.store import Store
from rsssl.errors import UserError, typed
from rsssl.models.card import SensorCard
from rsssl.networks.bank import refuse_other_sensor
from rsssl.report.contact_sheet import COLUMNS, EDGE, GAP, HEAD, LINE, PAGE, SIDE, contact_sheet

NETWORK = ["ssl=none", "backbone=resnet18", "backbone.name=resnet10t", "start=random", "pretrain.image_size=32"]
HUES = {"red": (210, 40, 40), "green": (40, 190, 60), "blue": (50, 60, 220)}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 20 tiles, each of its class's colour and a little noise."""
    root = tmp_path_factory.mktemp("tiles")
    draw = np.random.default_rng(0)
    for name, hue in HUES.items():
        (root / name).mkdir()
        for i in range(20):
            noise = draw.integers(-25, 26, (32, 32, 1))
            Image.fromarray(np.clip(np.array(hue) + noise, 0, 255).astype(np.uint8)).save(
                root / name / f"{name}-{i}.png"
            )
    return root


@pytest.fixture(scope="module")
def flat(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same tiles in one folder without classes."""
    root = tmp_path_factory.mktemp("flat")
    for file in tiles.rglob("*.png"):
        os.link(file, root / file.name)
    return root


@pytest.fixture
def suggest(workshop) -> Callable[..., str]:
    """suggest(cwd, root, *arguments): what the command printed."""

    def run(cwd: Path, root: Path, *arguments: str, code: int = 0, ranks: int | None = None) -> str:
        more = {} if ranks is None else {"ranks": ranks}
        line = ["task=suggest", "dataset=folder", f"dataset.root={root}", "hydra.run.dir=run", *NETWORK, *arguments]
        return workshop.run(cwd, *line, exits=code, **more)

    return run


def table(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as text:
        return list(csv.DictReader(text))


def corner(number: int, lines: int) -> tuple[int, int]:
    """Where the thumbnail of a tile lies, from its number on the page."""
    x, y = number % COLUMNS, number // COLUMNS
    return EDGE + x * (SIDE + GAP), HEAD + y * (SIDE + LINE * (lines + 1) + GAP)


@pytest.mark.parametrize("by", ["typicality", "coverage"])
def test_tiles_without_classes(suggest: Callable[..., str], flat: Path, tmp_path: Path, by: str) -> None:
    text = suggest(tmp_path, flat, f"suggest.by={by}", "suggest.n=12")
    found = table(tmp_path / "run" / "suggest.csv")
    assert list(found[0]) == ["rank", "path", "score"] and [r["rank"] for r in found] == [str(i + 1) for i in range(12)]
    paths = [r["path"] for r in found]
    assert len(set(paths)) == 12 and all((flat / p).is_file() for p in paths)
    assert "suggest.csv" in text and "suggest.png" in text and "rsssl-run task=evaluate" in text
    assert (tmp_path / "run" / "config.yaml").is_file()
    sheet = Image.open(tmp_path / "run" / "suggest.png").convert("RGB")
    assert sheet.format is None and (tmp_path / "run" / "suggest.png").read_bytes()[1:4] == b"PNG"
    for number, path in enumerate(paths):  # every thumbnail has its tile's colours
        x, y = corner(number, 1)
        shown = np.asarray(sheet.crop((x, y, x + SIDE, y + SIDE))).reshape(-1, 3).mean(0)
        np.testing.assert_allclose(shown, np.asarray(Image.open(flat / path)).reshape(-1, 3).mean(0), atol=1.5)


def test_what_has_its_label_is_left_out_by_one_process_or_two(
    suggest: Callable[..., str], flat: Path, tmp_path: Path
) -> None:
    paths = sorted(os.listdir(flat))[::5]
    labelled = tmp_path / "labelled.csv"
    labelled.write_text("\ufeffclass,path\n" + "".join(f"{p.split('-')[0]},./{p}\n" for p in paths))
    again = ["suggest.n=20", f"suggest.labelled={labelled}", "out=lists/next.csv"]
    text = suggest(tmp_path, flat, *again)
    assert "from 48 without a label (12 have one)" in text
    second = (tmp_path / "lists" / "next.csv").read_bytes()
    more = [r["path"] for r in table(tmp_path / "lists" / "next.csv")]
    assert len(set(more)) == 20 and not set(more) & set(paths)
    assert (tmp_path / "lists" / "next.png").is_file()
    suggest(tmp_path, flat, *again, ranks=2)
    assert (tmp_path / "lists" / "next.csv").read_bytes() == second


def test_class_folders_and_a_classifier(suggest: Callable[..., str], workshop, tiles: Path, tmp_path: Path) -> None:
    workshop.run(
        tmp_path,
        "task=evaluate",
        "dataset=folder",
        f"dataset.root={tiles}",
        *NETWORK,
        "ts=2",
        "baselines=false",
        "hydra.run.dir=classifier",
    )
    suggest(tmp_path, tiles, "suggest.by=margin", "suggest.n=9", "checkpoint=classifier")
    found = table(tmp_path / "run" / "suggest.csv")
    assert list(found[0]) == ["rank", "path", "score", "class", "probability"] and len({r["path"] for r in found}) == 9
    scores = [float(r["score"]) for r in found]
    assert scores == sorted(scores, reverse=True) and {r["class"] for r in found} <= set(HUES)
    assert all(1 / 3 <= float(r["probability"]) <= 1 for r in found)

    # The fixed test set is never suggested: 48 of the 60 are all there are.
    suggest(tmp_path, tiles, "suggest.n=48")
    packed = load(rsssl.dataset("folder", tiles), Store(tmp_path / "store"), 1)
    pool = {packed.pack.paths[i] for i in packed.split.pool}
    assert {r["path"] for r in table(tmp_path / "run" / "suggest.csv")} == pool
    text = suggest(tmp_path, tiles, "suggest.n=49", code=2)
    assert "suggest.n=49 asks for more images than the 48 without a label: type suggest.n=48 or less" in text


@pytest.mark.parametrize(
    "value", ["a b/c", "/a=b/c", "it's/x", 'q"x', "end\\", 'b\\"c', "/é/[x],{y}", "plain/x.csv", "/a$b"]
)
def test_what_to_type_next_can_be_typed(value: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (word,) = shlex.split(typed("dataset.root", value))
    assert OverridesParser.create().parse_override(word).value() == value
    assert typed("out", "plain/x.csv") == "out=plain/x.csv"


def test_the_next_command_is_quoted(suggest: Callable[..., str], workshop, flat: Path, tmp_path: Path) -> None:
    (tmp_path / "my tiles").symlink_to(flat)
    text = suggest(tmp_path, flat, "dataset.root=my tiles", "suggest.n=2", "out=a list.csv")
    line = text.split("rsssl-run ")[-1].splitlines()[0]
    assert shlex.split(line) == [
        "task=suggest",
        "dataset=folder",
        'dataset.root="my tiles"',
        "ssl=none",
        "suggest.labelled=ALL_LABELLED.csv",
    ]


def test_another_sensor_is_refused() -> None:
    own = SensorCard(
        "s2", ("red", "nir"), "uint16", (0.0, 0.0), (3000.5, 4000.0), None, (0.4, 0.4), (0.2, 0.2), ("a",), (32, 32)
    )
    refuse_other_sensor(own, dataclasses.replace(own, bands=("Red", "NIR"), name="x"), "run")
    with pytest.raises(UserError, match=r"take uint16 and the card says uint8.*Type another checkpoint=DIR"):
        refuse_other_sensor(own, dataclasses.replace(own, dtype="uint8"), "run")
    with pytest.raises(
        UserError, match=r"goes from 0 to 3000.5.*'dataset.valid_range=\[\[0.0,3000.5\],\[0.0,4000.0\]\]'"
    ):
        refuse_other_sensor(own, dataclasses.replace(own, high=(255.0, 4000.0)), "run")
    with pytest.raises(UserError, match=r"in another order.*'dataset.select=\[red,nir\]'"):
        refuse_other_sensor(own, dataclasses.replace(own, bands=("nir", "red"), high=(4000.0, 3000.5)), "run")


def test_pages_of_an_earlier_run_go(tiles: Path, tmp_path: Path) -> None:
    packed = load(rsssl.dataset("x", tiles), Store(tmp_path / "store"), 1).pack
    for n, left in ((2 * PAGE + 1, ["a-2.png", "a-3.png", "a.png"]), (PAGE, ["a.png"])):
        contact_sheet(packed, np.arange(n) % 60, [["x"]] * n, "title", tmp_path / "a.png")
        assert sorted(f.name for f in tmp_path.glob("*.png")) == left
    contact_sheet(packed, np.arange(2), [["x"]] * 2, "another list", tmp_path / "a-2.png")
    contact_sheet(packed, np.arange(2), [["x"]] * 2, "title", tmp_path / "a.png")
    assert sorted(f.name for f in tmp_path.glob("*.png")) == ["a-2.png", "a.png"]


def test_what_is_refused(suggest: Callable[..., str], flat: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("path\nred-1.png\nelsewhere/red-1.png\n")
    text = suggest(tmp_path, flat, f"suggest.labelled={tmp_path}/bad.csv", "suggest.n=2", code=2)
    assert "line 3 names elsewhere/red-1.png, which is not a tile" in text and "for example blue-0.png" in text
    (tmp_path / "none.csv").write_text("file\nred-1.png\n")
    text = suggest(tmp_path, flat, f"suggest.labelled={tmp_path}/none.csv", "suggest.n=2", code=2)
    assert "has no column path, but file" in text
    assert "cannot be read" in suggest(tmp_path, flat, "suggest.labelled=gone.csv", "suggest.n=2", code=2)
    assert "type out=list.csv" in suggest(tmp_path, flat, "out=list.txt", code=2)
    assert "classifier" in suggest(tmp_path, flat, "suggest.by=margin", code=2)


def test_paths_below_a_folder_that_wraps_the_classes(suggest: Callable[..., str], tiles: Path, tmp_path: Path) -> None:
    (tmp_path / "archive" / "images").mkdir(parents=True)
    for name in HUES:
        (tmp_path / "archive" / "images" / name).symlink_to(tiles / name)
    suggest(tmp_path, tmp_path / "archive", "suggest.n=5")
    assert all((tmp_path / "archive" / r["path"]).is_file() for r in table(tmp_path / "run" / "suggest.csv"))
    suggest(tmp_path, tmp_path / "archive", "suggest.n=5", "suggest.labelled=run/suggest.csv", "out=next.csv")


def test_a_sheet_has_pages_and_shows_numbers_of_any_range(tiles: Path, tmp_path: Path) -> None:
    """Tiles of four bands in reflectance, dark ones and bright ones: red, green and blue are found by name."""
    from rsssl.data.raster import write_geotiff

    (tmp_path / "scenes").mkdir()
    for i in range(4):
        values = np.full((4, 24, 16), 300 + 900 * i, np.uint16)
        values[2, :8] = 3500  # the third band, red, on top
        write_geotiff(tmp_path / "scenes" / f"{i}.tif", values)
    bands = ["B02", "B03", "B04", "B08"]
    packed: Pack = load(
        rsssl.dataset("x", tmp_path / "scenes", bands=bands, valid_range=[0, 10000]),
        Store(tmp_path / "store"),
        1,
    ).pack
    rows = np.arange(PAGE + 3) % 4
    files = contact_sheet(packed, rows, [[packed.paths[i] * 9] for i in rows], "a title " * 40, tmp_path / "sheet.png")
    assert [f.name for f in files] == ["sheet.png", "sheet-2.png"]
    sheet = np.asarray(Image.open(files[0]), int)
    x, y = corner(0, 1)
    assert sheet[y + 10, x + SIDE // 2].tolist() == [
        255,
        0,
        0,
    ]  # the brightest number in red, the darkest in the others
    assert sheet[y + SIDE - 10, x + SIDE // 2].tolist() == [0, 0, 0]
    greys = [sheet[y + SIDE - 10, corner(i, 1)[0] + SIDE // 2] for i in range(4)]
    assert all(len(set(g.tolist())) == 1 for g in greys) and [g[0] for g in greys] == sorted(g[0] for g in greys)
    assert Image.open(files[1]).size[1] < Image.open(files[0]).size[1] // 4
