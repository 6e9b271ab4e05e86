"""`task=store`: what the store holds, and whether it is what was written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsssl.engine.run import Run


@dataclass
class StoreContents:
    """Lists every artefact of the store; reads all of it, and compares it with the checksums it was written with.

    Args:
        verify: read everything; else only list it.
        mend: throw away what is damaged, so that the next command that needs it makes it again.
    """

    verify: bool
    mend: bool

    def check(self) -> None:
        """Nothing can be wrong."""

    def run(self, run: Run) -> dict[str, Any]:
        """Prints a line for every artefact.

        Returns:
            {"artifacts": how many there are, "bytes": of them, "damaged": {folder: names of its damaged files}}.
        """
        from rsssl.engine.progress import Progress
        from rsssl.engine.store import throw_away

        held = [(stage, folder, bytes_in(folder)) for stage, folder in artifacts(run.store.root)]
        total, damaged = sum(size for _, _, size in held), dict[str, list[str]]()
        with Progress("reading the store", total, "bytes", visible=self.verify) as progress:
            for stage, folder, size in held if self.verify else []:
                if names := damaged_features(folder) if stage == "features" else damaged_files(folder):
                    damaged[str(folder)] = names
                progress.update(size)
        for stage, folder, size in held:
            names = damaged.get(str(folder), [])
            print(f"{stage:<9} {folder.name}  {size / 1e6:>10,.1f} MB  {state(stage, folder, names)}")
            if names and self.mend:
                throw_away(folder, names)
        print(f"\n{len(held)} artefacts, {total / 1e9:,.1f} GB in {run.store.root}, {len(damaged)} damaged")
        if damaged and not self.mend:
            print(
                "the next command that needs one makes it again; to throw them away now: rsssl-run task=store mend=true"
            )
        return {"artifacts": len(held), "bytes": total, "damaged": damaged}


def artifacts(root: Path) -> Iterator[tuple[str, Path]]:
    """Stage and folder of every artefact, finished or not."""
    from rsssl.engine.store import STAGES, is_artifact

    for stage in STAGES:
        for folder in sorted((root / stage).glob("*/")):
            if is_artifact(folder):
                yield stage, folder


def bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def damaged_files(folder: Path) -> list[str]:
    """The names of an artefact's files, and of its checkpoints, that are not what was written."""
    from rsssl.engine.checkpoint import Checkpoints
    from rsssl.engine.store import damage

    checkpoints = [entry.file.name for entry in Checkpoints(folder).entries() if not entry.whole()]
    return [*damage(folder, everything=True), *checkpoints]


def damaged_features(folder: Path) -> list[str]:
    """features.bin, where some rows of it are damaged."""
    from rsssl.evaluation.features import damaged_rows

    return ["features.bin"] if damaged_rows(folder) else []


def state(stage: str, folder: Path, names: list[str]) -> str:
    """What there is to say of an artefact."""
    from rsssl.engine.store import is_finished

    if names:
        return f"DAMAGED: {', '.join(names)}"
    return "" if stage == "features" or is_finished(folder) else "unfinished"
