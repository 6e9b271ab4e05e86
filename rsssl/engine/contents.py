"""What a store holds: each artefact's size, when it was used last, what it is of, what needs it; and its removal."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rsssl.engine.files import lock_of
from rsssl.engine.store import DONE, INPUTS, STAGES, inputs_of, is_artifact, is_finished, is_kept
from rsssl.engine.users import used_by_others
from rsssl.records import Damaged, read_json, read_sealed

REMOVED = ".removed-"  # begins the name of a folder that is being removed
RECORDS = ("results.json", "pretrain.json")  # of a run folder, which names the artefacts that it needs
AGAIN = "run its command again"
DAY = 86400.0


@dataclass
class Held:
    """One artefact of a store, finished or not.

    Args:
        folder: where it lies: <store>/<stage>/<hash>.
        of: what it is of, in words.
        datasets: by name.
        needs: the artefacts that it was made of, as stage/hash.
        needed_by: the artefacts that were made of it, and the run folders that name it.
        user: the process that is using it.
    """

    folder: Path
    of: str = ""
    datasets: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    needed_by: list[str] = field(default_factory=list)
    user: str | None = None

    def __post_init__(self) -> None:
        self.stage, self.hash = self.folder.parent.name, self.folder.name
        self.name = f"{self.stage}/{self.hash}"
        self.bytes = bytes_in(self.folder)
        self.kept = is_kept(self.folder)
        self.finished = is_finished(self.folder) or self.stage == "features"
        marks = (DONE,) if is_finished(self.folder) else ("*",)
        files = [file for mark in marks for file in self.folder.glob(mark)]
        self.used = max((file.stat().st_mtime for file in files), default=self.folder.stat().st_mtime)

    @property
    def days(self) -> float:
        """Since it was used last."""
        return max(0.0, time.time() - self.used) / DAY

    def called(self, name: str) -> bool:
        """Whether a name is that of its stage, of a dataset that it is of, or its own."""
        return name in ("all", self.stage, *self.datasets) or self.named(name)

    def named(self, name: str) -> bool:
        """Whether a name is its own, stage/hash, of the hash four letters at least.

        The stage belongs to it: on a command line 3e26412 is a number, 3 with 26,412 zeros.
        """
        return len(name) >= len(self.stage) + 5 and self.name.startswith(name)


def bytes_in(folder: Path) -> int:
    """What a folder takes on the disk: files may have holes."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(OSError):  # it may be gone by now
            status = file.stat()
            total += (512 * getattr(status, "st_blocks", -(-status.st_size // 512))) if file.is_file() else 0
    return total


def artifacts(root: Path) -> Iterator[Path]:
    """The folder of every artefact, finished or not."""
    for stage in STAGES:
        for folder in sorted((root / stage).glob("*/")):
            if is_artifact(folder):
                yield folder


def contents(root: Path, runs: Iterable[Path]) -> list[Held]:
    """All that a store holds.

    Args:
        root: of the store.
        runs: folders below which run folders lie, where what needs an artefact is looked for.
    """
    held = {h.name: h for h in map(Held, artifacts(root))}
    packs = {fingerprint: h.name for h in held.values() if (fingerprint := fingerprint_of(h))}
    weights = {sha: h.name for h in held.values() if (sha := weights_of(h))}
    for h in held.values():
        DESCRIBE[h.stage](h, inputs_of(h.folder) or {}, packs | weights)
        for needed in h.needs:
            if needed in held:
                held[needed].needed_by.append(h.name)
                held[needed].datasets += h.datasets if held[needed].stage == "pack" else ()
    for name, user in used_by_others(root).items():
        if name in held:
            held[name].user = user
    for run, needs in needed_by_runs(runs).items():
        for name in needs & held.keys():
            held[name].needed_by.append(str(run))
    return list(held.values())


def _describe_pack(held: Held, inputs: dict[str, Any], known: dict[str, str]) -> None:
    settings = inputs.get("settings", {})
    root = str(settings.get("root", "?"))
    size = f" at {settings['size']} px" if settings.get("size") else ""
    bands = f", bands {', '.join(map(str, settings['select']))}" if settings.get("select") else ""
    held.of = f"the images of {root}{size}{bands}"
    held.datasets = tuple(str(name) for name in (settings.get("name"), Path(root).name) if name)


def _describe_training(held: Held, inputs: dict[str, Any], known: dict[str, str]) -> None:
    data, keys = inputs.get("data", []), inputs.get("pretrain", {})
    method = str(inputs.get("ssl", {}).get("_target_", "?")).rpartition(".")[2]
    network = inputs.get("backbone", {}).get("name", "?")
    held.datasets = tuple(str(part["name"]) for part in data)
    long = next((f", {keys[unit]} {unit}" for unit in ("epochs", "steps", "minutes") if unit in keys), "")
    held.of = f"{network} trained by {method} on {'+'.join(held.datasets)}{long}"
    needs = [known.get(part["pixels"]) for part in data] + [known.get(inputs.get("ssl", {}).get("teacher", ""))]
    needs += [f"pretrain/{inputs['resumed']['from']}"] if "resumed" in inputs else []
    held.needs = tuple(name for name in needs if name)


def _describe_features(held: Held, inputs: dict[str, Any], known: dict[str, str]) -> None:
    try:
        of = read_sealed(held.folder / INPUTS, AGAIN).get("of", {})
    except Damaged:
        held.of = "of an earlier rsssl, which reads them no more" if not (held.folder / INPUTS).is_file() else ""
        return
    held.of, held.datasets = f"{of['network']} on {of['dataset']}", (of["dataset"],)
    held.needs = (f"pack/{of['pack']}", *([f"pretrain/{of['weights']}"] if "weights" in of else []))


def _describe_backbone(held: Held, inputs: dict[str, Any], known: dict[str, str]) -> None:
    name = inputs.get("card", {}).get("name")
    held.of, held.datasets = "a network as it started" + (f", for {name}" if name else ""), (name,) if name else ()


def _describe_ground(held: Held, inputs: dict[str, Any], known: dict[str, str]) -> None:
    held.of = "where tiles lie"


DESCRIBE = {
    "pack": _describe_pack,
    "pretrain": _describe_training,
    "features": _describe_features,
    "backbone": _describe_backbone,
    "ground": _describe_ground,
}


def fingerprint_of(held: Held) -> str | None:
    """The hash of a pack's content."""
    try:
        fingerprint = read_json(held.folder / "card.json", AGAIN).get("fingerprint") if held.stage == "pack" else None
    except Damaged:
        return None
    return str(fingerprint) if fingerprint else None


def weights_of(held: Held) -> str | None:
    """The SHA-256 of the weights of a finished training."""
    try:
        files = read_sealed(held.folder / DONE, AGAIN)["files"] if held.stage == "pretrain" else {}
        return str(files["backbone.safetensors"][0])
    except (Damaged, LookupError, TypeError):
        return None


def needed_by_runs(folders: Iterable[Path]) -> dict[Path, set[str]]:
    """The run folders below some folders, each with the artefacts (stage/hash) that its records name."""
    needs: dict[Path, set[str]] = {}
    for file in sorted(file for folder in folders for name in RECORDS for file in folder.rglob(name)):
        try:
            record = read_json(file, AGAIN)
        except Damaged:
            continue
        entries = [record.get("pretrain"), record.get("data")]
        values = [value for entry in entries if isinstance(entry, dict) for value in entry.values()]
        named = [Path(value) for value in values if isinstance(value, str) and is_artifact(Path(value))]
        needs.setdefault(file.parent, set()).update(f"{folder.parent.name}/{folder.name}" for folder in named)
    return needs


def remove(held: Held, root: Path) -> str | None:
    """Removes an artefact, so that what needs it makes it again; or says why it stays.

    First it is no longer finished, then it has another name, then it is deleted: a half of it is never taken for whole.
    """
    folder, hidden = held.folder, held.folder / f".{DONE}"
    lock = FileLock(lock_of(folder))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return "a command is working on it"
    except OSError as error:
        return error.strerror or str(error)
    try:
        if is_finished(folder):
            os.replace(folder / DONE, hidden)
        if user := used_by_others(root).get(held.name):
            if hidden.is_file():
                os.replace(hidden, folder / DONE)
            return f"{user} is using it"
        away = folder.with_name(f"{REMOVED}{folder.name}-{uuid.uuid4().hex[:8]}")
        os.replace(folder, away)
        shutil.rmtree(away, ignore_errors=True)
    except OSError as error:
        return error.strerror or str(error)
    finally:
        lock.release()
    return None


def sweep(root: Path) -> None:
    """Deletes what an interrupted removal has left."""
    for stage in STAGES:
        for folder in (root / stage).glob(f"{REMOVED}*"):
            shutil.rmtree(folder, ignore_errors=True)
