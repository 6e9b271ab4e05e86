"""Operations on the values of bands, for any number of bands; with three they are torchvision's on RGB."""

from __future__ import annotations

import torch
from torch import Tensor

from rsssl.augment.ops import LUMA, Params, PixelOperation, Pixels, kernels, number
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
        bands = pixels.values.shape[1]
        if self.brightness:
            pixels.gain(pixels.put(params["brightness"]))
        if self.contrast:
            contrast, means = pixels.put(params["contrast"]), pixels.means()
            centre = (means * means.new_tensor(LUMA)).sum(1, keepdim=True) if bands == 3 else means
            pixels.gain(contrast, (1 - contrast) * centre)
        if self.saturation and bool((params["saturation"] != 1).any()):
            s = pixels.put(params["saturation"])[:, :, None]
            eye = torch.eye(bands, device=s.device)
            pixels.mix(s * eye + (1 - s) * gray_matrix(bands, s.device))
        if self.hue and bands != 3:
            pixels.gain(pixels.put(params["gain"]))
        elif self.hue and (compiled := kernels(pixels.values.device)):
            values, matrix, bias = pixels.arrays()
            pixel_rows = values.reshape(len(values), bands, -1)  # a view
            compiled.over_samples(compiled.rotate_hue, len(values), pixel_rows, matrix, bias, params["hue"].numpy())
            pixels.replace(pixels.values)
        elif self.hue:  # not linear: what was still to be done is done first
            pixels.replace(hue_rotated(pixels.settled(), pixels.put(params["hue"])))


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
        gain = pixels.put(params["gain"])
        pixels.gain(gain, (1 - gain) * pixels.means() + pixels.put(params["offset"]))


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
        bands = pixels.values.shape[1]
        if bands > 1 and bool(params["on"].any()):
            on = pixels.put(params["on"])[:, None, None]
            pixels.mix(torch.where(on, gray_matrix(bands, on.device), torch.eye(bands, device=on.device)))


def gray(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 1, H, W): luma at three bands, else the mean of the bands."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def gray_matrix(bands: int, device: torch.device) -> Tensor:
    """(C, C), every row the weights of `gray`."""
    weights = LUMA if bands == 3 else (1 / bands,) * bands
    return torch.tensor(weights, device=device).expand(bands, bands)


def hue_rotated(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue of RGB x (B, 3, H, W) by turns (B,) in HSV, value and saturation kept.

    With u the hue in sixths of a turn, M and m the largest and smallest band, red is
    m + (M - m) clamp(|u - 3| - 1, 0, 1), green the same with 2 - |u - 2|, blue with 2 - |u - 4|: the hexcone of
    A. R. Smith, "Color gamut transform pairs", SIGGRAPH 1978, without its table of six cases.
    """
    r, g, b = x.unbind(1)
    high = torch.maximum(torch.maximum(r, g), b)
    low = torch.minimum(torch.minimum(r, g), b)
    spread = high - low
    # The case (red, else green, else blue is the largest) is chosen by lerp with weights of 0 and 1, exact there: on a
    # CPU a choice by booleans (torch.where) costs 20 times as much, and remainder 4 times what floor does.
    u = (r - g).add_(spread, alpha=4.0)
    is_largest = torch.eq(high, g, out=torch.empty_like(u))
    u = u.lerp_((b - r).add_(spread, alpha=2.0), is_largest)
    u = u.lerp_(g - b, torch.eq(high, r, out=is_largest))
    u.div_(spread.clamp_min(1e-12))  # a gray pixel has 0 / 1e-12: any hue will do, as its spread is 0
    u.add_(6.0 * turns[:, None, None])
    u.sub_((u * (1 / 6)).floor_(), alpha=6.0)
    out = torch.empty_like(x)
    for band, (middle, sign) in enumerate(((3.0, 1.0), (2.0, -1.0), (4.0, -1.0))):
        share = (u - middle).abs_().mul_(sign).add_(-sign if sign > 0 else 2.0).clamp_(0.0, 1.0)
        torch.addcmul(low, spread, share, out=out[:, band])
    return out


def _factor(u: Tensor, strength: float, on: Tensor) -> Tensor:
    low, high = max(0.0, 1 - strength), 1 + strength
    return torch.where(on, low + (high - low) * u, 1.0)
