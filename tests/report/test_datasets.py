"""Datasets are told apart by where their images lie and how they were split."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from rsssl.report.command import main
from rsssl.report.datasets import shortest
from tests.report.made_up import markdown_table, scores, write_run


def of_root(root: str, fingerprint: str, **more: str) -> dict:
    return {"dataset": "folder", "data": {"root": root, "fingerprint": fingerprint}} | more


def datasets(folder: Path) -> set[str]:
    lines = csv.DictReader(io.StringIO((folder / "report.csv").read_text()))
    return {line["dataset"] for line in lines}


def test_two_roots_are_two_datasets_in_table_figures_and_files(tmp_path: Path) -> None:
    write_run(tmp_path / "a", **of_root("/data/first", "f1"), **scores(0.9, 1))
    write_run(tmp_path / "b", **of_root("/data/second", "f2"), split_hash="t" * 16, **scores(0.4, 2))
    assert main([str(tmp_path)]) == 0
    assert datasets(tmp_path) == {"folder (first)", "folder (second)"}
    text = (tmp_path / "report.md").read_text()
    assert "folder stands for 2 datasets (first: /data/first; second: /data/second)." in text
    assert "not comparable" not in text
    assert text.count("**") == 4, "each is the best of its own"
    assert {p.name for p in tmp_path.glob("confusion*")} == {
        "confusion_folder_first_.png",
        "confusion_folder_second_.png",
    }
    roots = {line["dataset_root"] for line in csv.DictReader(io.StringIO((tmp_path / "report.csv").read_text()))}
    assert roots == {"/data/first", "/data/second"}


def test_the_same_images_in_another_place_are_one_dataset(tmp_path: Path) -> None:
    write_run(tmp_path / "a", **of_root("/data/tiles", "same"), seed=0)
    write_run(tmp_path / "b", **of_root("/mnt/copy", "same"), seed=1)
    write_run(tmp_path / "c", **of_root("/data/tiles", "resized"), seed=2)
    main([str(tmp_path), "--no-figures"])
    assert datasets(tmp_path) == {"folder"}
    assert markdown_table(tmp_path)["simclr"]["ts=5"].endswith("(3)**")


def test_one_root_split_in_two_ways_is_shown_apart(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"a{seed}", **of_root("/data/x", "f"), split_hash="1" * 16, seed=seed)
    write_run(tmp_path / "b", **of_root("/data/x", "f"), split_hash="2" * 16, seed=0)
    write_run(tmp_path / "c", **of_root("/data/x", "f"), split_hash="3" * 16, protocol="validation")
    main([str(tmp_path), "--no-figures"])
    assert datasets(tmp_path) == {"folder (split 11111111)", "folder (split 22222222)", "folder"}
    text = (tmp_path / "report.md").read_text()
    assert "split in different ways under protocol=clean (split_hash 11111111, 22222222): shown apart" in text
    assert "(2)" in text and "repeated" not in text, "a seed of each split counts"


def test_older_results_join_those_of_their_split(tmp_path: Path) -> None:
    write_run(tmp_path / "a", **of_root("/data/first", "f1"), split_hash="1" * 16)
    write_run(tmp_path / "b", **of_root("/data/second", "f2"), split_hash="2" * 16)
    write_run(tmp_path / "old", dataset="folder", split_hash="2" * 16, seed=1)
    write_run(tmp_path / "unknown", dataset="folder", split_hash="3" * 16)
    main([str(tmp_path), "--no-figures"])
    assert datasets(tmp_path) == {"folder (first)", "folder (second)", "folder"}
    assert "older results, which do not say" in (tmp_path / "report.md").read_text()


def test_roots_are_named_by_what_tells_them_apart() -> None:
    assert shortest(["/a/2019/tiles", "/a/2020/tiles", "/b/other"]) == {
        "/a/2019/tiles": "2019/tiles",
        "/a/2020/tiles": "2020/tiles",
        "/b/other": "other",
    }
    assert shortest(["/tiles", "/a/tiles"]) == {"/tiles": "/tiles", "/a/tiles": "a/tiles"}
