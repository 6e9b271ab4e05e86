"""Backbones: any timm model, and the paper's, for any number of bands; and the files that they are saved in."""

from __future__ import annotations

import difflib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rsssl.errors import UserError
from rsssl.models import classic
from rsssl.models.arguments import checked_arguments, checked_spec
from rsssl.models.maps import pool_depths
from rsssl.models.weights import AGAIN, existing, pack_tensors, read_metadata, read_tensors
from rsssl.records import parse_json

SMALL = "_small"  # resnet34_small, resnet18_small, ...: a timm ResNet with classic.small_stem
_SPEC = "rsssl.backbone"  # key in the metadata of a weights file: how to build the model again


def build_backbone(
    name: str, in_chans: int, kwargs: Mapping[str, Any] | None = None, depths: int = 1, seed: int = 0,
    checkpointing: bool = False,
) -> nn.Module:  # fmt: skip
    """A backbone with random weights: (B, in_chans, H, W) -> pooled features (B, model.num_features).

    The names of the tensors are timm's: a saved backbone loads strictly into timm.create_model(name, num_classes=0,
    in_chans=in_chans).

    Args:
        name: a timm model, a timm ResNet with `_small` behind its name (3x3 stem, no max pooling), or one of
            classic.NAMES.
        in_chans: bands of the images.
        kwargs: further arguments of the timm model, as drop_path_rate.
        depths: more than 1 joins the pooled maps of that many depths (see maps.pool_depths).
        seed: of the initial weights; the same seed gives the same weights, and torch's own generator is left as it was.
        checkpointing: work out a block's insides again in the backward pass (arXiv 1604.06174): slower, less memory.

    Raises:
        UserError: for an unknown name (the message has the nearest), and for arguments that the model does not take.
    """
    if in_chans < 1:
        raise ValueError(f"in_chans must be at least 1, not {in_chans}")
    arguments = _plain(kwargs or {})
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)  # of the CPU only: torch.manual_seed would seed GPUs as well
        model = _build(name, in_chans, arguments)
    if checkpointing:
        if not hasattr(model, "set_grad_checkpointing"):
            raise UserError(f"backbone.name={name} knows no checkpointing: type backbone.checkpointing=false")
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    if depths != 1:
        pool_depths(model, depths)
    model.spec = {"name": name, "in_chans": in_chans, "kwargs": arguments, "depths": depths}  # type: ignore[assignment]
    return model


def _build(name: str, in_chans: int, kwargs: dict[str, Any]) -> nn.Module:
    import timm

    if name in classic.NAMES:
        if kwargs:
            raise UserError(f"{name} takes no arguments but was given {sorted(kwargs)}. Type backbone.kwargs={{}}")
        return classic.build_classic(name, in_chans)
    checked_arguments(kwargs, "backbone.kwargs")
    base = timm_name(name)
    if not timm.is_model(base):
        near = difflib.get_close_matches(name.lower(), [*timm.list_models(), *classic.NAMES], n=3, cutoff=0.5)
        hint = f"Did you mean {', '.join(near)}? " if near else ""
        raise UserError(f"No backbone is called {name!r}. {hint}Type backbone.name=resnet18, or any model timm lists.")
    model = create_timm(base, in_chans, kwargs)
    return model if base == name else classic.small_stem(model, in_chans, base)


def timm_name(name: str) -> str:
    """The timm model under `name`: without `_small`, unless timm itself has a model of that name (as mixnet_small)."""
    import timm

    base = name.removesuffix(SMALL)
    return base if not timm.is_model(name) and timm.is_model(base) else name


# Arguments that only some of timm's families know: transformers take images of any size, and residual branches do not
# start at zero, which costs short pre-trainings accuracy (experiments/eurosat_rgb_recipe).
_DEFAULTS: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"zero_init_last": False}, {})


def create_timm(
    name: str, in_chans: int, kwargs: dict[str, Any], pretrained: bool = False, num_classes: int = 0
) -> nn.Module:
    """timm's model, with _DEFAULTS where they apply.

    Args:
        name: timm's name of it.
        in_chans: bands of the images.
        kwargs: further arguments.
        pretrained: whether it has the publisher's weights.
        num_classes: of its classifier; 0 leaves the classifier out.

    Raises:
        UserError: for an argument that the model does not take.
    """
    import timm

    options = {"pretrained": pretrained, "num_classes": num_classes, "in_chans": in_chans}
    for defaults in _DEFAULTS:
        try:
            model = timm.create_model(name, **(options | defaults | kwargs))
            break
        except TypeError as error:
            if any(key in str(error) and key not in kwargs for key in defaults):
                continue  # only some families know the argument, and timm does not tell beforehand which
            raise UserError(f"{name} cannot take its backbone.kwargs ({error}). Correct backbone.kwargs=...") from error
    # Some heads widen the features after pooling (VGG, MobileNetV3): this is the width that forward returns.
    model.num_features = getattr(model, "head_hidden_size", None) or model.num_features
    return model


def save_backbone(model: nn.Module, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> Path:
    """Writes the weights as safetensors, completely or not at all.

    Args:
        model: made by build_backbone; it may be wrapped by torch.compile or DistributedDataParallel.
        path: the file; its folder is made if necessary.
        metadata: is written into the file (the sensor card as JSON, for example). What build_backbone was given is
            added, so that read_backbone needs nothing but the file.

    Returns:
        The path.
    """
    path = Path(path)
    while isinstance(inner := getattr(model, "_orig_mod", getattr(model, "module", None)), nn.Module):
        model = inner
    spec = getattr(model, "spec", None)
    if not isinstance(spec, dict):
        raise ValueError("save_backbone takes models made by build_backbone")
    content = pack_tensors(model.state_dict(), {**(metadata or {}), _SPEC: json.dumps(spec, sort_keys=True)})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def read_backbone(path: str | os.PathLike[str]) -> tuple[nn.Module, dict[str, str]]:
    """The backbone in a file of save_backbone.

    Args:
        path: the file.

    Returns:
        The backbone, on the CPU in training mode, and the file's metadata.

    Raises:
        UserError: when the file is missing, damaged or made by another program.
    """
    spec, metadata = describe_backbone(path)
    return rebuilt(spec, read_tensors(Path(path).expanduser()), path), metadata


def rebuilt(spec: Any, state: Mapping[str, Tensor], origin: str | os.PathLike[str]) -> nn.Module:
    """The backbone that a file describes, with its tensors; nothing but an architecture is taken from the file.

    Args:
        spec: what the file says that build_backbone was given.
        state: the tensors by name.
        origin: the file, for messages.

    Raises:
        UserError: for a description that is none of an architecture, and tensors that do not fit it.
    """
    given = checked_spec(spec, origin)
    try:
        with torch.device("meta"):  # no memory is taken for a network that is larger than its file
            shapes = {k: v.shape for k, v in build_backbone(**given).state_dict().items()}
        if shapes != {k: v.shape for k, v in state.items()}:
            raise RuntimeError("its tensors have other names or shapes")
        model = build_backbone(**given)
        model.load_state_dict(state, strict=True)
    except Exception as error:  # timm's networks raise what they like at arguments that do not go together
        first = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{origin} does not fit the backbone it names ({type(error).__name__}: {first}): copy the file again, or "
            "run the command that made it"
        ) from error
    return model


def describe_backbone(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """What a file of save_backbone records about its network; builds nothing.

    Args:
        path: the file.

    Returns:
        The arguments of build_backbone, and the file's metadata.

    Raises:
        UserError: when the file is missing, damaged or made by another program.
    """
    path = existing(path, "checkpoint")
    metadata = read_metadata(path)
    if _SPEC not in metadata:
        raise UserError(
            f"{path} was not saved by rsssl. For its weights type backbone.name=... start=file start.file={path}"
        )
    return parse_json(metadata[_SPEC], path, AGAIN), metadata


def _plain(value: Any) -> Any:
    """Dicts and lists in place of Hydra's containers, which neither timm nor JSON takes."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    return value
