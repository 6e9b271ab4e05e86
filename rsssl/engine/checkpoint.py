"""Checkpoints that are whole or absent, and say so: atomic, checksummed, the last two kept.

`checkpoint.json` is the pointer, replaced last: file names with their SHA-256, newest first. A newest file that is damaged
is reported, and the one before it loads. The files hold tensors and plain Python: `torch.load(weights_only=True)` opens them.
"""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import torch

from rsssl.engine.files import sha256, write_atomic, write_json
from rsssl.errors import UserError

log = logging.getLogger(__name__)
KEEP = 2


class Checkpoints:
    """The checkpoints of one training in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pointer = folder / "checkpoint.json"

    def _entries(self) -> list[dict[str, Any]]:
        if not self.pointer.is_file():
            return []
        return json.loads(self.pointer.read_text())["checkpoints"]

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Writes the state after `step` steps; older files go only once the new one stands."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
        name = f"checkpoint-{step:09d}.pt"
        write_atomic(self.folder / name, data)
        old = [e for e in self._entries() if e["file"] != name]
        write_json(self.pointer, {"checkpoints": [{"file": name, "step": step, "sha256": sha256(data)}, *old][:KEEP]})
        kept = {e["file"] for e in self._entries()}
        for file in self.folder.glob("checkpoint-*.pt"):
            if file.name not in kept:
                file.unlink(missing_ok=True)

    def load(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """The newest whole checkpoint, or None when there is none.

        Raises:
            UserError: when checkpoints are recorded but none of them is whole.
        """
        entries = self._entries()
        for entry in entries:
            file = self.folder / entry["file"]
            data = file.read_bytes() if file.is_file() else b""
            if sha256(data) == entry["sha256"]:
                return torch.load(io.BytesIO(data), map_location=device, weights_only=True)
            log.warning("checkpoint %s is damaged (its checksum does not match); trying the one before it", file)
        if entries:
            raise UserError(
                f"no checkpoint in {self.folder} is whole: delete that folder to start afresh, rm -r {self.folder}"
            )
        return None

    def clear(self) -> None:
        """Removes them, once the training's result is written."""
        self.pointer.unlink(missing_ok=True)
        for file in self.folder.glob("checkpoint-*.pt"):
            file.unlink(missing_ok=True)
