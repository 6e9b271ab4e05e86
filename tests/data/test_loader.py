"""The pool and its batches: each image once an epoch, an order that depends on the key alone, sources kept apart."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rsssl
from rsssl.augment import Symmetry, Views, prepare
from rsssl.data.loader import PoolBatches, Sampling, prefetched
from rsssl.data.pack import Pack
from rsssl.data.packing import pack
from rsssl.data.pool import Pool, Source, signed, widened
from rsssl.errors import UserError
from rsssl.models.preprocess import Preprocess


def packed(folder: Path, n: int, size: int, bands: str = "RGB", seed: int = 0) -> Pack:
    rng = np.random.default_rng(seed)
    (folder / "images" / "a").mkdir(parents=True)
    for i in range(n):
        pixels = rng.integers(0, 256, (size, size, 3) if bands == "RGB" else (size, size), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / "a" / f"{i:03}.png")
    dataset = rsssl.dataset(
        name=folder.name, root=str(folder / "images"), bands=["r", "g", "b"] if bands == "RGB" else ["pan"]
    )
    pack(dataset, folder / "pack", workers=1)
    return Pack.open(folder / "pack")


def batches(pool: Pool, device: str = "cpu", size: int = 16, **changes: object) -> PoolBatches:
    arguments: dict = {"batch_size": 4, "epochs": 3, "seed": 0, "key": "split"}
    preprocess = Preprocess(pool.sources[0].pack.card, size, (0.5,) * 3, (0.25,) * 3)
    sampling = Sampling(**(arguments | changes))
    return PoolBatches(pool, Views(operations=[Symmetry()]), 2, preprocess, sampling, device)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return packed(tmp_path_factory.mktemp("one"), 11, 24)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return packed(tmp_path_factory.mktemp("two"), 6, 40, seed=1)


def test_every_epoch_is_another_permutation_and_the_cursor_is_the_whole_state(one: Pack) -> None:
    loader = batches(Pool([Source(one, np.arange(11))]))
    assert (loader.steps_per_epoch, loader.total_steps) == (2, 6)
    seen = [(b.epoch, b.ids.tolist()) for b in loader.start(0)]
    assert [e for e, _ in seen] == [0, 0, 1, 1, 2, 2]
    for epoch in range(3):
        ids = seen[2 * epoch][1] + seen[2 * epoch + 1][1]
        assert len(set(ids)) == 8 and set(ids) <= set(range(11))
    assert seen[0][1] != seen[2][1]
    later = batches(Pool([Source(one, np.arange(11))]))
    for whole, resumed in zip(list(loader.start(0))[3:], later.start(3), strict=True):
        assert whole.ids.tolist() == resumed.ids.tolist()
        assert all(torch.equal(a, b) for a, b in zip(whole.views, resumed.views, strict=True))


def test_the_order_depends_on_seed_and_split(one: Pack) -> None:
    pool = Pool([Source(one, np.arange(11))])
    first = next(batches(pool).start(0)).ids.tolist()
    assert first == next(batches(pool).start(0)).ids.tolist()
    assert first != next(batches(pool, seed=1).start(0)).ids.tolist()
    assert first != next(batches(pool, key="other").start(0)).ids.tolist()


def test_joined_sources_of_different_sizes_keep_their_images(one: Pack, two: Pack) -> None:
    """With no augmentation, sample i of a joined pool is exactly the image it stands for, resized."""
    pool = Pool([Source(one, np.array([2, 5, 7])), Source(two, np.array([0, 4]))])
    assert len(pool) == 5
    preprocess = Preprocess(one.card, 16, (0.5,) * 3, (0.25,) * 3)
    loader = PoolBatches(pool, Views(operations=[Symmetry(p=0.0)]), 1, preprocess, Sampling(5, 1, 0, "k"))
    batch = next(loader.start(0))
    where = [(one, 2), (one, 5), (one, 7), (two, 0), (two, 4)]
    for i, view in zip(batch.ids.tolist(), batch.views[0], strict=True):
        source, row = where[i]
        expected = prepare(torch.from_numpy(source.images[[row]]), preprocess.of(source.card))[0]
        torch.testing.assert_close(view, expected, atol=1e-5, rtol=0)


def test_images_held_in_a_devices_memory_give_the_same_batches(one: Pack, two: Pack) -> None:
    sources = [Source(one, np.array([2, 5, 7])), Source(two, np.array([0, 4, 5]))]
    held = Pool(sources)
    held.hold(torch.device("cpu"))
    assert held.held is not None and [len(x) for x in held.held] == [3, 3]
    for ours, expected in zip(batches(held).start(0), batches(Pool(sources)).start(0), strict=True):
        assert torch.equal(ours.ids, expected.ids) and torch.equal(ours.views, expected.views)


def test_an_accelerator_holds_images_where_the_training_leaves_room(one: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, cuda = Pool([Source(one, np.arange(10))]), torch.device("cuda")
    images = 10 * one.images[:1].nbytes
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * images, 99 * images))
    assert pool.fits(cuda) and pool.fits(cuda, 7.9 * images)
    assert not pool.fits(cuda, 8.1 * images) and not pool.fits(torch.device("cpu"))


def test_images_for_an_accelerator_are_read_into_pinned_memory(one: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    empty, asked = torch.empty, list[tuple[bool, torch.Tensor]]()

    def recorded(*shape: object, pin_memory: bool = False, **more: object) -> torch.Tensor:  # pinning needs a driver
        asked.append((pin_memory, empty(*shape, **more)))
        return asked[-1][1]

    monkeypatch.setattr(torch, "empty", recorded)
    ids = np.array([7, 0, 3])
    for device, pinned in (("cpu", False), ("cuda", True)):
        ((_, _, x),) = Pool([Source(one, np.arange(11))]).gather(ids, torch.device(device))
        assert asked[-1][0] is pinned and x is asked[-1][1]
        np.testing.assert_array_equal(x.numpy(), one.images[ids])


def test_16_bit_numbers_survive_the_way_to_a_device() -> None:
    array = np.array([0, 1, 32767, 32768, 65535], np.uint16)
    assert widened(torch.from_numpy(signed(array)), "uint16").tolist() == array.tolist()
    negative = np.array([-32768, -1, 5], np.int16)
    assert widened(torch.from_numpy(signed(negative)), "int16").tolist() == negative.tolist()


def test_rows_are_read_in_the_order_asked_for(one: Pack) -> None:
    rows = np.array([7, 0, 10, 3, 3])
    np.testing.assert_array_equal(one.read(rows), one.images[rows])
    assert one.read(rows[:0]).shape == (0, *one.images.shape[1:])


def test_a_file_that_became_shorter_is_an_error(tmp_path: Path) -> None:
    pack = packed(tmp_path, 3, 8)
    with open(pack.folder / "images.bin", "r+b") as file:
        file.truncate(8 * 8 * 3 * 2 + 5)
    assert len(pack.read(np.array([1]))) == 1
    with pytest.raises(OSError, match=r"shorter.*images\.bin"):
        pack.read(np.array([0, 2]))


def test_ranks_share_the_global_batch(one: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool([Source(one, np.arange(11))])
    whole = [batches(pool).ids(c)[1] for c in range(4)]
    parts = []
    for rank in range(2):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", str(rank))
        parts.append([batches(pool).ids(c)[1] for c in range(4)])
    for c in range(4):
        assert sorted(np.concatenate([parts[0][c], parts[1][c]])) == sorted(whole[c])


def test_a_batch_that_the_ranks_cannot_share_evenly_is_refused(one: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match=r"pretrain\.batch_size=3"):
        batches(Pool([Source(one, np.arange(11))]), batch_size=4)


def test_a_pool_smaller_than_a_batch_is_one_batch(one: Pack) -> None:
    loader = batches(Pool([Source(one, np.arange(3))]), batch_size=64)
    assert loader.batch_size == 3 and loader.steps_per_epoch == 1


def test_no_images_and_other_bands_are_refused(one: Pack, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="task=pack"):
        Pool([Source(one, np.arange(0))])
    grey = packed(tmp_path, 2, 24, bands="L")
    with pytest.raises(UserError, match=r"pretrain\.dataset="):
        Pool([Source(one, np.arange(2)), Source(grey, np.arange(2))])


def test_an_error_while_reading_ahead_reaches_the_loop() -> None:
    def items():  # type: ignore[no-untyped-def]
        yield 1
        raise OSError("disk gone")

    seen = []
    with pytest.raises(OSError, match="disk gone"):
        for item in prefetched(items()):
            seen.append(item)
    assert seen == [1]


def test_a_long_wait_for_images_is_said(caplog: pytest.LogCaptureFixture) -> None:
    def items():  # type: ignore[no-untyped-def]
        yield 1
        time.sleep(0.5)
        yield 2

    with caplog.at_level(logging.INFO):
        assert list(prefetched(items(), every=0.1)) == [1, 2]
    said = [record.message for record in caplog.records if "no images for" in record.message]
    assert 2 <= len(said) <= 5
