"""`task=export`: a classifier or a backbone as a folder for timm, the Hugging Face hub, ONNX and `torch.export`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rsssl.checks import writable
from rsssl.engine.run import Run

log = logging.getLogger(__name__)


@dataclass
class Export:
    """Writes a folder with everything that is needed to use a network anywhere.

    Args:
        checkpoint: the network: a run folder, a folder of the store or its name there.
        out: the new folder.
        onnx: write model.onnx too.
        program: write model.pt2, an archive of torch.export, too.
        preprocessing: these two take stored pixels, and not standardised ones.
    """

    checkpoint: str
    out: str
    onnx: bool
    program: bool
    preprocessing: bool

    examples: ClassVar[dict[str, str]] = {"checkpoint": "runs/mine", "out": "my_model"}

    def check(self) -> None:
        """Refuses a folder that cannot be made."""
        writable("out", self.out, folder=True)

    def run(self, run: Run) -> dict[str, Any]:
        """Exports, and prints how the folder is loaded.

        Returns:
            What rsssl.json says of the network.
        """
        from rsssl.engine.ranks import rank
        from rsssl.networks.exported import ONNX, PROGRAM, refuse_existing, write_exported
        from rsssl.networks.load import load

        if rank() > 0:
            return {}
        out = Path(self.out).expanduser()
        refuse_existing(out)
        network = load(self.checkpoint, run.store.root / "pretrain")
        about = write_exported(network, out, self.onnx, self.program, self.preprocessing)
        name, kind = about["spec"]["name"], about["kind"]
        print(f"\n{out}: a {kind}, {name}, {len(about['card']['bands'])} bands")
        print(f"  rsssl.load_{kind}({str(out)!r})")
        if not about["timm"]:
            log.warning("timm cannot build %s: the folder has no config.json, and loads with rsssl alone", name)
        else:
            print(f"  timm.create_model({f'local-dir:{out}'!r}, pretrained=True)")
            if kind == "classifier" and not about["layer"]:
                log.warning(
                    "timm's model has no layer for this classifier and gives features: rsssl.load_classifier has both"
                )
        for program in (ONNX, PROGRAM):
            if program in about["programs"]:
                stored = "stored" if about["preprocessing"] else "standardised"
                print(f"  {out / program}, which takes {stored} pixels")
        return about
