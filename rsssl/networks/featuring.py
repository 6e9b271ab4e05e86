"""Features of images from anywhere: a folder, a list of paths, or arrays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsssl.errors import UserError
from rsssl.networks.images import listed, read_one
from rsssl.networks.load import load_backbone
from rsssl.networks.network import SceneNetwork
from rsssl.networks.pixels import as_batch


def features_of(network: Any, images: Any, batch_size: int) -> tuple[np.ndarray, list[str]]:
    """Features (N, D) float32, and the paths of the images. See `rsssl.features`."""
    loaded = network if isinstance(network, SceneNetwork) else load_backbone(network)
    paths: list[str] = []
    if isinstance(images, str | os.PathLike):
        root, names = listed(Path(images).expanduser())
        paths = [str(root / name) for name in names]
    elif isinstance(images, list | tuple) and images and all(isinstance(i, str | os.PathLike) for i in images):
        paths = [os.fspath(i) for i in images]
    source = paths or as_batch(images, loaded.card)
    device = next(loaded.backbone.parameters()).device
    parts: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(source), batch_size):
            batch = source[start : start + batch_size]
            x = read_all(batch, loaded) if isinstance(batch, list) else batch
            parts.append(loaded.features(loaded.input(x.to(device))).cpu())
    return torch.cat(parts).numpy() if parts else np.zeros((0, 0), np.float32), paths


def read_all(paths: list[str], network: SceneNetwork) -> Tensor:
    """Images (B, C, H, W) in the form of the network's own.

    Raises:
        UserError: for the first that cannot be used.
    """
    images = [read_one(Path(path), network.card, None) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if isinstance(image, str):
            raise UserError(f"{path} cannot be used: {image}. Leave it out, or type its bands in the card's order")
    return torch.from_numpy(np.stack(images))  # type: ignore[arg-type]
