"""MAE: a transformer sees a quarter of an image's patches, and a small one predicts the rest."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.methods.base import Method, need
from rsssl.methods.losses import full_precision
from rsssl.methods.masks import random_order
from rsssl.models.maps import in_chans


@full_precision
def hidden_patch_error(made: Tensor, patches: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error of predictions made (n, N, P) of patches (n, N, P), each brought to mean 0 and variance 1, over the
    hidden ones (n, N) bool (arXiv 2111.06377, section 3, "Reconstruction target"). A scalar."""
    error = (made - normalised(patches)[0]).square().mean(2)
    return (error * hidden).sum() / hidden.sum()


def normalised(patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Patches (n, N, P) with mean 0 and variance 1 each; those means and standard deviations, (n, N, 1)."""
    mean, std = patches.mean(2, keepdim=True), (patches.var(2, keepdim=True) + 1e-6).sqrt()
    return (patches - mean) / std, mean, std


def to_patches(images: Tensor, side: int) -> Tensor:
    """(n, C, S, S) -> (n, N, side * side * C), patches row by row."""
    n, bands, size, _ = images.shape
    grid = size // side
    return images.view(n, bands, grid, side, grid, side).permute(0, 2, 4, 3, 5, 1).reshape(n, grid * grid, -1)


def to_images(patches: Tensor, side: int) -> Tensor:
    """The inverse of `to_patches`."""
    n, total, values = patches.shape
    grid = round(total**0.5)
    bands = values // side**2
    parts = patches.view(n, grid, grid, side, side, bands).permute(0, 5, 1, 3, 2, 4)
    return parts.reshape(n, bands, grid * side, grid * side)


def sine_positions(grid: int, width: int, device: torch.device) -> Tensor:
    """(grid * grid, width) fixed positions: sines and cosines of the row, then of the column (as MAE's code)."""
    quarter = width // 4
    frequency = 10000.0 ** (-torch.arange(quarter, device=device) / quarter)
    angle = torch.arange(grid, device=device)[:, None] * frequency  # (grid, quarter)
    line = torch.cat([angle.sin(), angle.cos()], 1)
    return torch.cat([line.repeat_interleave(grid, 0), line.repeat(grid, 1)], 1)


class MAE(Method):
    """Masked autoencoders are scalable vision learners (He et al. 2022, arXiv 2111.06377), for any number of bands.

    Args:
        backbone: a timm vision transformer (ViT).
        views: views of each image, each masked in its own way.
        hidden: share of the patches that are hidden.
        width, depth, heads: of the decoder.
    """

    def __init__(
        self,
        backbone: nn.Module,
        views: int = 1,
        hidden: float = 0.75,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
    ) -> None:
        super().__init__(backbone, views)
        from timm.models.vision_transformer import Block, VisionTransformer

        need(
            isinstance(backbone, VisionTransformer),
            f"ssl=mae hides tokens of a vision transformer, and {type(backbone).__name__} is none: "
            "type backbone=vit_tiny_p8, or ssl=simmim for any backbone",
        )
        need(
            backbone.global_pool == "avg",
            f"ssl=mae trains patches' tokens, and this backbone's feature is another (global_pool={backbone.global_pool}): "
            "type backbone.kwargs.global_pool=avg, or backbone=vit_tiny_p8",
        )
        need(0 < hidden < 1, f"ssl.hidden={hidden} must lie between 0 and 1: type ssl.hidden=0.75")
        need(
            width % (4 * heads) == 0,
            f"ssl.width={width} must be a multiple of 4 * ssl.heads: type ssl.width={16 * heads}",
        )
        self.hidden, self.width = hidden, width
        self.side = int(backbone.patch_embed.patch_size[0])  # type: ignore[union-attr, index]
        self.embed = nn.Linear(self.num_features, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.decoder = nn.Sequential(*[Block(width, heads, qkv_bias=True) for _ in range(depth)], nn.LayerNorm(width))
        self.pixels = nn.Linear(width, in_chans(backbone) * self.side**2)

    def encode(self, images: Tensor, kept: Tensor) -> Tensor:
        """Encoded prefix and kept tokens, (n, prefix + k, D); kept: (n, k) numbers of patches."""
        vit = self.backbone
        tokens = vit._pos_embed(vit.patch_embed(images))  # type: ignore[operator]
        prefix = int(vit.num_prefix_tokens)  # type: ignore[arg-type]
        patches = tokens[:, prefix:].gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))
        tokens = vit.blocks(vit.norm_pre(torch.cat([tokens[:, :prefix], patches], 1)))  # type: ignore[operator]
        return vit.fc_norm(vit.norm(tokens))  # type: ignore[operator]

    def predict(self, images: Tensor, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predicted patches (n, N, P), which are hidden (n, N) bool, and the mean encoded token (n, D)."""
        order, keep = random_order(draws, self.hidden)
        tokens = self.encode(images, order[:, :keep])[:, -keep:]
        n, total = draws.shape
        index = order[:, :keep, None].expand(-1, -1, self.width)
        embedded = self.embed(tokens)
        everything = self.mask_token.to(embedded.dtype).expand(n, total, -1).scatter(1, index, embedded)
        positions = sine_positions(round(total**0.5), self.width, images.device)
        hidden = torch.ones_like(draws, dtype=torch.bool).scatter_(1, order[:, :keep], False)
        return self.pixels(self.decoder(everything + positions)), hidden, tokens.mean(1)

    def draw(self, batch: Batch) -> Tensor:
        return self.draws(batch, "hidden", (batch.views.shape[-1] // self.side) ** 2)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images = batch.views.flatten(0, 1)
        made, hidden, features = self.predict(images, self.draw(batch))
        return {"loss": hidden_patch_error(made, to_patches(images, self.side), hidden), "embedding": features}

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """What the network saw, what it made of it (in each patch's own brightness and contrast), and the image."""
        images = batch.views.flatten(0, 1)
        made, hidden, _ = self.predict(images, self.draw(batch))
        patches = to_patches(images, self.side)
        _, mean, std = normalised(patches)
        filled = torch.where(hidden[..., None], made * std + mean, patches)
        seen = patches * ~hidden[..., None]
        return {"seen": to_images(seen, self.side), "filled in": to_images(filled, self.side), "image": images}
