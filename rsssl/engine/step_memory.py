"""The memory of a training's largest step, known before the first one; and what is done where it does not fit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.engine import distributed, memory
from rsssl.engine.device import autocast
from rsssl.engine.ranks import local_world_size
from rsssl.errors import UserError
from rsssl.models.fused import is_fused
from rsssl.models.parts import in_parts, mixes_images

log = logging.getLogger(__name__)
PEAK = 1.3  # of a step's memory to what its forward pass keeps for the backward pass: 1.25 to 1.32 were measured
PEAK_FUSED = 1.7  # the same of networks with fused convolutions, which keep less: 1.45 to 1.7 were measured
KEPT = 4  # a trained parameter, its gradient, and the optimizer's two moments
MARGIN = 0.9  # of the memory that is free
SEEN = 2.5  # of the memory of an image on its way through a network to what its largest layer takes and gives

SIZES = {"pretrain": "pretrain.image_size=", "finetune": "image_size="}  # the key that says how large views are

BatchOf = Callable[[int], Batch]  # the batch of the largest step, with so many images


def fit_into_memory(
    model: nn.Module, backbone: nn.Module, batch_of: BatchOf, images: int, device: torch.device, keys: str
) -> tuple[int, int | None]:
    """Makes a training's largest step fit into memory; where it is too large as a whole, in parts.

    Args:
        model: `forward(batch)` gives the loss.
        backbone: the model's network, which may be made to work in parts.
        batch_of: makes batches of the largest step.
        images: of a step, on this rank.
        device: where the step is computed.
        keys: the group of the keys that are named to the user: "pretrain" or "finetune".

    Returns:
        The bytes of the step, and how many views go through the network together where not all can.

    Raises:
        UserError: when it does not fit into memory, whatever is done.
    """
    fixed = sum(p.numel() * p.element_size() * (KEPT if p.requires_grad else 1) for p in model.parameters())
    whole, views = kept_for_an_image(model, backbone, batch_of, images, device)
    free = min(distributed.collect(free_for(device)))
    peak = PEAK_FUSED if is_fused(backbone) else PEAK
    need = int(fixed + peak * whole * images)
    log.info(f"a step takes up to {need / 1e9:.1f} GB, of {free / 1e9:.1f} GB that are free")
    if need <= free:
        return need, None
    if views and not mixes_images(backbone):
        in_parts(backbone, 1)
        outside, _ = kept_for_an_image(model, backbone, batch_of, images, device)  # of the network: what is beside it
        of_a_view = peak * (whole - outside) / views
        rows = min(int((free - fixed - peak * outside * images) / of_a_view), int(images * views) // 2)
        if rows >= 1:
            in_parts(backbone, rows)
            log.info(
                f"so {rows} views at a time go through the network, twice: the gradient is that of the whole batch"
            )
            return int(fixed + peak * outside * images + of_a_view * rows), rows
    fitting, (n_views, *_, size) = int((free - fixed) / (peak * whole)), batch_of(1).views.shape
    what = f"{keys}.batch_size={fitting}" if fitting > 1 else f"a smaller {SIZES[keys]} or another backbone="
    raise UserError(
        f"a step of {images} images x {n_views} views of {size} pixels takes about {need / 1e9:.1f} GB, and "
        f"{free / 1e9:.1f} GB are free: type {what}"
    )


def free_for(device: torch.device) -> float:
    """Bytes that this rank may take; the ranks of a machine share its memory."""
    sharing = local_world_size() if device.type == "cpu" else 1
    return MARGIN * memory.available(device) / sharing


def kept_for_an_image(
    model: nn.Module, backbone: nn.Module, batch_of: BatchOf, images: int, device: torch.device
) -> tuple[float, float]:
    """Of each image of a batch: bytes that the forward pass keeps for the backward pass, and views that go through the
    backbone with a gradient (0 for methods that call its layers themselves)."""
    few, more = min(2, images), min(4, images)
    size, views = kept_by_forward(model, backbone, batch_of(more), device)
    if more == few:
        return size / more, views / more
    less, _ = kept_by_forward(model, backbone, batch_of(few), device)
    return max(0.0, (size - less) / (more - few)), views / more


def kept_by_forward(model: nn.Module, backbone: nn.Module, batch: Batch, device: torch.device) -> tuple[int, int]:
    """The same of a whole batch."""
    kept: dict[int, int] = {}
    views = 0

    def count(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return x.detach()  # an output that its own graph holds would never be freed

    def see(network: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        nonlocal views
        views += len(arguments[0]) if torch.is_grad_enabled() else 0

    seen = backbone.register_forward_pre_hook(see)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x), autocast(device):
        outputs: Any = model(batch)
    seen.remove()
    del outputs
    return sum(kept.values()), views


@torch.inference_mode()
def images_at_once(network: nn.Module, image: Tensor, most: int) -> int:
    """How many images may go through a network together, without a gradient, so that they fit into memory.

    Args:
        network: in evaluation mode.
        image: one of them (1, C, S, S), where the network computes.
        most: no more than so many.

    Raises:
        UserError: when not even one fits.
    """
    device, largest = image.device, 0

    def see(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal largest
        held = [x for x in (*inputs, output) if isinstance(x, Tensor)]
        largest = max(largest, sum(x.numel() * x.element_size() for x in held))

    seen = [m.register_forward_hook(see) for m in network.modules() if not list(m.children())]
    with autocast(device):
        network(image)
    for hook in seen:
        hook.remove()
    free, each = free_for(device), SEEN * largest
    if each > free:
        raise UserError(
            f"an image of {image.shape[-1]} pixels takes {each / 1e9:.2f} GB on its way through the network, and "
            f"{free / 1e9:.2f} GB are free: type a smaller image_size="
        )
    if each * most > free:
        log.info(f"{int(free / each)} images at a time go through the network: {free / 1e9:.1f} GB are free")
    return min(most, int(free / each))
