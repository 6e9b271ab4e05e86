"""The artefact store: every stage's result under a hash of what went into it, worked out once.

    <store>/<stage>/<hash>/            the artefact's files
    <store>/<stage>/<hash>/inputs.json what goes in, for an unfinished one
    <store>/<stage>/<hash>/done.json   written last: what went in, and when it was finished

A stage is a pure function of its inputs. A folder without `done.json` is unfinished work, which the stage may resume.
Two processes that want the same artefact take a file lock: one works, the other waits.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsssl.engine.files import explain_os_error, locked, write_json
from rsssl.engine.ranks import rank, world_size

log = logging.getLogger(__name__)


def digest(inputs: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that stand for `inputs` (JSON values; the order of keys does not matter)."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Artifact:
    """A finished stage: its folder, its hash, and whether it was there already."""

    folder: Path
    hash: str
    reused: bool
    seconds: float


class Store:
    """Artefacts below one root folder.

    Attributes:
        root: that folder.
        opened: by their hash, what is kept open between the jobs of a sweep, which run in one process.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().resolve()
        self.opened: dict[str, Any] = {}

    def folder(self, stage: str, inputs: Mapping[str, Any]) -> Path:
        return self.root / stage / digest(inputs)

    def get(
        self, stage: str, inputs: Mapping[str, Any], build: Callable[[Path], object], together: bool = False
    ) -> Artifact:
        """The artefact of `stage` for `inputs`, built by `build(folder)` unless it is finished already.

        `build` may find the remains of an interrupted attempt in its folder, and resumes or overwrites them. Under
        torchrun rank 0 builds, and the others wait and do what it broadcasts, functions to call; or, when `together`,
        all ranks call `build` at the same time.
        """
        if world_size() == 1:
            return self._get(stage, inputs, build)
        return self._get_under_torchrun(stage, inputs, build, together)

    def _get_under_torchrun(
        self, stage: str, inputs: Mapping[str, Any], build: Callable[[Path], object], together: bool
    ) -> Artifact:
        from rsssl.engine.distributed import broadcast  # torch, which packing on one process does without

        if rank() == 0:

            def build_all(folder: Path) -> None:
                if together:
                    broadcast("build")
                build(folder)

            artifact = self._get(stage, inputs, build_all)
            broadcast(artifact)
            return artifact
        word = broadcast(None)
        while not isinstance(word, Artifact):
            build(self.folder(stage, inputs)) if word == "build" else word()
            word = broadcast(None)
        return word

    def _get(self, stage: str, inputs: Mapping[str, Any], build: Callable[[Path], object]) -> Artifact:
        folder = self.folder(stage, inputs)
        done = folder / "done.json"
        if done.is_file():
            log.info("%s %s: reused", stage, folder.name)
            return Artifact(folder, folder.name, True, json.loads(done.read_text())["seconds"])
        waiting = f"{stage} {folder.name}: another process is working on it; waiting"
        with locked(folder.with_name(f".{folder.name}.lock"), waiting=waiting):
            if done.is_file():
                log.info("%s %s: reused (another process has just finished it)", stage, folder.name)
                return Artifact(folder, folder.name, True, json.loads(done.read_text())["seconds"])
            log.info("%s %s: working", stage, folder.name)
            begin = time.monotonic()
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise explain_os_error(error, folder) from error
            write_json(folder / "inputs.json", {"stage": stage, "inputs": inputs})
            build(folder)
            seconds = time.monotonic() - begin
            write_json(done, {"stage": stage, "inputs": inputs, "seconds": seconds, "finished": time.time()})
            log.info("%s %s: done in %.0f s", stage, folder.name, seconds)
            return Artifact(folder, folder.name, False, seconds)


def inputs_of(folder: Path) -> dict[str, Any] | None:
    """What went into the artefact in this folder, finished or not; None where nothing says it."""
    for name in ("inputs.json", "done.json"):
        if (folder / name).is_file():
            return json.loads((folder / name).read_text())["inputs"]
    return None


def recorded(run: Path) -> Path | None:
    """The store folder that a run directory's results name."""
    for name in ("results.json", "pretrain.json"):
        if (run / name).is_file():
            record = json.loads((run / name).read_text()).get("pretrain") or {}
            return Path(record["folder"]) if "folder" in record else None
    return None
