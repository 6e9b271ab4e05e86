"""Weights and images of different sensors: refused, or carried over in the way that was asked for."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import rsssl
from rsssl.data.pack import Pack
from rsssl.data.pool import Pool, Source
from rsssl.data.prepared import Data
from rsssl.data.split import split
from rsssl.errors import UserError
from rsssl.models.backbone import build_backbone, save_backbone
from rsssl.models.card import SensorCard
from rsssl.models.weights import adapt_bands
from rsssl.networks.checkpoints import from_file

NAME = "resnet10t"
MEAN, STD = (0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 0.8)


@pytest.fixture(scope="module")
def four_bands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights trained on four bands, with its card."""
    bands = ("blue", "green", "red", "nir")
    card = SensorCard("planet", bands, "uint16", (0.0,) * 4, (3000.0,) * 4, None, MEAN, STD, (), (48, 48))
    file = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    return save_backbone(
        build_backbone(NAME, 4, seed=1), file, {"card": json.dumps(card.to_dict()), "image_size": "48"}
    )


def with_card(pack: Pack, card: SensorCard) -> Pack:
    other = copy.copy(pack)
    other.card = card
    return other


def opened(pack: Pack, n_bands: int) -> Data:
    """The dataset as the tasks hold it, its card said to be of so many bands."""
    bands = tuple(f"b{i}" for i in range(n_bands))
    card = dataclasses.replace(
        pack.card,
        bands=bands,
        low=(0.0,) * n_bands,
        high=(1.0,) * n_bands,
        mean=(0.5,) * n_bands,
        std=(0.25,) * n_bands,
    )
    whole = with_card(pack, card)
    return Data(rsssl.dataset("folder", "somewhere"), whole, split(pack.paths, pack.labels, 0), card.mean, card.std)


@pytest.mark.parametrize("n_bands", [1, 3, 13])
def test_weights_of_other_bands_are_refused_by_name(
    four_bands: Path, packed: Callable[..., Pack], root: Path, n_bands: int
) -> None:
    with pytest.raises(UserError) as error:
        from_file(four_bands, opened(packed(root), n_bands))
    for part in ("trained on 4 bands (blue, green, red, nir)", f"folder has {n_bands}", "type dataset.select=[...]"):
        assert part in str(error.value)


def test_the_same_bands_in_another_order_are_refused(four_bands: Path, packed: Callable[..., Pack], root: Path) -> None:
    data = opened(packed(root), 4)
    for names, refused in ((("Blue", "Green", "Red", "NIR"), False), (("red", "green", "blue", "nir"), True)):
        card = dataclasses.replace(data.pack.card, bands=names)
        mixed = dataclasses.replace(data, pack=with_card(data.pack, card))
        if not refused:
            from_file(four_bands, mixed)
            continue
        with pytest.raises(UserError, match=r"dataset\.select=\[blue,green,red,nir\]"):
            from_file(four_bands, mixed)


def test_what_the_network_was_trained_with_comes_from_its_file(
    four_bands: Path, packed: Callable[..., Pack], root: Path
) -> None:
    """Size and statistics of the weights, not those of the images that are evaluated."""
    weights = from_file(four_bands, opened(packed(root), 4))
    preprocess = weights.preprocess
    assert (preprocess.size, preprocess.mean, preprocess.std) == (48, MEAN, STD)
    expected = build_backbone(NAME, 4, seed=1).state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in weights.build().state_dict().items())


def test_no_other_way_is_guessed() -> None:
    with pytest.raises(ValueError, match="random"):
        adapt_bands(torch.zeros(2, 4, 3, 3), 3, "random")


def test_datasets_of_different_bands_are_not_joined(packed: Callable[..., Pack], root: Path) -> None:
    pack = packed(root)
    other = opened(pack, 4).pack
    with pytest.raises(UserError, match=r"folder has 3 bands and folder has 4"):
        Pool([Source(pack, np.arange(2)), Source(other, np.arange(2))])
