"""The statistics of the bands: against numpy, image by image, and a classifier that looks at nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from rsssl.augment import prepare
from rsssl.evaluation.heads import LinearHead
from rsssl.models.backbone import build_backbone
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import as_it_is
from rsssl.models.statistics import band_statistics
from rsssl.networks.network import SceneNetwork

CARD = SensorCard(
    name="made up",
    bands=("a", "b"),
    dtype="uint16",
    low=(0.0, 100.0),
    high=(1000.0, 600.0),
    nodata=None,
    mean=(0.25, 0.75),
    std=(0.1, 0.1),
    classes=("low", "high"),
    size=(6, 6),
)


def images(n: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1200, (n, 2, 6, 6)).astype(np.uint16)


def statistics_of(x: np.ndarray, card: SensorCard = CARD) -> np.ndarray:
    return band_statistics(prepare(torch.from_numpy(x), as_it_is(card))).numpy()


def test_equals_numpy() -> None:
    x = images()
    got = statistics_of(x)
    assert got.shape == (20, 8) and got.dtype == np.float32
    for row, image in zip(got, x, strict=True):
        a = np.clip(image[0] / 1000, 0, 1)
        b = np.clip((image[1] - 100.0) / 500, 0, 1)
        want = [a.mean(), b.mean(), a.std(), b.std(), a.min(), b.min(), a.max(), b.max()]
        np.testing.assert_allclose(row, want, atol=1e-5)


def test_what_is_missing_is_as_the_bands_mean() -> None:
    x = images(2)
    x[0, 0, :2] = 0
    x[0, 1] = 0  # a band without a valid pixel
    got = statistics_of(x, dataclasses.replace(CARD, nodata=0.0))
    v = np.where(x[0, 0] == 0, 0.25, np.clip(x[0, 0] / 1000, 0, 1))
    np.testing.assert_allclose(got[0, ::2], [v.mean(), v.std(), v.min(), v.max()], atol=1e-5)
    np.testing.assert_allclose(got[0, 1::2], [0.75, 0.0, 0.75, 0.75], atol=1e-6)


def test_a_classifier_that_looks_at_them_alone_does_not_ask_its_network() -> None:
    backbone = build_backbone("resnet10t", 2)
    width: int = backbone.num_features  # type: ignore[assignment]
    weight = torch.zeros(2, width + 8)
    weight[1, width] = 7.0  # the first band's mean
    network = SceneNetwork(backbone, as_it_is(CARD), LinearHead(weight, torch.zeros(2)))
    asked = []
    backbone.register_forward_hook(lambda *_: asked.append(1))
    x = images(4)
    want = 1 / (1 + np.exp(-7 * np.clip(x[:, 0] / 1000, 0, 1).mean((1, 2))))
    np.testing.assert_allclose(network(x)[:, 1], want, rtol=1e-5)
    assert not asked
    weight[0, 3] = 0.1
    SceneNetwork(backbone, as_it_is(CARD), LinearHead(weight, torch.zeros(2)))(x)
    assert asked, "one that looks at the network too asks it"
