"""Names and folders that people really have: other alphabets, limits of the file system, links that lead nowhere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rsssl
from rsssl.data.pack import Pack
from rsssl.data.packing import pack
from rsssl.data.scan import scan
from rsssl.data.split import labelled_subset, split
from rsssl.errors import UserError
from rsssl.evaluation.metrics import confusion, scores
from rsssl.jobs import configured

Packed = Callable[..., Pack]
NAMES = [
    "plain.png",
    "with space.png",
    "  .png",
    "tab\there.png",
    "new\nline.png",
    "quote'\".png",
    "$(rm -rf x);`.png",
    "-n.png",
    "日本語.png",
    "река́.png",
    "e\u0301.png",
    "\u00e9.png",
    "\U0001f30d.png",
    "a" * 251 + ".png",
    "%s{0}.png",
    "A.png",
    "a.png",
    "a.PNG",
    "a.Png",
    os.fsdecode(b"latin-1 \xe9.png"),
    "back\\slash.png",
]


def picture(path: Path, value: int) -> None:
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path, "png")


@pytest.mark.parametrize("workers", [1, 2])
def test_any_name_is_packed_under_its_own_name(tmp_path: Path, workers: int) -> None:
    value: dict[str, int] = {}
    for folder in ("été ", "\U0001f6f0 & ruины"):
        (tmp_path / "tiles" / folder).mkdir(parents=True)
        for name in NAMES:
            value[f"{folder}/{name}"] = len(value)
            picture(tmp_path / "tiles" / folder / name, value[f"{folder}/{name}"])
    several = 8 * 8 * 3 * 4  # bytes of a chunk: there are many, and some are a worker's
    pack(rsssl.dataset("folder", str(tmp_path / "tiles")), tmp_path / "pack", workers, chunk_bytes=several)
    whole = Pack.open(tmp_path / "pack")  # what the disk holds, not what memory does
    assert set(whole.paths) == set(value) and whole.card.classes == ("été ", "\U0001f6f0 & ruины")
    for path, label, image in zip(whole.paths, whole.labels, whole.images, strict=True):
        assert (image == value[path]).all() and whole.card.classes[label] == path.split("/")[0]
    parts = split(whole.paths, whole.labels, 0)
    assert len(parts.test) == 8 and len(labelled_subset(whole.labels, whole.paths, parts.pool, 5, 0)) == 10


def test_paths_as_long_as_the_system_allows(packed: Packed, tmp_path: Path) -> None:
    deep = tmp_path / "tiles" / "one"
    while len(str(deep)) < 3700:
        deep /= "d" * 180
    deep.mkdir(parents=True)
    picture(deep / ("n" * 200 + ".png"), 7)
    (tmp_path / "tiles" / "two").mkdir()
    picture(tmp_path / "tiles" / "two" / "b.png", 9)
    whole = packed(tmp_path / "tiles")
    assert len(whole.paths[0]) > 3600 and [int(i.max()) for i in whole.images] == [7, 9]
    shutil.rmtree(tmp_path / "tiles" / "one" / ("d" * 180))


def test_links_that_loop(root: Path) -> None:
    """To itself, to its parent, to each other: every image once for each name it has, and an end."""
    (root / "field" / "self").symlink_to(root / "field")
    (root / "field" / "up").symlink_to(root)
    (root / "water" / "across").symlink_to(root / "field")
    catalog = scan(root)
    own = [p for p in catalog.paths if p.count("/") == 1]
    assert len(own) == 12 and len(set(catalog.paths)) == len(catalog.paths) <= 48
    assert max(p.count("/") for p in catalog.paths) <= 3


@pytest.mark.parametrize(("suffix", "target"), [("jpg", "gone"), ("tif", "gone"), ("jpg", "bad.jpg")])
def test_a_link_that_leads_nowhere_is_named(packed: Packed, root: Path, suffix: str, target: str) -> None:
    """Of a collection of links to a disk that is not there, nothing is left out in silence."""
    (root / "field" / f"bad.{suffix}").symlink_to(target)
    (root / "field" / "itself").symlink_to("itself")
    with pytest.raises(
        UserError, match=rf"field/bad\.{suffix} cannot be used: cannot be read \((No such file|Too many levels)"
    ):
        packed(root)
    kept = packed(root, on_error="skip")
    assert len(kept) == 12 and list(kept.skipped) == [f"field/bad.{suffix}"]


def test_names_that_differ_in_capitals_only(root: Path, tmp_path: Path) -> None:
    """Two folders of a dataset's official class are refused; without official names each is a class of its own."""
    (root / "Water").mkdir()
    picture(root / "Water" / "0.jpg", 3)
    with pytest.raises(UserError, match=r"class water: Water, water"):
        scan(root, ["field", "water"])
    assert scan(root).classes == ("Water", "field", "water") and len(scan(root)) == 13


def test_an_empty_class_folder(packed: Packed, root: Path) -> None:
    (root / "nothing").mkdir()
    with pytest.raises(UserError, match=r"nothing holds no image.*rmdir"):
        packed(root)
    (root / "nothing" / "notes.txt").write_text("no image either")
    with pytest.raises(UserError, match=r"nothing holds no image"):
        packed(root)


def test_no_class_is_tested_that_is_not_trained(packed: Packed, root: Path) -> None:
    """A class of one image and one whose images are all unusable: neither is tested, counted or predicted."""
    for name, n in (("rare", 1), ("ruined", 3)):
        (root / name).mkdir()
        for i in range(n):
            picture(root / name / f"{i}.png", 10)
    for file in (root / "ruined").iterdir():
        file.write_bytes(b"")
    whole = packed(root, on_error="skip")
    parts = split(whole.paths, whole.labels, 0)
    used = labelled_subset(whole.labels, whole.paths, parts.pool, 1, 0)
    assert whole.card.classes == ("field", "rare", "ruined", "water")
    assert set(whole.labels[parts.test]) == {0, 3} and set(whole.labels[used]) == {0, 1, 3}
    features = torch.randn(len(whole), 6, generator=torch.Generator().manual_seed(0))
    probe = configured("evaluate", "ridge").fit(features[used], torch.from_numpy(whole.labels[used]), 4, seed=0)
    predicted = probe.scores(features).argmax(1).numpy()
    assert 2 not in predicted
    found = scores(confusion(whole.labels[parts.test], predicted[parts.test], 4))
    recalls = [
        (predicted[parts.test] == whole.labels[parts.test])[whole.labels[parts.test] == c].mean() for c in (0, 3)
    ]
    assert found["aa"] == pytest.approx(np.mean(recalls))
    assert np.isnan(found["per_class"]).tolist() == [False, True, True, False]
