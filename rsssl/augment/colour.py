"""Operations on the values of bands, for any number of bands; with three they are torchvision's on RGB."""

from __future__ import annotations

import torch
from torch import Tensor

from rsssl.augment.ops import LUMA, Params, PixelOperation, number
from rsssl.augment.pixels import Pixels
from rsssl.augment.with_torch import hue_rotated
from rsssl.rng import uniform


class Colour(PixelOperation):
    """Brightness, then contrast, saturation and hue, each by a factor drawn for the sample; torchvision's ColorJitter.

    Three bands: contrast blends with the mean of the luma, saturation with the luma, hue rotates in HSV.
    Other than three: contrast blends each band with its own mean, saturation each pixel with the mean of its bands,
    and hue, which has no meaning there, is an independent gain per band in [1 - hue, 1 + hue]; one band alone is left
    as it is by both.

    Args:
        brightness: s of a factor that is uniform in [max(0, 1 - s), 1 + s].
        contrast: the same, around the mean.
        saturation: the same, around gray.
        hue: turns, at most 0.5: the hue is moved by up to as many in either direction.
        per_band: at other than three bands, draw brightness and contrast for each band, and leave saturation and hue
            alone (Tao et al. 2020 on 13 bands).
        p: probability that it happens, drawn for each sample.
    """

    def __init__(
        self,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        per_band: bool = False,
        p: float = 1.0,
    ) -> None:
        super().__init__(p)
        self.brightness = number(self, "brightness", brightness, 0.0, 10.0)
        self.contrast = number(self, "contrast", contrast, 0.0, 10.0)
        self.saturation = number(self, "saturation", saturation, 0.0, 10.0)
        self.hue = number(self, "hue", hue, 0.0, 0.5)
        self.per_band = bool(per_band)

    def draw(self, key: int, ids: Tensor, bands: int, height: int, width: int) -> Params:
        """brightness, contrast (B, 1 or C); saturation (B, 1); hue (B,) in turns at three bands, else gain (B, C)."""
        u = uniform(key, ids, 5 + 2 * bands)
        on = (u[:, 0] < self.p)[:, None]
        apart = self.per_band and bands != 3
        which = (u[:, 5 : 5 + bands], u[:, 5 + bands :]) if apart else (u[:, 1:2], u[:, 2:3])
        params = {
            "brightness": _factor(which[0], self.brightness, on),
            "contrast": _factor(which[1], self.contrast, on),
            "saturation": _factor(u[:, 3:4], 0.0 if apart or bands == 1 else self.saturation, on),
        }
        if bands == 3:
            params["hue"] = torch.where(on[:, 0], (2 * u[:, 4] - 1) * self.hue, 0.0)
        else:
            params["gain"] = _factor(u[:, 5 : 5 + bands], 0.0 if apart or bands == 1 else self.hue, on)
        return params

    def apply(self, x: Tensor, params: Params, size: int) -> Tensor:
        x = x * params["brightness"][:, :, None, None]
        centre = (gray(x) if x.shape[1] == 3 else x).mean((2, 3), keepdim=True)
        x = centre + params["contrast"][:, :, None, None] * (x - centre)
        x = gray(x) + params["saturation"][:, :, None, None] * (x - gray(x))
        return hue_rotated(x, params["hue"]) if x.shape[1] == 3 else x * params["gain"][:, :, None, None]

    def fuse(self, pixels: Pixels, params: Params) -> None:
        bands = pixels.bands
        if self.brightness:
            pixels.gain(params["brightness"])
        if self.contrast:
            pixels.contrast(params["contrast"], gray_weights(bands) if bands == 3 else None)
        if self.saturation and bool((params["saturation"] != 1).any()):
            pixels.blend(params["saturation"][:, 0], gray_weights(bands))
        if self.hue and bands == 3:
            pixels.hue(params["hue"])
        elif self.hue:
            pixels.gain(params["gain"])


class BandGain(PixelOperation):
    """A gain and an offset for each band: value -> mean + g (value - mean) + o, around the band's mean in the view.

    Args:
        gain: g is uniform in [1 - gain, 1 + gain].
        offset: o is uniform in [-offset, offset], in units of the valid range.
        p: probability that it happens, drawn for each sample.
    """

    def __init__(self, gain: float = 0.2, offset: float = 0.1, p: float = 1.0) -> None:
        super().__init__(p)
        self.gain = number(self, "gain", gain, 0.0, 1.0)
        self.offset = number(self, "offset", offset, 0.0, 1.0)

    def draw(self, key: int, ids: Tensor, bands: int, height: int, width: int) -> Params:
        u = uniform(key, ids, 1 + 2 * bands)
        on = (u[:, 0] < self.p)[:, None]
        offset = torch.where(on, (2 * u[:, 1 + bands :] - 1) * self.offset, 0.0)
        return {"gain": _factor(u[:, 1 : 1 + bands], self.gain, on), "offset": offset}

    def apply(self, x: Tensor, params: Params, size: int) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return mean + params["gain"][:, :, None, None] * (x - mean) + params["offset"][:, :, None, None]

    def fuse(self, pixels: Pixels, params: Params) -> None:
        pixels.contrast(params["gain"], None)
        pixels.gain(torch.ones(1, 1), params["offset"])


class Grayscale(PixelOperation):
    """Every band becomes the same: torchvision's luma of RGB at three bands, else the mean of the bands.

    Args:
        p: probability that it happens, drawn for each sample.
    """

    def draw(self, key: int, ids: Tensor, bands: int, height: int, width: int) -> Params:
        return {"on": uniform(key, ids, 1)[:, 0] < self.p}

    def apply(self, x: Tensor, params: Params, size: int) -> Tensor:
        return torch.where(params["on"][:, None, None, None], gray(x).expand_as(x), x)

    def fuse(self, pixels: Pixels, params: Params) -> None:
        bands = pixels.bands
        if bands > 1 and bool(params["on"].any()):
            pixels.blend(1.0 - params["on"].float(), gray_weights(bands))


def gray(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 1, H, W): luma at three bands, else the mean of the bands."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def gray_weights(bands: int) -> Tensor:
    """The weights (C,) of `gray`."""
    return torch.tensor(LUMA if bands == 3 else (1 / bands,) * bands)


def _factor(u: Tensor, strength: float, on: Tensor) -> Tensor:
    low, high = max(0.0, 1 - strength), 1 + strength
    return torch.where(on, low + (high - low) * u, 1.0)
