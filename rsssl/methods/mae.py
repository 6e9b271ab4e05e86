"""MAE: a transformer sees a quarter of an image's patches, and a small transformer predicts the rest."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsssl.batch import Batch
from rsssl.methods.base import Method, need
from rsssl.methods.losses import full_precision
from rsssl.methods.masks import random_patches
from rsssl.models.maps import in_chans


@full_precision
def hidden_patch_error(predicted: Tensor, patches: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error over the hidden patches (arXiv 2111.06377, section 3, "Reconstruction target").

    Args:
        predicted: (n, N, P) predictions of normalised patches.
        patches: (n, N, P) of the image; each is brought to mean 0 and variance 1 here.
        hidden: (n, N) bool.

    Returns:
        A scalar.
    """
    error = (predicted - normalised(patches)[0]).square().mean(2)
    return (error * hidden).sum() / hidden.sum()


def normalised(patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Patches (n, N, P) brought to mean 0 and variance 1 each, and their means and standard deviations, (n, N, 1)."""
    mean, std = patches.mean(2, keepdim=True), (patches.var(2, keepdim=True) + 1e-6).sqrt()
    return (patches - mean) / std, mean, std


def to_patches(images: Tensor, side: int) -> Tensor:
    """Images cut into patches.

    Args:
        images: (n, C, S, S).
        side: of a patch, in pixels.

    Returns:
        (n, N, side * side * C), patches row by row.
    """
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
    """Fixed positions of a grid's patches, (grid * grid, width): sines and cosines of the row, then of the column.

    As in the code of MAE's authors.

    Args:
        grid: patches along each side of the image.
        width: dimensions of a token, a multiple of 4.
        device: where the result is made.
    """
    quarter = width // 4
    frequency = 10000.0 ** (-torch.arange(quarter, device=device) / quarter)
    angle = torch.arange(grid, device=device)[:, None] * frequency  # (grid, quarter)
    line = torch.cat([angle.sin(), angle.cos()], 1)
    return torch.cat([line.repeat_interleave(grid, 0), line.repeat(grid, 1)], 1)


class MAE(Method):
    """Masked autoencoders are scalable vision learners (He et al. 2022, arXiv 2111.06377), for any number of bands.

    Args:
        backbone: a timm vision transformer (ViT).
        views: views of each image; other patches are hidden in each of them.
        hidden: share of the patches that are hidden.
        width: dimensions of the decoder's tokens.
        depth: blocks of the decoder.
        heads: attention heads of each block of the decoder.
    """

    def __init__(self, backbone: nn.Module, views: int, hidden: float, width: int, depth: int, heads: int) -> None:
        super().__init__(backbone, views)
        from timm.models.vision_transformer import Block, VisionTransformer

        need(
            isinstance(backbone, VisionTransformer),
            f"ssl=mae hides tokens of a vision transformer, and {type(backbone).__name__} is not one: "
            "type backbone=vit_tiny_p8, or ssl=simmim for any backbone",
        )
        need(
            backbone.global_pool == "avg",
            "ssl=mae trains the tokens of patches, which are not this backbone's features "
            f"(global_pool={backbone.global_pool}): type backbone.kwargs.global_pool=avg, or backbone=vit_tiny_p8",
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

    def encode(self, images: Tensor, shown: Tensor) -> Tensor:
        """Encoded tokens of images of which only these patches are shown.

        Args:
            images: (n, C, S, S).
            shown: (n, k) numbers of patches.

        Returns:
            (n, prefix + k, D): the transformer's prefix tokens, then the patches'.
        """
        vit = self.backbone
        tokens = vit._pos_embed(vit.patch_embed(images))  # type: ignore[operator]
        prefix = int(vit.num_prefix_tokens)  # type: ignore[arg-type]
        patches = tokens[:, prefix:].gather(1, shown[..., None].expand(-1, -1, tokens.shape[2]))
        tokens = vit.blocks(vit.norm_pre(torch.cat([tokens[:, :prefix], patches], 1)))  # type: ignore[operator]
        return vit.fc_norm(vit.norm(tokens))  # type: ignore[operator]

    def predict(self, images: Tensor, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the network makes of images of which a random part of the patches is hidden.

        Args:
            images: (n, C, S, S).
            draws: (n, N) random numbers in [0, 1), one for each patch.

        Returns:
            Predicted patches (n, N, P), whether each is hidden (n, N) bool, and the mean encoded token (n, D).
        """
        shown, hidden = random_patches(draws, self.hidden)
        tokens = self.encode(images, shown)[:, -shown.shape[1] :]
        embedded = self.embed(tokens)
        index = shown[..., None].expand(-1, -1, self.width)
        all_tokens = self.mask_token.to(embedded.dtype).expand(*draws.shape, -1).scatter(1, index, embedded)
        positions = sine_positions(round(draws.shape[1] ** 0.5), self.width, images.device)
        return self.pixels(self.decoder(all_tokens + positions)), hidden, tokens.mean(1)

    def draw(self, batch: Batch) -> Tensor:
        """Random numbers (V * B, N), one for each patch."""
        return self.draws(batch, "hidden", (batch.views.shape[-1] // self.side) ** 2)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images = batch.views.flatten(0, 1)
        predicted, hidden, features = self.predict(images, self.draw(batch))
        return {"loss": hidden_patch_error(predicted, to_patches(images, self.side), hidden), "embedding": features}

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """What the network saw, what it predicts (with each patch's true brightness and contrast), and the image."""
        images = batch.views.flatten(0, 1)
        predicted, hidden, _ = self.predict(images, self.draw(batch))
        patches = to_patches(images, self.side)
        _, mean, std = normalised(patches)
        filled = torch.where(hidden[..., None], predicted * std + mean, patches)
        seen = patches * ~hidden[..., None]
        return {"seen": to_images(seen, self.side), "filled in": to_images(filled, self.side), "image": images}
