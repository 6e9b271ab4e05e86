"""Folders to images and classes."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

import rsssl
from rsssl.data.scan import scan
from rsssl.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_one_folder_is_one_class(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.tif", "a/1.JPG", "b/deep/er/3.png", "a/notes.txt", "a/.hidden.jpg", ".git/x.jpg")
    catalog = scan(tmp_path)
    assert catalog.classes == ("a", "b")
    assert tuple(catalog.paths) == ("a/1.JPG", "b/2.tif", "b/deep/er/3.png")
    assert catalog.labels.tolist() == [0, 1, 1] and catalog.labels.dtype == np.int64


def test_official_names_match_in_any_spelling_and_keep_their_order(tmp_path: Path) -> None:
    touch(tmp_path, "storage tanks/1.jpg", "AIRPORT/1.jpg", "dense_residential/1.jpg")
    catalog = scan(tmp_path, ["DenseResidential", "Airport", "Park", "StorageTanks"])
    assert catalog.classes == ("DenseResidential", "Airport", "StorageTanks")
    by_path = dict(zip(catalog.paths, catalog.labels.tolist(), strict=True))
    assert by_path == {"AIRPORT/1.jpg": 1, "dense_residential/1.jpg": 0, "storage tanks/1.jpg": 2}


def test_lettered_names_of_rsscn7(tmp_path: Path) -> None:
    touch(tmp_path, "aGrass/1.jpg", "dRiverLake/1.jpg")
    assert scan(tmp_path, ["Grass", "Field", "RiverLake"]).classes == ("Grass", "RiverLake")


def test_an_unofficial_folder_becomes_a_class_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "river/1.jpg", "residential/1.jpg", "docs/readme.txt")
    with caplog.at_level(logging.WARNING):
        catalog = scan(tmp_path, ["dense_residential", "river"])
    assert catalog.classes == ("river", "residential")
    assert "residential" in caplog.text and "dense_residential" in caplog.text


def test_the_wrong_card_is_refused_and_the_right_one_named(tmp_path: Path) -> None:
    rsscn7 = ("aGrass", "bField", "cIndustry", "dRiverLake", "eForest", "fResident", "gParking")
    touch(tmp_path, *(f"{name}/1.jpg" for name in rsscn7))
    uc_merced = ["agricultural", "beach", "forest", "river", "runway"]
    with pytest.raises(UserError, match=r"Only 1 folder .*It looks like dataset=rsscn7\."):
        scan(tmp_path, uc_merced)
    touch(tmp_path, *(f"other/{name}/1.jpg" for name in ("x", "y", "river")))
    with pytest.raises(UserError, match=r"Only 1 folder (?!.*looks like)"):
        scan(tmp_path / "other", uc_merced)


@pytest.mark.parametrize("wrapping", ["EuroSAT", "ds/images/tif", "__MACOSX/../2750"])
def test_folders_around_the_classes_are_followed(tmp_path: Path, wrapping: str) -> None:
    (tmp_path / "__MACOSX").mkdir()
    touch(tmp_path / wrapping, "River/1.jpg", "Forest/1.jpg")
    touch(tmp_path, "readme.txt")
    for classes in (["Forest", "River"], None):
        catalog = scan(tmp_path, classes)
        assert tuple(catalog.paths) == ("Forest/1.jpg", "River/1.jpg")


def test_images_without_folders_are_unlabelled(tmp_path: Path) -> None:
    touch(tmp_path, "1.tif", "2.tif")
    catalog = scan(tmp_path)
    assert catalog.classes == () and catalog.labels.tolist() == [-1, -1]


def test_no_classes_makes_any_tree_unlabelled(tmp_path: Path) -> None:
    touch(tmp_path, "2020/1.tif", "2021/05/2.tif", "3.tif")
    assert scan(tmp_path, []).labels.tolist() == [-1, -1, -1]


def test_symbolic_links_that_loop_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    assert tuple(scan(tmp_path).paths) == ("a/1.jpg", "b/1.jpg")


def test_a_link_to_a_folder_above_packs_no_class_twice(tmp_path: Path) -> None:
    """Straight up, by way of another folder, and from one that is linked; links to other places are followed."""
    touch(tmp_path, "root/a/1.jpg", "root/b/1.jpg", "far/2.jpg", "far/deep/3.jpg", "spare/4.jpg")
    root = tmp_path / "root"
    (root / "a" / "up").symlink_to("..")
    (root / "a" / "top").symlink_to(tmp_path)
    (root / "c").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "deep" / "back").symlink_to(root)
    (tmp_path / "far" / "deep" / "out").symlink_to(tmp_path)
    (root / "b" / "5.jpg").symlink_to(tmp_path / "spare" / "4.jpg")
    for start in (root, tmp_path / "typed"):
        if start != root:
            start.symlink_to(root)
        catalog = scan(start)
        assert tuple(catalog.paths) == ("a/1.jpg", "b/1.jpg", "b/5.jpg", "c/2.jpg", "c/deep/3.jpg")
        assert catalog.labels.tolist() == [0, 1, 1, 2, 2]


def test_the_order_is_that_of_the_bytes_whatever_the_file_system_says(tmp_path: Path) -> None:
    names = [f"c/{n}.jpg" for n in ("b", "B", "a", "10", "9", "é", "z")]
    touch(tmp_path, *names)
    assert tuple(scan(tmp_path).paths) == tuple(sorted(names, key=lambda n: n.encode()))


def test_a_missing_root_says_where_to_put_what_and_what_to_type(tmp_path: Path) -> None:
    dataset = rsssl.dataset(
        "aid", root=str(tmp_path / "AID"), classes=["Airport", "Beach"], homepage="https://example.org/aid"
    )
    with pytest.raises(UserError) as error:
        dataset.catalog()
    for part in (str(tmp_path / "AID"), "Airport/", "dataset.root=", "https://example.org/aid"):
        assert part in str(error.value)


def test_no_class_of_the_dataset_at_all(tmp_path: Path) -> None:
    touch(tmp_path, "cats/1.jpg", "dogs/1.jpg")
    with pytest.raises(UserError, match=r"cats, dogs.*dataset=folder"):
        scan(tmp_path, ["River", "Forest"])


def test_two_folders_for_one_class(tmp_path: Path) -> None:
    touch(tmp_path, "River/1.jpg", "river_/1.jpg")
    with pytest.raises(UserError, match=r"River, river_"):
        scan(tmp_path, ["River"])


def test_the_listing_notices_a_change_and_only_a_change(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg")
    before = scan(tmp_path).listing()
    assert scan(tmp_path).listing() == before
    (tmp_path / "a/1.jpg").write_bytes(b"yy")
    assert scan(tmp_path).listing() != before
