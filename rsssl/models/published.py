"""The weights that timm and torchvision publish for their networks, and how these expect images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rsssl.errors import UserError
from rsssl.models import classic
from rsssl.models.backbone import SMALL, create_timm, timm_name


@dataclass(frozen=True)
class Published:
    """Weights that timm or torchvision publish.

    Args:
        name: of the weights, as "resnet18.a1_in1k".
        mean: per band in units of 0 to 1, of the standardisation that they expect.
        std: per band in units of 0 to 1.
        size: pixels of a side that they were trained at.
        licence: of the weights.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    licence: str


def published_weights(name: str) -> Published | None:
    """What timm or torchvision say of the weights they publish for a network; None where they publish none.

    Args:
        name: of the network, with or without a tag of timm's, as "vit_small_patch14_dinov2.lvd142m".

    Raises:
        UserError: for a tag that timm does not know.
    """
    import timm

    if name in classic.NAMES:
        weights_name = f"{name.removesuffix(SMALL)} of torchvision"
        return Published(weights_name, *classic.STANDARDISATION[name], 224, "BSD-3-Clause")
    name = timm_name(name)
    network = name.split(".")[0]
    try:
        config = timm.models.get_pretrained_cfg(name) if timm.is_model(network) else None
    except RuntimeError as error:
        known = ", ".join(timm.list_pretrained(f"{network}.*"))
        raise UserError(f"timm knows no weights {name}: type start.tag= with one of {known}") from error
    if config is None or not config.has_weights:
        return None
    full_name = f"{config.architecture}.{config.tag}"
    return Published(
        full_name, tuple(config.mean), tuple(config.std), config.input_size[-1], config.license or "not said"
    )


def published_state(published: Published, name: str, kwargs: Mapping[str, Any], instead: str) -> dict[str, Tensor]:
    """Published weights, from the cache of timm or torchvision or fetched into it.

    Args:
        published: which.
        name: of the backbone.
        kwargs: its further arguments: a transformer's weights are fitted to its patches.
        instead: what to type where they cannot be had.

    Raises:
        UserError: when they cannot be had.
    """
    try:
        if name in classic.NAMES:
            return classic.torchvision_state(name.removesuffix(SMALL))
        return create_timm(published.name, 3, dict(kwargs), pretrained=True).state_dict()
    except UserError:
        raise
    except Exception as error:  # hubs, proxies and caches raise errors of many kinds
        raise UserError(
            f"the weights {published.name} are neither in the cache nor could they be fetched "
            f"({type(error).__name__}: {str(error).splitlines()[0]}): type the command once where there is a network "
            f"and copy the cache, or {instead}"
        ) from error
