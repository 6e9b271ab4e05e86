"""Weights files: read them safely, fit them to a backbone, and say what fitted."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rsssl.errors import UserError

log = logging.getLogger(__name__)

MIN_MATCHED = 0.9
ADAPT = ("mean", "tile", "random")
_NESTED = ("state_dict", "model_state_dict", "model", "teacher", "student", "backbone", "encoder")
_SHOWN = 8


@dataclass(frozen=True)
class Match:
    """What a weights file had for a backbone, as names of the backbone's tensors (`unused`: of the file's)."""

    matched: tuple[str, ...]
    adapted: tuple[str, ...]  # first convolutions carried over to another number of bands
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    prefix: str  # what the file's names had in front

    @property
    def share(self) -> float:
        found = len(self.matched) + len(self.adapted)
        return found / max(found + len(self.missing), 1)


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors in a .safetensors file or in a torch file, which is opened without running any code in it.

    Raises UserError for a missing or damaged file, for one without tensors and for a pickle with other objects.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"No weights file at {path}. Give an existing file: backbone.weights=/path/to/file.safetensors")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is damaged or holds Python objects besides tensors; opening those could run code hidden in it. "
            "Ask for the tensors alone: safetensors.torch.save_file(model.state_dict(), 'file.safetensors')"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read as weights ({error}). Copy or download the file again.") from error
    return _tensors(content, path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error}). Copy or download the file again.") from error


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The flat name -> tensor mapping inside a checkpoint, whichever of the usual keys it hides under."""
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _NESTED if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    state = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not state:
        raise UserError(f"{path} holds no named tensors. Save it with torch.save(model.state_dict(), '{path.name}')")
    return state


def adapt_bands(weight: Tensor, bands: int, how: str) -> Tensor:
    """A first convolution (O, I, kh, kw) carried over from I to `bands` input bands.

    "mean": every band gets the mean kernel, so an image whose bands are all equal gives the output it gave before;
    "tile": the bands' kernels repeat in turn, as timm does it. Both are scaled by I / bands: the activations keep
    their size.
    """
    source = weight.shape[1]
    if how == "mean":
        wide = weight.mean(dim=1, keepdim=True).expand(-1, bands, -1, -1)
    elif how == "tile":
        wide = weight[:, torch.arange(bands) % source]
    else:
        raise ValueError(f"cannot adapt bands by {how!r}")
    return wide * (source / bands)


def _best_prefix(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """What stands before the backbone's names in the file ("module.", "backbone.", ...): the one that fits most."""
    probes = list(wanted)[:: max(len(wanted) // 16, 1)]
    prefixes = {""} | {key[: -len(p)] for p in probes for key in state if key.endswith("." + p)}

    def fitting(prefix: str) -> int:
        return sum(prefix + k in state and state[prefix + k].shape == v.shape for k, v in wanted.items())

    return max(sorted(prefixes, key=lambda p: (len(p), p)), key=fitting)


def fit_state(
    model: nn.Module, state: Mapping[str, Tensor], in_chans: int, adapt: str = "mean", origin: str = "the weights"
) -> Match:
    """Copy into `model` every tensor of `state` that fits by name and shape, and log what did not (`origin`: whence).

    The first convolution is carried over when only the number of bands differs; adapt="random" leaves it as built.
    Raises UserError, the model untouched, when less than 90 % of its tensors are there.
    """
    if adapt not in ADAPT:
        raise UserError(f"backbone.adapt={adapt} is not known. Type one of: {', '.join('adapt=' + a for a in ADAPT)}")
    wanted = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    prefix = _best_prefix(wanted, state)
    new: dict[str, Tensor] = {}
    adapted: list[str] = []
    missing: list[str] = []
    for name, own in wanted.items():
        found = state.get(prefix + name)
        if found is not None and found.shape == own.shape:
            new[name] = found
        elif found is not None and _differs_in_bands(found, own, in_chans):
            adapted.append(name)
            if adapt != "random":
                new[name] = adapt_bands(found.float(), in_chans, adapt)
        else:
            missing.append(name if found is None else f"{name} {tuple(found.shape)} for {tuple(own.shape)}")
    used = {prefix + k for k in wanted}
    unused = tuple(k for k in state if k not in used and not k.endswith("num_batches_tracked"))
    match = Match(tuple(k for k in new if k not in adapted), tuple(adapted), tuple(missing), unused, prefix)
    loaded = len(match.matched) + len(match.adapted)
    if match.share < MIN_MATCHED:
        raise UserError(
            f"{origin} fit this backbone badly: {loaded} of its {len(wanted)} tensors match. Missing: "
            f"{_list(match.missing)}. Unused: {_list(match.unused)}. "
            "Type the name of the model the weights were made with: backbone.name=..."
        )
    model.load_state_dict({k: v.to(wanted[k].dtype) for k, v in new.items()}, strict=False)
    log.info("%s: %d of %d tensors loaded, %d missing", origin, loaded, len(wanted), len(match.missing))
    if match.unused:
        log.info("%s: %d more left unused: %s", origin, len(match.unused), _list(match.unused))
    if match.missing:
        log.warning("%s lack tensors, which keep their initial values: %s", origin, _list(match.missing))
    if match.adapted:
        log.info("%s: first convolution adapted to %d bands (%s)", origin, in_chans, adapt)
    return match


def _differs_in_bands(found: Tensor, own: Tensor, in_chans: int) -> bool:
    """Is this the first convolution, for another number of bands?"""
    same = found.ndim == own.ndim == 4 and found.shape[0] == own.shape[0] and found.shape[2:] == own.shape[2:]
    return same and own.shape[1] == in_chans


def load_weights(model: nn.Module, path: str | os.PathLike[str], in_chans: int, adapt: str = "mean") -> Match:
    """Read a weights file into `model`: see fit_state. A file with NaN or infinity is refused with a UserError."""
    state = read_state(path)
    broken = [k for k, v in state.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if broken:
        raise UserError(f"{path} holds NaN or infinity in {_list(broken)}. Take an earlier checkpoint of its run.")
    return fit_state(model, state, in_chans, adapt, f"The weights in {path}")


def _list(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "nothing"
