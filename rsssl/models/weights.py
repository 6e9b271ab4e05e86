"""Weights files: write and read them safely, fit them to a backbone, and report what fitted.

Files of ours are safetensors whose metadata carry two hashes: of the tensors, and of all else in the metadata.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from rsssl.errors import UserError
from rsssl.records import Damaged, digest

log = logging.getLogger(__name__)

MIN_MATCHED = 0.9
ADAPT = ("mean", "tile", "random")  # what becomes of a trained network's first convolution under another sensor
_NESTED = ("state_dict", "model_state_dict", "model", "teacher", "student", "backbone", "encoder")
_SHOWN = 8
TENSORS, SEAL = "rsssl.tensors", "rsssl.seal"  # keys in the metadata
AGAIN = "copy or download the file again, or run the command that made it"


@dataclass(frozen=True)
class Match:
    """What a weights file had for a backbone.

    Args:
        matched: names of the backbone's tensors that were loaded as they are.
        adapted: names of first convolutions that were carried over to another number of bands.
        missing: names of the backbone's tensors that the file lacks, or has in another shape.
        unused: names of the file's other tensors.
        prefix: what stands before the backbone's names in the file.
    """

    matched: tuple[str, ...]
    adapted: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    prefix: str

    @property
    def share(self) -> float:
        """The share of the backbone's tensors that the file has."""
        loaded = len(self.matched) + len(self.adapted)
        return loaded / max(loaded + len(self.missing), 1)


def existing(path: str | os.PathLike[str], option: str) -> Path:
    """The path of an existing file, with `~` expanded.

    Args:
        path: where it should be.
        option: the key that names the file, for the message.

    Raises:
        UserError: when there is no such file.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"No weights file at {path}. Give an existing file: {option}=/path/to/file.safetensors")
    return path


@contextmanager
def _safetensors(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise Damaged(f"{path} cannot be read as safetensors ({error}): {AGAIN}") from error


def pack_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file that `read_tensors` and `read_metadata` know to be what was written.

    The same tensors and metadata give the same bytes: safetensors itself writes metadata in an order drawn at random.
    """
    state = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}  # it refuses shared memory
    known = {**metadata, TENSORS: hash_of(state)}
    content = save(state, metadata=known | {SEAL: digest(known)})
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(content)[start:]))


def hash_of(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of tensors, their names, types and shapes."""
    whole = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        whole.update(tensor.contiguous().view(-1).view(dtype=torch.uint8).numpy().data)
    return whole.hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name. Raises UserError when it is damaged."""
    known = read_metadata(path).get(TENSORS)
    with _safetensors(path):
        tensors = load_file(path)
    if known is not None and known != hash_of(tensors):
        raise Damaged(f"{path} is damaged (its tensors are not what was written): {AGAIN}")
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; reads none of its tensors. Raises UserError when it is damaged."""
    with _safetensors(path), safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
    known = {k: v for k, v in metadata.items() if k != SEAL}
    if (SEAL in metadata or any(k.startswith("rsssl") for k in metadata)) and metadata.get(SEAL) != digest(known):
        raise Damaged(f"{path} is damaged (its metadata are not what was written): {AGAIN}")
    return metadata


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors in a .safetensors file or in a torch file, which is opened without running any code in it.

    Args:
        path: the file.

    Returns:
        Tensors by name.

    Raises:
        UserError: when the file is missing or damaged, has no tensors, or is a pickle with other objects.
    """
    path = existing(path, "start.file")
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is damaged or holds Python objects besides tensors; opening those could run code hidden in it. "
            "Ask for the tensors alone: safetensors.torch.save_file(model.state_dict(), 'file.safetensors')"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read as weights ({error}). Copy or download the file again.") from error
    inner = content
    while isinstance(inner, Mapping):
        content, inner = inner, next((inner[k] for k in _NESTED if isinstance(inner.get(k), Mapping)), None)
    state = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not state:
        raise UserError(f"{path} holds no named tensors. Save it with torch.save(model.state_dict(), '{path.name}')")
    return state


def adapt_bands(weight: Tensor, bands: int, how: str) -> Tensor:
    """A first convolution carried over to another number of input bands, scaled so that activations keep their size.

    Args:
        weight: (O, I, kh, kw), a convolution for I bands.
        bands: the number of bands it is for afterwards.
        how: "mean": every band gets the mean kernel, so an image whose bands are all equal gives the output it gave
            before; "tile": the bands' kernels repeat in turn, as in timm.

    Returns:
        (O, bands, kh, kw).
    """
    source = weight.shape[1]
    if how == "mean":
        wide = weight.mean(dim=1, keepdim=True).expand(-1, bands, -1, -1)
    elif how == "tile":
        wide = weight[:, torch.arange(bands) % source]
    else:
        raise ValueError(f"cannot adapt bands by {how!r}")
    return wide * (source / bands)


def match_bands(weight: Tensor, order: Sequence[int | None]) -> Tensor:
    """A first convolution for other bands, scaled so that activations keep their size.

    Args:
        weight: (O, I, kh, kw), a convolution for I bands.
        order: of each band that it is for afterwards, the number of the filter; None: the mean of all filters.

    Returns:
        (O, len(order), kh, kw).
    """
    mean = weight.mean(dim=1)
    filters = [mean if i is None else weight[:, i] for i in order]
    return torch.stack(filters, 1) * (weight.shape[1] / len(order))


def first_convolution(state: Mapping[str, Tensor]) -> Tensor:
    """The weights (O, I, kh, kw) of the first convolution among a network's tensors."""
    return next(v for v in state.values() if v.ndim == 4)


def _best_prefix(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """What stands before the backbone's names in the file ("module.", "backbone.", ...): the prefix that fits most."""
    probes = list(wanted)[:: max(len(wanted) // 16, 1)]
    prefixes = {""} | {key[: -len(p)] for p in probes for key in state if key.endswith("." + p)}

    def fitting(prefix: str) -> int:
        return sum(prefix + k in state and state[prefix + k].shape == v.shape for k, v in wanted.items())

    return max(sorted(prefixes, key=lambda p: (len(p), p)), key=fitting)


def fit_state(model: nn.Module, state: Mapping[str, Tensor], order: Sequence[int | None] | None, origin: str) -> Match:
    """Copies into a backbone every tensor that fits by name and shape, and logs what did not.

    Args:
        model: the backbone.
        state: the tensors by name.
        order: for each of the backbone's bands the number of the filter (see `match_bands`); None: the filters as they
            are where there are as many, else the mean of all.
        origin: where the tensors come from, for messages.

    Raises:
        UserError: when less than 90 % of the backbone's tensors are there, or some are not finite; the backbone is then
            left as it was.
    """
    wanted = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    prefix = _best_prefix(wanted, state)
    stem = next(name for name, p in model.named_parameters() if p.ndim == 4)
    matched: dict[str, Tensor] = {}
    adapted: dict[str, Tensor] = {}
    missing: list[str] = []
    for name, tensor in wanted.items():
        given = state.get(prefix + name)
        if given is None:
            missing.append(name)
        elif name == stem and given.shape[:1] + given.shape[2:] == tensor.shape[:1] + tensor.shape[2:]:
            as_it_is: list[int | None] = list(range(given.shape[1]))
            bands = order or (as_it_is if given.shape == tensor.shape else [None] * tensor.shape[1])
            (matched if list(bands) == as_it_is else adapted)[name] = match_bands(given.float(), bands)
        elif given.shape == tensor.shape:
            matched[name] = given
        else:
            missing.append(f"{name} {tuple(given.shape)} for {tuple(tensor.shape)}")
    used = {prefix + k for k in wanted}
    unused = [k for k in state if k not in used and not k.endswith("num_batches_tracked")]
    match = Match(tuple(matched), tuple(adapted), tuple(missing), tuple(unused), prefix)
    new = matched | adapted
    if match.share < MIN_MATCHED:
        raise UserError(
            f"{origin} fit this backbone badly: {len(new)} of its {len(wanted)} tensors match. Missing: "
            f"{_list(missing)}. Unused: {_list(unused)}. "
            "Type the name of the model the weights were made with: backbone.name=..."
        )
    broken = [k for k, v in new.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if broken:
        raise UserError(f"{origin} hold NaN or infinity in {_list(broken)}: take an earlier checkpoint of their run")
    model.load_state_dict({k: v.to(wanted[k].dtype) for k, v in new.items()}, strict=False)
    level = logging.INFO if missing else logging.DEBUG  # a classifier that is left out is no news
    log.log(level, "%s: %d of %d tensors loaded, %d missing", origin, len(new), len(wanted), len(missing))
    if unused:
        log.log(level, "%s: %d more left unused: %s", origin, len(unused), _list(unused))
    if missing:
        log.warning("%s lack tensors, which keep their initial values: %s", origin, _list(missing))
    return match


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "nothing"
