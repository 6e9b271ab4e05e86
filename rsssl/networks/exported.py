"""Exported folders: a classifier or a backbone with everything that is needed to use it anywhere, and their checksums.

model.safetensors   the network, by timm's names; the classifier's layer among them where timm's model has one for it
config.json         how timm builds it, left out where it cannot
trust.safetensors   what a classifier needs to say what it does not know
head.safetensors    the classifier's tensors where model.safetensors has no place for them
rsssl.json          sensor card, image size, mean and std, the kind of classifier, and how all of it was made
model.onnx, model.pt2   on request
README.md           the model card, for people and for the Hugging Face hub; theirs to edit, so it has no checksum
SHA256SUMS          of every other file; `sha256sum -c SHA256SUMS` checks them too
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from torch import Tensor

from rsssl.engine.files import explain_os_error, sha256_of, write_atomic, write_json
from rsssl.errors import UserError
from rsssl.evaluation.heads import head_from
from rsssl.evaluation.trust import Trust
from rsssl.models.backbone import rebuilt
from rsssl.models.preprocess import Preprocess
from rsssl.models.weights import AGAIN, pack_tensors, read_tensors
from rsssl.networks.files import as_described, tried, write_backbone
from rsssl.networks.network import SceneNetwork
from rsssl.records import read_json

log = logging.getLogger(__name__)
ABOUT, WEIGHTS, HEAD, SUMS, README = "rsssl.json", "model.safetensors", "head.safetensors", "SHA256SUMS", "README.md"
TRUST = "trust.safetensors"
ONNX, PROGRAM, CONFIG = "model.onnx", "model.pt2", "config.json"
OPTIONAL = (ONNX, PROGRAM, f"{ONNX}.data")  # a copy may leave them out
VERSION = 1


def is_exported(folder: Path) -> bool:
    """Whether a folder is one of ours: it may still be damaged."""
    return (folder / ABOUT).is_file() or ((folder / SUMS).is_file() and (folder / WEIGHTS).is_file())


def refuse_existing(out: Path) -> None:
    """Raises UserError when something lies at `out` that an export would replace."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(
            f"out={out} exists and is not empty: type out= with the name of a new folder, or remove it first"
        )


def write_exported(
    network: SceneNetwork, out: Path, onnx: bool = False, program: bool = False, preprocessing: bool = False
) -> dict[str, Any]:
    """Writes the folder `out`, whole or not at all.

    Args:
        network: with its notes, how it was made and how good it is.
        out: the folder.
        onnx: write model.onnx too.
        program: write model.pt2 too.
        preprocessing: these two take stored pixels, and not standardised ones.

    Returns:
        What rsssl.json says.

    Raises:
        UserError: when `out` holds anything, cannot be written, or the network cannot be exported.
    """
    from rsssl.networks.model_card import model_card
    from rsssl.networks.programs import check_programs, write_onnx, write_program

    refuse_existing(out)
    check_programs(network, onnx, program)
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir(parents=True)
        about = _write_network(network, temporary)
        programs = [name for name, wanted in ((ONNX, onnx), (PROGRAM, program)) if wanted]
        about |= {"programs": programs, "preprocessing": preprocessing}
        write_json(temporary / ABOUT, about)
        if onnx:
            log.info("writing %s", out / ONNX)
            write_onnx(network, temporary / ONNX, preprocessing)
        if program:
            log.info("writing %s", out / PROGRAM)
            write_program(network, temporary / PROGRAM, preprocessing)
        sums = {f.name: sha256_of(f) for f in sorted(temporary.iterdir())}
        write_atomic(temporary / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode())
        write_atomic(temporary / README, model_card(about, out.name).encode())
        os.replace(temporary, out)
    except OSError as error:
        raise explain_os_error(error, out) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return about


def _write_network(network: SceneNetwork, folder: Path) -> dict[str, Any]:
    """The tensors and timm's config; what rsssl.json has to say of them."""
    from rsssl.networks.timm_form import timm_config, timm_form

    head = network.head
    about: dict[str, Any] = {"version": VERSION, "kind": network.kind, "spec": network.backbone.spec}
    model, layer = timm_form(network)
    about |= network.preprocess.to_dict() | {"notes": network.notes, "timm": model is not None, "layer": layer}
    if model is not None:
        write_json(folder / CONFIG, timm_config(model, network, layer))
    if model is not None and layer is not None:
        write_atomic(folder / WEIGHTS, pack_tensors(model.state_dict(), {"format": "pt"}))
    else:  # the file that task=pretrain writes, which checkpoint= takes as it is
        write_backbone(network.backbone, folder / WEIGHTS, network.preprocess, {"format": "pt"})
    if network.trust is not None:
        write_atomic(folder / TRUST, pack_tensors(network.trust.state_dict(), {}))
    if head is not None:
        about["head"] = head.settings()
        if layer is None:
            write_atomic(folder / HEAD, pack_tensors(head.state_dict(), {}))
    return about


def verify(folder: Path) -> None:
    """Raises UserError, naming the file, when one of an exported folder is not what it was when it was written."""
    again = "copy the folder again, or type rsssl-run task=export checkpoint=DIR out=FOLDER"
    try:
        lines = (folder / SUMS).read_text().splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines if line)}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder / SUMS} is missing or damaged, so nothing in the folder can be trusted: {again}"
        ) from error
    for name in {ABOUT, WEIGHTS} - sums.keys():
        raise UserError(f"{folder / SUMS} has no line for {name}: {again}")
    for name, digest in sums.items():
        file = folder / name
        if Path(name).name != name:
            raise UserError(f"{folder / SUMS} names {name}, which lies elsewhere: {again}")
        if not file.is_file():
            if name in OPTIONAL:
                continue
            raise UserError(f"{file} is missing: {again}")
        if sha256_of(file) != digest:
            raise UserError(f"{file} is not the file that was exported (its SHA-256 differs): {again}")


def about_exported(folder: Path) -> dict[str, Any]:
    """What rsssl.json says, once all checksums have been found right.

    Raises:
        UserError: for a file that is missing, tampered with or truncated.
    """
    verify(folder)
    about = read_json(folder / ABOUT, AGAIN)
    with as_described(folder / ABOUT):
        if about["version"] > VERSION:
            raise UserError(f"{folder} was exported by a newer rsssl: type pip install -U rsssl")
    return about


def read_exported(folder: Path) -> SceneNetwork:
    """The network in an exported folder, on the CPU.

    Raises:
        UserError: for a file that is missing, tampered with or truncated.
    """
    about = about_exported(folder)
    state, tensors = read_tensors(folder / WEIGHTS), dict[str, Tensor]()
    with as_described(folder / ABOUT):
        if about["layer"]:
            tensors = {k: state.pop(f"{about['layer']}.{k}") for k in ("weight", "bias")}
        elif about["kind"] == "classifier":
            tensors = read_tensors(folder / HEAD)
        backbone = rebuilt(about["spec"], state, folder)
        head = head_from(about["head"], tensors) if tensors else None
        preprocess, fingerprint = Preprocess.from_dict(about), sha256_of(folder / SUMS)
        trust = None
        if (folder / TRUST).is_file():
            trust = Trust.from_tensors(read_tensors(folder / TRUST), len(preprocess.card.classes))
        return tried(
            SceneNetwork(backbone, preprocess, head, notes=about["notes"], fingerprint=fingerprint, trust=trust)
        )
