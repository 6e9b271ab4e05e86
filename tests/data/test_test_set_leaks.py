"""Images that are tested on are not pre-trained on, by whatever name or way the same folder is reached."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from rsssl.compose import Composer, composed, option
from rsssl.data.prepared import load
from rsssl.engine.store import Store
from rsssl.networks.plan import datasets
from rsssl.objects import task_of


@pytest.mark.parametrize("way", ["itself", "a link", "a relative path", "twice", "another folder"])
def test_the_test_set_stays_out_of_the_pre_training(
    root: Path, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(root)
    (tmp_path / "other").mkdir()
    for i, file in enumerate(sorted(root.rglob("*.jpg"))):
        (tmp_path / "other" / f"{i}.jpg").write_bytes(file.read_bytes())
    ways = {
        "itself": str(root),
        "a link": str(tmp_path / "link"),
        "a relative path": os.path.join("other", "..", root.name),
        "twice": [str(root), str(tmp_path / "link")],
        "another folder": str(tmp_path / "other"),
    }
    with Composer() as composer:
        cfg = composed(composer, ["dataset=rsscn7", "pretrain.dataset=folder"])
        cfg.dataset.root, cfg.dataset.classes, cfg.pretrain.root = str(root), ["field", "water"], ways[way]
        cfg.dataset.split_seed, cfg.dataset.test_fraction = 5, 0.34  # what the other name knows nothing of
        cfg.pretrain.dataset = ["folder"] * 2 if way == "twice" else "folder"
        task, run = task_of(cfg, "pipeline"), SimpleNamespace(option=lambda group, name: option(group, name, {}))
        chosen = datasets(task, task.dataset, run)  # type: ignore[arg-type]
        store = Store(tmp_path / "store")
        evaluated = load(task.dataset, store, 1)
        trained_on = [load(config, store, 1) for config in chosen]
    tested = {evaluated.pack.images[i].tobytes() for i in evaluated.split.test}
    seen = {part.pack.images[i].tobytes() for part in trained_on for i in part.split.pool}
    assert len(tested) == 4 and len(trained_on) == (2 if way == "twice" else 1)
    if way == "another folder":  # copies elsewhere cannot be told by their path: this is how a leak would show here
        assert tested < seen and len(seen) == 12
    else:
        assert not tested & seen and len(seen) == 8
