"""`task=store`: what the store holds, whether it is what was written, and room where it takes too much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsssl.checks import positive, text
from rsssl.engine.run import Run
from rsssl.errors import UserError

if TYPE_CHECKING:
    from rsssl.engine.contents import Held

RUNS = ("runs", "multirun")  # where run folders lie unless hydra.run.dir says otherwise
SHOWN = 3  # of what needs an artefact


@dataclass
class StoreContents:
    """Lists every artefact of the store, the largest first; compares it with its checksums; removes what is not needed.

    A NAME is that of a stage (pack, pretrain, features, ...), of a dataset, or an artefact's: STAGE/HASH, of the hash
    four letters or more; several stand in brackets, [NAME,NAME]. What a command is using stays, and so does what was
    asked to be kept, unless it is named itself. What is removed is made again by the next command that needs it.

    Args:
        verify: read everything, and compare it with the checksums it was written with.
        mend: verify, and throw away what is damaged, so that the next command that needs it makes it again.
        older: only what was not used for so many days.
        above: only what is larger than so many GB.
        remove: a NAME, several, or "all": remove these.
        keep: a NAME, or several: never remove these, and when they are trainings keep what `pretrain.resume=` goes on
            from.
    """

    verify: bool
    mend: bool
    older: float | None
    above: float | None
    remove: Any
    keep: Any

    def check(self) -> None:
        """Refuses impossible values."""
        positive(older=self.older, above=self.above)
        text(remove=self.remove, keep=self.keep)
        if self.remove and self.keep:
            raise UserError("remove= and keep= are two commands: type keep= first, then remove=")

    def run(self, run: Run) -> dict[str, Any]:
        """Prints a line for every artefact.

        Returns:
            {"artifacts": how many there are now, "bytes": of them, "damaged": {folder: names of its damaged files},
            "removed": folders, "freed": bytes of these}.
        """
        from rsssl.engine.contents import contents, sweep
        from rsssl.engine.store import keep

        root = run.store.root
        sweep(root)
        held = contents(root, [Path(name) for name in RUNS])
        for name in (*names(self.remove), *names(self.keep)):
            refuse_unknown(name, held)
        chosen = [h for h in held if h.days >= (self.older or 0) and h.bytes >= 1e9 * (self.above or 0)]
        chosen = sorted(chosen, key=lambda h: -h.bytes)
        for h in chosen if self.keep else []:
            if any(map(h.called, names(self.keep))):
                keep(h.folder)
                h.kept = True
        damaged = self._damaged(chosen) if self.verify or self.mend else {}
        removed = []
        for h in chosen:
            removed += [h] if self._print(h, damaged.get(str(h.folder), []), root) else []
        left = [h for h in held if h not in removed]
        total, freed = sum(h.bytes for h in left), sum(h.bytes for h in removed)
        print_groups(left, root)
        read = f", {len(damaged)} damaged" if self.verify or self.mend else ""
        print(f"\n{len(left)} artefacts, {gigabytes(total)} in {root}{read}")
        self._print_next(chosen, damaged, len(removed), freed)
        folders = [str(h.folder) for h in removed]
        return {"artifacts": len(left), "bytes": total, "damaged": damaged, "removed": folders, "freed": freed}

    def _damaged(self, held: Sequence[Held]) -> dict[str, list[str]]:
        """The names of damaged files by folder; thrown away where that was asked for."""
        from rsssl.engine.progress import Progress
        from rsssl.engine.store import throw_away
        from rsssl.evaluation.bank_files import damaged_features

        damaged = {}
        with Progress("reading the store", sum(h.bytes for h in held), "bytes") as progress:
            for h in held:
                if found := damaged_features(h.folder) if h.stage == "features" else damaged_files(h.folder):
                    damaged[str(h.folder)] = found
                    if self.mend:
                        throw_away(h.folder, found)
                progress.update(h.bytes)
        return damaged

    def _print(self, held: Held, damaged: list[str], root: Path) -> bool:
        """One artefact's line; whether it was removed."""
        from rsssl.engine.contents import remove

        asked = [name for name in names(self.remove) if held.called(name)]
        stays = "asked to be kept" if held.kept and not any(map(held.named, asked)) else None
        stays = stays if stays or not asked else remove(held, root)
        line = f"{held.name:<25} {held.bytes / 1e6:>10,.1f} MB {held.days:>4.0f} days  {held.of}"
        print("; ".join([line, *states(held, damaged)]))
        if asked:
            print(f"    {'stays: ' + stays if stays else 'removed'}")
        return bool(asked) and stays is None

    def _print_next(self, chosen: Sequence[Held], damaged: dict[str, list[str]], removed: int, freed: int) -> None:
        """What was freed, or what to type."""
        if damaged and not self.mend:
            print(
                "the next command that needs one makes it again; to throw them away now: rsssl-run task=store mend=true"
            )
        if self.remove:
            print(f"removed {removed}: {gigabytes(freed)} are free again")
        elif limits := " ".join(f"{k}={v:g}" for k, v in (("older", self.older), ("above", self.above)) if v):
            size = gigabytes(sum(h.bytes for h in chosen))
            print(f"to remove the {len(chosen)} above ({size}): rsssl-run task=store {limits} remove=all")
        elif chosen:
            print("to remove some: rsssl-run task=store remove=NAME, or remove=all older=DAYS above=GB")


def names(value: Any) -> list[str]:
    """The names that a key holds."""
    return [] if value is None else [str(v) for v in value] if isinstance(value, list) else [str(value)]


def refuse_unknown(name: str, held: Sequence[Held]) -> None:
    """Raises UserError for a name of nothing that the store holds."""
    from rsssl.engine.store import STAGES

    if name in ("all", *STAGES) or any(h.called(name) for h in held):
        return
    datasets = sorted({d for h in held for d in h.datasets})
    raise UserError(
        f"the store holds nothing called {name}: type a stage ({', '.join(STAGES)}), a dataset "
        f"({', '.join(datasets) or 'there is none'}), or STAGE/HASH as rsssl-run task=store lists it"
    )


def states(held: Held, damaged: Sequence[str]) -> list[str]:
    """What there is to say of an artefact beside what it is of."""
    said = [f"DAMAGED: {', '.join(damaged)}"] if damaged else []
    said += [] if held.finished else ["unfinished"]
    said += ["kept"] if held.kept else []
    said += [f"in use by {held.user}"] if held.user else []
    if held.needed_by:
        more = f" and {len(held.needed_by) - SHOWN} more" if len(held.needed_by) > SHOWN else ""
        said.append(f"needed by {', '.join(held.needed_by[:SHOWN])}{more}")
    return said


def print_groups(held: Sequence[Held], root: Path) -> None:
    """A line for each stage, and for what else lies in the store: what it takes; the largest first."""
    from rsssl.engine.contents import bytes_in

    groups: dict[str, list[int]] = {}
    for h in held:
        groups.setdefault(h.stage, []).append(h.bytes)
    for other in root.glob("[!.]*"):
        if other.name not in groups and (size := bytes_in(other)):
            groups[other.name] = [size]
    print()
    for name, sizes in sorted(groups.items(), key=lambda item: -sum(item[1])):
        print(f"{name:<25} {sum(sizes) / 1e6:>10,.1f} MB in {len(sizes)}")


def gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def damaged_files(folder: Path) -> list[str]:
    """The names of an artefact's files, and of its checkpoints, that are not what was written."""
    from rsssl.engine.checkpoint import Checkpoints
    from rsssl.engine.store import damage

    checkpoints = [entry.file.name for entry in Checkpoints(folder).entries() if not entry.whole()]
    return [*damage(folder, everything=True), *checkpoints]
