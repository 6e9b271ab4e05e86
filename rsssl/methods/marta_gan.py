"""MARTA-GAN: a discriminator that tells images from generated ones; its features of several depths classify scenes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.batch import Batch
from rsssl.engine.distributed import gather
from rsssl.methods.base import Method, need
from rsssl.models.maps import in_chans

RANGE = 3.0  # generated values lie within that many standard deviations of the bands' means


class Generator(nn.Module):
    """Noise (n, noise) to images (n, bands, S, S), S = 4 * 2^steps (DCGAN: Radford et al. 2016, arXiv 1511.06434).

    Args:
        noise: dimensions of the input.
        bands: of the images.
        steps: layers, each of which doubles the size.
        width: channels before the last layer.
    """

    def __init__(self, noise: int, bands: int, steps: int, width: int) -> None:
        super().__init__()
        channels = width * 2 ** (steps - 1)
        self.start = nn.Sequential(nn.Linear(noise, channels * 16, bias=False), nn.Unflatten(1, (channels, 4, 4)))
        layers: list[nn.Module] = [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        for step in range(steps):
            last = step == steps - 1
            out = bands if last else channels // 2
            layers.append(nn.ConvTranspose2d(channels, out, 4, stride=2, padding=1, bias=last))
            if not last:
                layers += [nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            channels = out
        self.layers = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose2d | nn.Linear):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, noise: Tensor) -> Tensor:
        return RANGE * torch.tanh(self.layers(self.start(noise)))


class MartaGAN(Method):
    """Multiple-layer feature-matching generative adversarial networks (Lin et al. 2017, arXiv 1612.08879).

    The backbone is the discriminator. Its features, joined from several depths (`backbone.depths`), serve three times:
    a linear layer tells real images from generated ones by them, the generator has to match them, and scenes are
    classified by them. Both networks step together; one optimizer is enough for both, as Adam keeps its moments for
    each parameter.

    Args:
        backbone: images to features.
        views: views of each image, all shown as real.
        noise: dimensions of the generator's input.
        matching: weight of the feature matching in the generator's loss.
        size: side of the generated images, in pixels. Views are of that size or smaller; for smaller ones the generated
            images are resized.
        width: channels of the generator before its last layer.
        smooth: the target of real images is 1 - smooth (Salimans et al. 2016, arXiv 1606.03498, section 3.4).
    """

    whole_images = False

    def __init__(
        self, backbone: nn.Module, views: int, noise: int, matching: float, size: int, width: int, smooth: float
    ) -> None:
        super().__init__(backbone, views)
        steps = math.log2(size / 4)
        need(steps >= 1 and steps == int(steps), f"ssl.size={size} is not 8, 16, 32, ...: type ssl.size=64")
        self.noise, self.matching, self.smooth = noise, matching, smooth
        self.generator = Generator(noise, in_chans(backbone), int(steps), width)
        self.judge = nn.Linear(self.num_features, 1)

    def generate(self, batch: Batch) -> Tensor:
        """As many images as the batch has views, of their size, (V * B, C, S, S)."""
        generated = self.generator(2 * self.draws(batch, "noise", self.noise) - 1)  # uniform in [-1, 1], as DCGAN
        largest, size = generated.shape[-1], batch.views.shape[-1]
        need(
            size <= largest,
            f"ssl.size={largest} is less than the images' {size} pixels, which would give generated images away: "
            f"type ssl.size={2 ** math.ceil(math.log2(size))}, or pretrain.image_size={largest}",
        )
        if size < largest:
            wide = generated.to(torch.promote_types(generated.dtype, torch.float32))  # bfloat16 has no kernel for it
            generated = F.interpolate(wide, (size, size), mode="bilinear", antialias=True)
        return generated

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        generated = self.generate(batch)
        real_features = self.backbone(batch.views.flatten(0, 1))  # (V * B, D)
        real_score = self.judge(real_features).float()
        score = self.judge(self.backbone(generated.detach())).float()
        discriminator = (cross_entropy(real_score, 1 - self.smooth) + cross_entropy(score, 0)) / 2

        trained = [p for module in (self.backbone, self.judge) for p in module.parameters() if p.requires_grad]
        for p in trained:
            p.requires_grad_(False)  # the discriminator must not lower the generator's loss
        features = self.backbone(generated)
        perceptual = cross_entropy(self.judge(features).float(), 1)
        for p in trained:
            p.requires_grad_(True)
        matched = (gather(features.float()).mean(0) - gather(real_features.detach().float()).mean(0)).square().mean()
        return {
            "loss": discriminator + (perceptual + self.matching * matched),
            "embedding": real_features,
            "discriminator": discriminator,
            "perceptual": perceptual,
            "matching": matched,
            "judged_right": ((real_score > 0).float().mean() + (score < 0).float().mean()) / 2,
        }

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        return {"generated": self.generate(batch), "image": batch.views.flatten(0, 1)}


def cross_entropy(score: Tensor, target: float) -> Tensor:
    """Binary cross entropy of logits (n, 1) with the same target for all, a scalar."""
    return F.binary_cross_entropy_with_logits(score, torch.full_like(score, target))
