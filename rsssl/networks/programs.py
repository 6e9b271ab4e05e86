"""A network as a program that needs none of our code: ONNX, and the archive of `torch.export`."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.errors import UserError
from rsssl.networks.network import SceneNetwork, beside

OPSET = 18
LARGEST = 1 << 31  # bytes of an ONNX file: protobuf's limit
EXAMPLES = 2  # images in the traced batch; one would be taken for a constant
ANY_BATCH = {"pixels": {0: torch.export.Dim("batch")}}


class Program(nn.Module):
    """What is exported: pixels -> "probabilities" (B, K) or "features" (B, D).

    The antialiased resize, which ONNX lacks, is linear: for a fixed size it is a product with a matrix on each side.

    Args:
        network: what computes them.
        preprocessing: pixels are stored ones (B, C, *card.size) of the card's dtype; else they are standardised
            float32 (B, C, size, size).
    """

    rows: Tensor
    cols: Tensor

    def __init__(self, network: SceneNetwork, preprocessing: bool) -> None:
        super().__init__()
        self.network, self.preprocessing = network, preprocessing
        (height, width), size = network.card.size, network.size
        self.resized = (height, width) != (size, size)
        if preprocessing and self.resized:
            self.register_buffer("rows", _resizing(height, size))
            self.register_buffer("cols", _resizing(width, size).T.contiguous())

    def forward(self, pixels: Tensor) -> Tensor:
        if self.preprocessing:
            pixels = self.network.input.scale(pixels)
            if self.resized:
                pixels = self.rows @ pixels @ self.cols
        features = self.network.backbone(pixels)
        if self.network.head is None:
            return features
        return self.network.head(beside(features, pixels, self.network.head))

    def example(self) -> Tensor:
        """A batch of zeros that it takes."""
        card, size = self.network.card, self.network.size
        if self.preprocessing:
            return torch.zeros(EXAMPLES, card.n_bands, *card.size, dtype=getattr(torch, card.dtype))
        return torch.zeros(EXAMPLES, card.n_bands, size, size)


def _resizing(old: int, new: int) -> Tensor:
    """The matrix (new, old) of the antialiased bilinear resize of one side: what it makes of the unit vectors."""
    return F.interpolate(torch.eye(old)[None, None], (new, old), mode="bilinear", antialias=True)[0, 0]


def check_programs(network: SceneNetwork, onnx: bool, program: bool) -> None:
    """Raises UserError, before anything is written, for what cannot be exported."""
    if onnx and not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript")):
        raise UserError("export.onnx=true needs the packages onnx and onnxscript: type pip install 'rsssl[export]'")


def write_onnx(network: SceneNetwork, file: Path, preprocessing: bool) -> None:
    """ONNX with a batch of any size; input "pixels", output "probabilities" or "features".

    Raises:
        UserError: when the network cannot be exported.
    """
    import onnx

    size = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    options: dict[str, Any] = {
        "input_names": ["pixels"],
        "output_names": ["features" if network.head is None else "probabilities"],
        "opset_version": OPSET,
        "external_data": size >= LARGEST * 0.9,
        "dynamo": True,
        "verbose": False,
    }
    program = Program(network, preprocessing).eval()
    with _explained("export.onnx=true", network):
        torch.onnx.export(program, (program.example(),), str(file), dynamic_shapes=ANY_BATCH, **options)
        onnx.checker.check_model(str(file))


def write_program(network: SceneNetwork, file: Path, preprocessing: bool) -> None:
    """An archive for `torch.export.load(file).module()`, with a batch of any size.

    Raises:
        UserError: when the network cannot be exported.
    """
    program = Program(network, preprocessing).eval()
    with _explained("export.program=true", network):
        torch.export.save(torch.export.export(program, (program.example(),), dynamic_shapes=ANY_BATCH), file)


@contextmanager
def _explained(key: str, network: Any) -> Iterator[None]:
    """The exporter's failure as a sentence; its chatter about its own parts is left out."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except Exception as error:  # exporters raise whatever they like
        raise UserError(
            f"{network.backbone.spec['name']} cannot be exported ({type(error).__name__}: {str(error)[:300]}): "
            f"type {key.replace('true', 'false')}"
        ) from error
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
