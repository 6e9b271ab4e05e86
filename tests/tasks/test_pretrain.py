"""What a pre-training works out before it starts: which images, at which size."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsssl.engine.store import Store
from rsssl.errors import UserError
from rsssl.models.backbone import build_backbone
from rsssl.models.maps import check_size
from rsssl.networks.checkpoints import find_checkpoint
from rsssl.networks.plan import draw
from rsssl.networks.training import stage_size, try_size
from rsssl.networks.weights import network_name


def parts(*pools: list[int]) -> list[Any]:
    return [SimpleNamespace(split=SimpleNamespace(pool=np.array(p))) for p in pools]


@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_the_images_drawn_are_that_many_distinct_ones_of_the_pools(a: int, b: int, data: st.DataObject) -> None:
    pools = [list(range(0, 3 * a, 3)), list(range(100, 100 + b))]
    n = data.draw(st.integers(1, a + b))
    chosen = draw(parts(*pools), n, seed=0)
    assert sum(len(c) for c in chosen) == n
    for c, pool in zip(chosen, pools, strict=True):
        assert set(c.tolist()) <= set(pool) and len(set(c.tolist())) == len(c)
    assert all(np.array_equal(x, y) for x, y in zip(chosen, draw(parts(*pools), n, seed=0), strict=True))


def test_another_seed_draws_other_images_and_too_many_is_refused() -> None:
    pool = list(range(1000))
    assert not np.array_equal(draw(parts(pool), 100, 0)[0], draw(parts(pool), 100, 1)[0])
    assert draw(parts(pool), None, 0)[0].tolist() == pool
    with pytest.raises(UserError, match=r"pretrain\.images=null"):
        draw(parts(pool), 1001, 0)


def test_the_resolution_schedule_steps_where_it_says() -> None:
    at = stage_size(64, [(0.5, 0.25), (0.8, 0.5)])
    assert [at(s, 100) for s in (0, 49, 50, 79, 80, 99)] == [16, 16, 32, 32, 64, 64]
    assert stage_size(64, [])(0, 10) == 64
    assert stage_size(65, [(1.0, 0.5)])(9, 10) == 32, "sizes stay even"
    assert stage_size(20, [(1.0, 0.1)])(0, 10) == 16, "no smaller than 16 pixels"
    assert stage_size(144, [(1.0, 0.5)], multiple=16)(0, 10) == 64, "whole patches of a transformer"
    assert stage_size(8, [(1.0, 0.5)])(0, 10) == 8, "never larger than the images"


def test_a_transformer_says_which_sizes_it_takes() -> None:
    transformer = SimpleNamespace(patch_embed=SimpleNamespace(patch_size=(16, 16)))
    check_size(transformer, 64, "pretrain.image_size")  # type: ignore[arg-type]
    check_size(SimpleNamespace(), 75, "image_size")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"pretrain\.image_size=144"):
        check_size(transformer, 150, "pretrain.image_size")  # type: ignore[arg-type]


def test_a_network_says_that_the_first_images_are_too_small() -> None:
    convnext = build_backbone("convnext_atto", 3)
    try_size(convnext, 3, 32)
    assert convnext.training
    with pytest.raises(UserError, match=r"images of 16 pixels.*pretrain\.progressive=\[\]"):
        try_size(convnext, 3, 16)


def test_a_checkpoint_is_the_file_named_or_the_only_one_there(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    kept = store.root / "pretrain" / "0123456789abcdef"
    kept.mkdir(parents=True)
    for name in (kept / "backbone.safetensors", tmp_path / "a.safetensors", tmp_path / "backbone.safetensors"):
        name.write_bytes(b"")
    run = tmp_path / "run"
    run.mkdir()
    (run / "results.json").write_text(json.dumps({"pretrain": {"folder": str(kept)}}))
    assert find_checkpoint(str(tmp_path / "a.safetensors"), store) == tmp_path / "a.safetensors"
    for path in (str(run), str(kept), kept.name):
        assert find_checkpoint(path, store) == kept / "backbone.safetensors"
    with pytest.raises(UserError, match="holds 2 weights files"):
        find_checkpoint(str(tmp_path), store)
    with pytest.raises(UserError, match="checkpoint=DIR"):
        find_checkpoint(str(tmp_path / "nothing"), store)


def test_networks_that_differ_have_names_that_differ() -> None:
    def name(size: int, native: int, **spec: Any) -> str:
        network = {"name": "resnet18", "kwargs": {}} | spec
        weights = SimpleNamespace(spec=network, preprocess=SimpleNamespace(size=size))
        return network_name(weights, native)  # type: ignore[arg-type]

    assert name(64, 64) == name(64, 64, depths=1) == name(224, 600) == "resnet18"
    assert name(64, 64, depths=3) == "resnet18 depths=3"
    assert (
        name(32, 64, kwargs={"patch_size": 8, "global_pool": "avg"}) == "resnet18 global_pool=avg patch_size=8 at 32 px"
    )
