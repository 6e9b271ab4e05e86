"""Packs in object storage against the same packs on this machine: content, splits, batches, trainings."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import rsssl
from rsssl.augment import Symmetry, Views
from rsssl.data import prepared, remote
from rsssl.data.finished import FinishedPack
from rsssl.data.loader import PoolBatches, Sampling
from rsssl.data.order import BlockOrder
from rsssl.data.pack import Pack
from rsssl.data.packing import pack
from rsssl.data.packs import join
from rsssl.data.pool import Pool, Source
from rsssl.data.rows import Marked, Run, before, bitmap
from rsssl.engine.store import Store
from rsssl.engine.tracking import read_metrics
from rsssl.errors import UserError
from rsssl.models.preprocess import Preprocess
from rsssl.rng import fold

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
TILE = 16 * 16 * 3


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block for each tile, so that 72 of them are two groups; no waiting."""
    monkeypatch.setattr("rsssl.data.remote_file.BLOCK", TILE)
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))


@pytest.fixture
def local(served: Any, tiles: Path) -> Pack:
    """The pack of the 72 tiles, which the server serves as /pack."""
    return pack(rsssl.dataset("folder", root=str(tiles)), served.folder / "pack", workers=1, progress=False)


def store_in(folder: Path, gigabytes: float = 1.0) -> Store:
    return Store(folder / "store", (str(folder / "cache"), gigabytes))


def loaded(root: str, folder: Path, **fields: Any) -> prepared.Data:
    dataset = rsssl.dataset("pack", root=root, **fields)
    dataset.check()
    return prepared.load(dataset, store_in(folder), 1)


def test_a_pack_over_http_is_the_pack(served: Any, local: Pack, tmp_path: Path) -> None:
    there, here = (loaded(root, tmp_path) for root in (f"{served.url}/pack", str(local.folder)))
    assert there.pack.remote and not here.pack.remote
    rows = np.random.default_rng(0).permutation(72)
    assert np.array_equal(there.pack.read(rows), local.images[rows])
    assert there.split.hash == here.split.hash and np.array_equal(there.split.pool, here.split.pool)
    assert (there.mean, there.std) == (here.mean, here.std)
    assert list(there.pack.paths) == list(local.paths) and np.array_equal(there.pack.labels, local.labels)
    assert there.pack.card == local.card and there.pack.fingerprint == local.fingerprint
    assert len([r for r in served.ranges if r[0] == "images.bin"]) == 72
    served.ranges.clear()
    again = loaded(f"{served.url}/pack", tmp_path)  # another process: all is here
    assert np.array_equal(again.pack.read(rows), local.images[rows]) and served.ranges == []


def test_many_packs_over_http_are_one_dataset(served: Any, written: Callable[..., Pack], tmp_path: Path) -> None:
    for k, n in enumerate((4, 1, 7)):
        names = [f"{k}/{i}.png" for i in range(n)]
        written(served.folder / "whole" / f"part-{k:05d}", names, np.arange(n) % 2, ("a", "b"))
    whole = join(served.folder / "whole", "source", "/root")
    there = loaded(f"{served.url}/whole", tmp_path).pack
    rows = np.random.default_rng(0).permutation(12)
    assert np.array_equal(there.read(rows), whole.read(rows))
    assert list(there.paths) == list(whole.paths) and np.array_equal(there.moments, whole.moments)
    assert there.remote and np.array_equal(there.block_rows(), [0, 4, 5])  # 48 bytes a tile: 16 of them in a block
    with pytest.raises(TypeError, match=r"read\(\)"):
        _ = there.images


def test_another_pack_at_the_same_address_is_noticed(
    served: Any, local: Pack, written: Callable[..., Pack], tmp_path: Path
) -> None:
    first = loaded(f"{served.url}/pack", tmp_path).pack
    first.read(np.arange(10))
    (served.folder / "pack").rename(served.folder / "old")
    other = written(served.folder / "pack", [f"{i}.png" for i in range(9)], np.arange(9) % 2, ("a", "b"))
    there = loaded(f"{served.url}/pack", tmp_path).pack
    assert there.fingerprint == other.fingerprint and np.array_equal(there.read(np.arange(9)), other.images)
    with pytest.raises(UserError, match=r"block 60 is not what was packed|bytes came|images\.bin cannot be read"):
        first.read(np.array([60]))  # the training that has opened the first one


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: os.truncate(f / "images.bin", 1000), r"images\.bin has 1000 bytes, not 55296: copy the pack"),
        (lambda f: os.truncate(f / "ids.bin", 100), r"ids\.bin cannot be read .*100 of 576 bytes came"),
        (lambda f: (f / "ids.bin").write_bytes(bytes(576)), r"ids\.bin is not what was packed: its checksum differs"),
        (lambda f: (f / "names.bin").unlink(), r"names\.bin is not there"),
        (lambda f: (f / "card.json").unlink(), r"card\.json is not there: type the address of a finished pack"),
        (lambda f: (f / "card.json").write_text("{}"), r"card\.json is damaged.*copy the pack there again"),
    ],
)
def test_a_pack_that_was_not_copied_whole_is_refused(
    damage: Callable[[Path], object], words: str, served: Any, local: Pack, tmp_path: Path
) -> None:
    damage(local.folder)
    with pytest.raises(UserError, match=words):
        loaded(f"{served.url}/pack", tmp_path)
    assert list((tmp_path / "store").glob("pack/*/done.json")) == []


def test_a_file_that_is_spoilt_on_its_way_is_fetched_again(served: Any, local: Pack, tmp_path: Path) -> None:
    served.faults += ["wrong"]
    there = loaded(f"{served.url}/pack", tmp_path).pack
    assert not served.faults and np.array_equal(there.paths.ids(), local.paths.ids())
    assert np.array_equal(there.moments, local.moments) and list(there.paths) == list(local.paths)


def test_pixels_that_changed_are_never_given_out(served: Any, local: Pack, tmp_path: Path) -> None:
    there = loaded(f"{served.url}/pack", tmp_path).pack
    content = bytearray((local.folder / "images.bin").read_bytes())
    content[5 * TILE + 7] ^= 1
    (local.folder / "images.bin").write_bytes(content)
    good = np.delete(np.arange(72), 5)
    assert np.array_equal(there.read(good), local.images[good])
    with pytest.raises(UserError, match="block 5 is not what was packed: its checksum differs"):
        there.read(np.arange(72))


def test_what_a_finished_pack_cannot_be_asked_for(local: Pack, tmp_path: Path) -> None:
    for key, value in {"size": 32, "bands": ["r"], "classes": [], "valid_range": [0, 1]}.items():
        with pytest.raises(UserError, match=rf"dataset\.{key}=.*leave dataset\.{key} out"):
            rsssl.dataset("pack", root=str(local.folder), **{key: value}).check()
    with pytest.raises(UserError, match=r"type dataset\.root=DIR or dataset\.root=s3"):
        rsssl.dataset("pack").located()
    with pytest.raises(UserError, match="is no finished pack"):
        rsssl.dataset("pack", root=str(tmp_path)).located()
    with pytest.raises(UserError, match=r"dataset\.block=100 needs to know where the tiles lie"):
        loaded(str(local.folder), tmp_path, block=100)
    assert isinstance(rsssl.dataset("pack", root="s3://bucket/pack"), FinishedPack)
    with pytest.raises(UserError, match=r"paths\.cache_gb=0\.0001 is too small"):
        file = local.folder.as_uri()
        prepared.load(rsssl.dataset("pack", root=file), store_in(tmp_path, 1e-4), 1)


def test_positions_of_rows() -> None:
    """How many rows lie before a bound: of lists, runs and bitmaps, counted one by one."""
    mask = np.random.default_rng(0).random(3000) < 0.3
    bounds = np.concatenate([np.arange(0, 3000, 37), [511, 512, 513, 2999]])
    expected = [int(mask[:b].sum()) for b in bounds]
    bits = bitmap(iter([mask]))
    for rows in (np.flatnonzero(mask), Marked(bits, 3000, True), Marked(bitmap(iter([~mask])), 3000, False)):
        assert before(rows, bounds).tolist() == expected
    assert before(Run(500, 900), bounds).tolist() == [min(max(b - 500, 0), 400) for b in bounds.tolist()]


def batches(pool: Pool, epochs: int = 2) -> PoolBatches:
    preprocess = Preprocess(pool.sources[0].pack.card, 16, (0.5,) * 3, (0.25,) * 3)
    return PoolBatches(pool, Views(operations=[Symmetry()]), 2, preprocess, Sampling(6, epochs, 0, "split"))


@pytest.fixture
def pools(served: Any, local: Pack, tmp_path: Path) -> tuple[Pool, Pool]:
    """The same 70 tiles, over the network and here."""
    rows = np.delete(np.arange(72), [3, 40])
    there = loaded(f"{served.url}/pack", tmp_path).pack
    return Pool([Source(there, rows)]), Pool([Source(local, rows)])


def test_batches_come_group_by_group_and_their_images_are_right(pools: tuple[Pool, Pool], served: Any) -> None:
    there, here = pools
    assert here.block_starts is None and there.block_starts is not None
    assert there.block_starts.tolist() == list(range(71))
    loader = batches(there)
    order = [BlockOrder(fold("split", 0, "order", epoch), there.block_starts) for epoch in (0, 1)]
    served.ranges.clear()
    for number, batch in enumerate(loader.start(0)):
        epoch, k = divmod(number, 11)
        assert batch.epoch == epoch and batch.ids.tolist() == order[epoch][6 * k : 6 * k + 6].tolist()
        expected = batches(here).again(epoch, batch.ids.numpy(), number)
        assert torch.equal(batch.views, expected.views)
    starts = [start for _, start, _ in served.ranges]
    assert sorted(starts) == [TILE * row for row in here.sources[0].indices]  # each once, for both epochs


def test_two_ranks_share_each_batch(pools: tuple[Pool, Pool], monkeypatch: pytest.MonkeyPatch) -> None:
    loader = batches(pools[0])
    whole = [loader.ids(number)[1] for number in range(22)]
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    parts = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        parts.append([batches(pools[0]).ids(number)[1] for number in range(22)])
    assert all(np.array_equal(np.concatenate(both), all_) for *both, all_ in zip(*parts, whole, strict=True))


def test_few_blocks_are_in_the_usual_order(served: Any, local: Pack, tmp_path: Path) -> None:
    there, rows = loaded(f"{served.url}/pack", tmp_path).pack, np.arange(60)
    pool = Pool([Source(there, rows)])
    assert pool.block_starts is None
    assert np.array_equal(batches(pool).ids(3)[1], batches(Pool([Source(local, rows)])).ids(3)[1])


COMMAND = """
import rsssl.data.remote_file
import rsssl.data.remote
rsssl.data.remote_file.BLOCK = {block}
rsssl.data.remote.WAITS = (0.01, 0.01, 0.01)
sys.argv = ["rsssl-run", "task=pretrain", "dataset=pack", "dataset.root={root}", "ssl=simclr", "pretrain.steps={steps}",
    "backbone.name=resnet10t", "+backbone.kwargs.channels=[8,16,32,64]", "start=random", "pretrain.batch_size=8",
    "pretrain.image_size=16", "pretrain.checkpoint_minutes=0", "pretrain.log_every=1",
    "pretrain.probes=0", "pretrain.pictures=0",
    "paths.store={store}", "dataset.test_fraction=0"]
rsssl.run.main()
"""


def weights(store: Path) -> dict[str, torch.Tensor]:
    (file,) = store.glob("pretrain/*/backbone.safetensors")
    return load_file(file)


def losses(store: Path) -> list[float]:
    (file,) = store.glob("pretrain/*/metrics.csv")
    return [float(row["value"]) for row in read_metrics(file) if row["name"] == "loss"]


def test_a_training_over_the_network_that_is_killed_and_one_of_two_ranks_end_as_if_nothing_had_happened(
    workshop: Any, served: Any, local: Pack, tmp_path: Path
) -> None:
    """Killed, while the server fails again and again; the cache is damaged meanwhile."""
    settings = {"block": TILE, "root": f"{served.url}/pack", "steps": 14}
    workshop.run(tmp_path, code=COMMAND.format(**settings, store=tmp_path / "whole"))
    killed, kills = tmp_path / "killed", 0
    code = COMMAND.format(**settings, store=killed)
    while not list(killed.glob("pretrain/*/done.json")):
        served.faults += ["503", "truncate", "wrong"] if kills else []
        (pid,) = workshop.start(tmp_path, code=code)
        if kills < 1:
            before_ = {f.name for f in killed.glob("pretrain/*/checkpoint-*.json")}
            deadline = time.monotonic() + 60
            while {f.name for f in killed.glob("pretrain/*/checkpoint-*.json")} <= before_:
                assert time.monotonic() < deadline, workshop.log.read_text()[-3000:]
                time.sleep(0.005)
            os.kill(pid, signal.SIGKILL)
        (exit_code,) = workshop.wait()
        assert exit_code in (0, -signal.SIGKILL), workshop.log.read_text()[-3000:]
        kills += exit_code != 0
        for path in list(killed.glob("blocks/*/*"))[:5]:
            path.write_bytes(b"rubbish")
    assert kills == 1
    a, b = weights(tmp_path / "whole"), weights(killed)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    (inputs,) = killed.glob("pretrain/*/done.json")
    assert json.loads(inputs.read_text())["inputs"]["order"] == "blocks"

    served.ranges.clear()
    served.faults.clear()
    workshop.run(tmp_path, code=COMMAND.format(**settings, store=tmp_path / "two"), ranks=2)
    starts = [start for name, start, _ in served.ranges if name == "images.bin"]
    assert sorted(starts) == sorted(set(starts)) and len(starts) > 48, "two ranks fetch each block once"
    assert losses(tmp_path / "two")[:6] == pytest.approx(losses(tmp_path / "whole")[:6], rel=3e-3)


def test_a_pack_in_s3(bucket: Any, local: Pack, tmp_path: Path) -> None:
    bucket.put(str(local.folder) + "/", "tiles/pack/", recursive=True)
    there = loaded("s3://tiles/pack", tmp_path).pack
    rows = np.random.default_rng(0).permutation(72)
    assert np.array_equal(there.read(rows), local.images[rows])
    with pytest.raises(UserError, match=r"s3://tiles/nothing/card\.json is not there"):
        loaded("s3://tiles/nothing", tmp_path)
    bucket.rm("tiles/pack/images.bin")
    with pytest.raises(UserError, match=r"images\.bin is not there"):
        loaded("s3://tiles/pack", tmp_path / "elsewhere")
