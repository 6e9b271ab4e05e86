"""Two augmented, standardised views of every image, per second: lightly, kornia, torchvision and torchgeo as their
documentation has them, and ours from the pack.

Where the peer reads files, so did we, once: the pack's time is in the note. `--repeats` repeats, ours and theirs in
turn.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness import Bench, Figure, attempts, in_turn, seconds

CONF = Path(__file__).resolve().parents[2] / "conf"
VIEWS, WARM_UP = 2, 2  # views of an image; batches that are not timed
COMMON = "Two views: crop and resize, flip, colour jitter with hue, grayscale, Gaussian blur (p 0.5), standardised."


def figures(bench: Bench) -> Iterator[Figure]:
    import torch

    torch.set_num_threads(bench.threads)
    yield from attempts(bench, lightly_folder, kornia_batches, torchvision_224, torchgeo_13_bands)


# Ours ----------------------------------------------------------------------------------------------------------------


@cache
def packed(data: Path, scratch: Path, name: str) -> tuple[Any, float]:
    """(the pack of a dataset of `conf/dataset`, the seconds it took), made once a process."""
    from omegaconf import OmegaConf

    import rsssl
    from rsssl.data.pack import pack

    fields = OmegaConf.load(CONF / "dataset" / f"{name}.yaml")
    config = OmegaConf.create({"paths": {"data": str(data)}, "dataset": fields})
    arguments = {k: v for k, v in OmegaConf.to_container(config, resolve=True)["dataset"].items() if k != "_target_"}
    start = time.perf_counter()
    found = pack(rsssl.dataset(**arguments), scratch / name, progress=False)
    return found, time.perf_counter() - start


def ours(pack: Any, policy: str, size: int, batch: int, n: int) -> Callable[[], float]:
    """Measures images per second of `n` batches through the loader that pre-training uses."""
    import numpy as np
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from rsssl.data.chunks import mean_std
    from rsssl.data.loader import PoolBatches, Sampling
    from rsssl.data.pool import Pool, Source
    from rsssl.models.preprocess import Preprocess

    views = instantiate(OmegaConf.load(CONF / "augment" / f"{policy}.yaml"))
    pool = Pool([Source(pack, np.arange(len(pack)))])
    epochs = (WARM_UP + n) * batch // len(pool) + 2
    mean, std = (tuple(v.tolist()) for v in mean_std(pack.moments))
    preprocess = Preprocess(pack.card, size, mean, std)
    batches = PoolBatches(pool, views, VIEWS, preprocess, Sampling(batch, epochs, 0, "benchmark"))

    def measure() -> float:
        with closing(batches.start(0)) as loader:
            return rate(loader, batches.batch_size, n)

    return measure


def rate(batches: Iterable[Any], size: int, n: int) -> float:
    """Images per second over `n` batches of `size` images, after the warm-up."""
    source = iter(batches)
    for _ in range(WARM_UP):
        next(source)
    return n * size / seconds(lambda: sum(1 for _ in itertools.islice(source, n)))


def bound(bench: Bench, pack: Any, size: int, batch: int, policy: str) -> dict[str, Any]:
    """Images per second if the arithmetic of a policy, or the least traffic of its passes, were all there is.

    Operations a pixel and band of a view: resampling by two taps an axis 8, the matrix of all linear colour changes
    2 C + 2; with augment=simclr also hue 13 (at three bands) and a blur of a tenth of the view along both axes for half
    of the views. Traffic: the stored image read once, the float32 views written once.
    """
    bands, side = pack.card.n_bands, pack.card.size[0]
    each = 8 + 2 * bands + 2
    if policy == "simclr":
        each += (13 if bands == 3 else 0) + 2 * max(3, round((size / 10 - 1) / 2) * 2 + 1)
    flops = VIEWS * batch * bands * size * size * each
    moved = batch * bands * (side * side * pack.images.dtype.itemsize + VIEWS * size * size * 4)
    return {
        "bound": batch / max(flops / bench.flops, moved / bench.bytes),
        "bound_by": f"the larger of {flops / 1e9:.2f} GFLOP a batch ({each} operations a pixel and band of a view) at "
        f"{bench.flops / 1e9:.0f} GFLOP/s, {1e3 * flops / bench.flops:.1f} ms, and {moved / 1e6:.0f} MB a batch "
        f"(stored pixels read once, float32 views written once) at {bench.bytes / 1e9:.1f} GB/s, "
        f"{1e3 * moved / bench.bytes:.1f} ms; gathers, comparisons and changes of type, which are half "
        "of the work, are not in it",
    }


def least(bench: Bench, n: int) -> int:
    """`n` batches; two in a smoke test."""
    return 2 if bench.quick else n


# Theirs --------------------------------------------------------------------------------------------------------------


def from_loader(dataset: Any, batch: int, n: int, workers: int, then: Callable[[Any], object] = lambda x: x) -> float:
    """Images per second out of torch's DataLoader, each batch passed through `then`.

    Drawn with replacement, so that a small folder lasts for as many batches as are timed.
    """
    from torch.utils.data import DataLoader, RandomSampler

    sampler = RandomSampler(dataset, replacement=True, num_samples=(WARM_UP + n) * batch)
    return rate(map(then, DataLoader(dataset, batch, sampler=sampler, num_workers=workers)), batch, n)


def lightly_folder(bench: Bench) -> Iterator[Figure]:
    """two views, 64 px, against lightly"""
    from lightly.data import LightlyDataset
    from lightly.transforms import SimCLRTransform

    pack, took = packed(bench.data, bench.scratch, "eurosat_rgb")
    transform = SimCLRTransform(input_size=64, gaussian_blur=0.5)
    dataset = LightlyDataset(str(bench.data / "EuroSAT_RGB"), transform=transform)
    theirs = partial(from_loader, dataset, 256, least(bench, 16), bench.threads)
    for policy, what, asked in (("simclr", "SimCLR's policy", 10), ("rs", "our default policy", 18)):
        measured = in_turn(ours(pack, policy, 64, 256, least(bench, 40)), theirs, bench.repeats)
        note = {"simclr": COMMON, "rs": "Ours has no hue, grayscale and blur, by choice (augment=rs); theirs as above."}
        yield Figure(
            f"two views, 64 px, {what}",
            f"lightly {version('lightly')}, {bench.threads} workers",
            "images/s",
            *measured,
            asked,
            True,
            **bound(bench, pack, 64, 256, policy),
            note=f"{note[policy]} Batches of 256. lightly: SimCLRTransform on LightlyDataset, decoding the JPEGs (page "
            f"cache warm). Ours: from the pack, which took {took:.0f} s for {len(pack):,} images, once, and is not "
            "counted.",
        )


def kornia_batches(bench: Bench) -> Iterator[Figure]:
    """two views, 64 px, against kornia"""
    import kornia.augmentation as K
    import numpy as np
    import torch

    pack, _ = packed(bench.data, bench.scratch, "eurosat_rgb")
    augment = K.AugmentationSequential(
        K.RandomResizedCrop((64, 64), scale=(0.08, 1.0)),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((7, 7), (0.1, 2.0), p=0.5),
        K.Normalize(torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])),
        data_keys=["input"],
    )
    rows = np.random.default_rng(0).permutation(len(pack))[:256]
    x = torch.from_numpy(np.array(pack.images[np.sort(rows)])).float() / 255

    @torch.no_grad()
    def theirs() -> float:
        n = least(bench, 8)
        return rate(((augment(x), augment(x)) for _ in range(WARM_UP + n)), 256, n)

    measured = in_turn(ours(pack, "simclr", 64, 256, least(bench, 40)), theirs, bench.repeats)
    yield Figure(
        "two views, 64 px, whole batches",
        f"kornia {version('kornia')}, {bench.threads} threads",
        "images/s",
        *measured,
        8,
        True,
        **bound(bench, pack, 64, 256, "simclr"),
        note=f"{COMMON} kornia: a float32 batch of 256 that lies in memory, two calls. Ours: the batch's bytes read "
        "from the pack as well.",
    )


class InMemory:
    """Images (N, C, H, W) uint8, two views of one as a pair; a torch dataset at the module's top: it can be pickled."""

    def __init__(self, images: Any, transform: Callable[[Any], Any]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        return self.transform(self.images[i]), self.transform(self.images[i])


def torchvision_224(bench: Bench) -> Iterator[Figure]:
    """two views, 224 px from 256 px, against torchvision"""
    import numpy as np
    import torch
    from torchvision.transforms import v2

    pack, _ = packed(bench.data, bench.scratch, "nwpu_resisc45")
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(224, scale=(0.08, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], p=0.5),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    dataset = InMemory(torch.from_numpy(np.array(pack.images)), transform)
    theirs = partial(from_loader, dataset, 64, least(bench, 8), bench.threads)
    measured = in_turn(ours(pack, "simclr", 224, 64, least(bench, 12)), theirs, bench.repeats)
    yield Figure(
        "two views, 224 px from 256 px",
        f"torchvision {version('torchvision')} v2, {bench.threads} workers",
        "images/s",
        *measured,
        10,
        True,
        **bound(bench, pack, 224, 64, "simclr"),
        note=f"{COMMON} {len(pack)} NWPU images as uint8 in memory for both, so that decoding is not compared; batches "
        "of 64. torchvision: transforms.v2 on uint8 tensors, blur of 23 px.",
    )


def torchgeo_13_bands(bench: Bench) -> Iterator[Figure]:
    """two views, 64 px, 13 bands, against torchgeo and kornia"""
    import kornia.augmentation as K
    import torch
    from torchgeo.datamodules.eurosat import MEAN, STD
    from torchgeo.datasets import EuroSAT
    from torchgeo.trainers.simclr import simclr_augmentations

    pack, took = packed(bench.data, bench.scratch, "eurosat_ms")
    dataset = EuroSAT(str(torchgeo_folder(bench)), split="train", checksum=False)
    standardise = K.AugmentationSequential(
        K.Normalize(torch.tensor([MEAN[b] for b in dataset.bands]), torch.tensor([STD[b] for b in dataset.bands])),
        data_keys=["input"],
    )
    augment = simclr_augmentations(64, torch.ones(len(dataset.bands)))

    @torch.no_grad()
    def two_views(batch: dict[str, Any]) -> tuple[Any, Any]:
        x = standardise(batch["image"])
        return augment(x), augment(x)

    theirs = partial(from_loader, dataset, 64, least(bench, 8), bench.threads, two_views)
    measured = in_turn(ours(pack, "simclr", 64, 64, least(bench, 40)), theirs, bench.repeats)
    yield Figure(
        "two views, 64 px, 13 bands",
        f"torchgeo {version('torchgeo')} + kornia {version('kornia')}, {bench.threads} workers",
        "images/s",
        *measured,
        8,
        True,
        **bound(bench, pack, 64, 64, "simclr"),
        note=f"{len(dataset)} GeoTIFFs of EuroSAT MS, batches of 64. torchgeo: its EuroSAT dataset (reads the files, "
        "page cache warm), its data module's standardisation and its SimCLR trainer's augmentations, twice. Ours: "
        f"augment=simclr from the pack, which took {took:.1f} s, once, and is not counted.",
    )


def torchgeo_folder(bench: Bench) -> Path:
    """The folder that torchgeo's EuroSAT asks for, of links to our files, all of them in its training split."""
    from torchgeo.datasets import EuroSAT

    root = bench.scratch / "torchgeo"
    files = sorted((bench.data / "EuroSAT_MS").glob("*/*.tif"))
    for file in files:
        link = root / EuroSAT.base_dir / file.parent.name / file.name
        link.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(file, link)
    (root / EuroSAT.split_filenames["train"]).write_text("".join(f"{file.stem}.jpg\n" for file in files))
    return root
