"""`task=export`: a classifier or a backbone as a folder for timm, the Hugging Face hub, ONNX and `torch.export`."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from rsssl.engine.ranks import rank
from rsssl.engine.store import Store
from rsssl.networks.exported import ONNX, PROGRAM, refuse_existing, write_exported
from rsssl.networks.load import open_network

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    """Writes the folder `out` from `checkpoint` and prints how it is loaded."""
    if rank() > 0:
        return
    out = Path(cfg.out).expanduser()
    refuse_existing(out)
    network, notes = open_network(cfg.checkpoint, Store(cfg.paths.store).root / "pretrain" / cfg.checkpoint)
    options = cfg.export
    about = write_exported(network, out, notes, options.onnx, options.program, options.preprocessing)
    kind = about["kind"]
    print(f"\n{out}: a {kind}, {about['spec']['name']}, {len(about['card']['bands'])} bands")
    print(f"  rsssl.load_{kind}({str(out)!r})")
    if not about["timm"]:
        log.warning(
            "timm cannot build %s: the folder has no config.json, and loads with rsssl alone", about["spec"]["name"]
        )
    else:
        print(f"  timm.create_model({f'local-dir:{out}'!r}, pretrained=True)")
        if kind == "classifier" and not about["layer"]:
            log.warning(
                "timm's model has no layer for this classifier and gives features: rsssl.load_classifier has both"
            )
    for name in (ONNX, PROGRAM):
        if name in about["programs"]:
            print(f"  {out / name}, which takes {'stored' if about['preprocessing'] else 'standardised'} pixels")
