"""Saving, and being killed, damaged or read at the same time."""

from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path

import pytest
import torch

from rsssl.engine.checkpoint import Checkpoints, read
from rsssl.errors import UserError

SAVE = """
checkpoints = Checkpoints(Path("c"))
def save(step):
    checkpoints.save(step, {"step": step, "w": torch.full((50_000,), float(step)), "names": ["a", 1]})
    checkpoints.wait()
for step in STEPS:
    save(step)
"""
DIE = """
import signal
from rsssl.engine import files
def deadly(owner, name, number, after=False):
    real, calls = getattr(owner, name), []
    def call(*arguments, **options):
        calls.append(1)
        if len(calls) == number and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments, **options)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, call)
deadly(WHERE)
save(3)
"""
PHASES = {
    "in the middle of the bytes": "files.HashedFile, 'write', 4",
    "before the bytes are on the disk": "os, 'fsync', 1",
    "before the file has its name": "os, 'replace', 1",
    "when it has its name": "os, 'replace', 1, True",
    "before its record is on the disk": "os, 'fsync', 3",
    "before its record has its name": "os, 'replace', 2",
    "before the purge": "Checkpoints, '_purge', 1",
    "in the middle of the purge": "Path, 'unlink', 2",
}


def check(state: dict, *steps: int) -> None:
    assert state["step"] in steps and torch.equal(state["w"], torch.full((50_000,), float(state["step"])))


@pytest.mark.parametrize("phase", PHASES)
def test_killed_while_saving_the_one_before_loads(phase: str, workshop, tmp_path: Path) -> None:
    code = SAVE.replace("STEPS", "1, 2") + DIE.replace("WHERE", PHASES[phase])
    workshop.run(tmp_path, code=code, exits=-signal.SIGKILL)
    checkpoints = Checkpoints(tmp_path / "c")
    written = phase in ("before the purge", "in the middle of the purge")
    state = checkpoints.load()
    assert state is not None
    check(state, 3 if written else 2)
    workshop.run(tmp_path, code=SAVE.replace("STEPS", "[4]"))
    state = checkpoints.load()
    assert state is not None
    check(state, 4)
    names = sorted(f.name for f in (tmp_path / "c").iterdir())
    before = 3 if written else 2
    assert names == sorted(f"checkpoint-{s:09d}.{e}" for s in (before, 4) for e in ("json", "pt")), (
        "a file is left behind, or lost"
    )


@pytest.mark.parametrize(
    "damage", ["truncated", "empty", "one bit", "no file", "record cut short", "record of another"]
)
def test_a_damaged_newest_checkpoint_is_reported_and_a_training_still_ends_the_same(
    damage: str, workshop, pack_of_tiles: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    train = f"train('simclr', {str(pack_of_tiles)!r}, {{folder!r}}, 6{{options}})"
    warm = ["simclr", str(pack_of_tiles)]
    workshop.run(tmp_path, warm=warm, code=train.format(folder="whole", options=""))
    stop = "meanwhile=[(6, lambda step: os.kill(os.getpid(), 9) if step == 5 else {})]"
    workshop.run(tmp_path, warm=warm, code=train.format(folder="cut", options=", " + stop), exits=-signal.SIGKILL)
    newest = Checkpoints(tmp_path / "cut").entries()[0]
    data, record = bytearray(newest.file.read_bytes()), newest.file.with_suffix(".json")
    data[len(data) // 2] ^= 1
    {
        "truncated": lambda: newest.file.write_bytes(data[:-1000]),
        "empty": lambda: newest.file.write_bytes(b""),
        "one bit": lambda: newest.file.write_bytes(data),
        "no file": newest.file.unlink,
        "record cut short": lambda: record.write_text(record.read_text()[:20]),
        "record of another": lambda: record.write_text(record.read_text().replace('6": "', '6": "0')),
    }[damage]()
    code = "import logging; logging.basicConfig()\n" + train.format(folder="cut", options="")
    text = workshop.run(tmp_path, warm=warm, code=code)
    assert "is damaged" in text and str(newest.file.name) in text
    a, b = (torch.load(tmp_path / f / "final.pt", weights_only=True) for f in ("whole", "cut"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_the_last_two_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step, score in enumerate([None, 0.5, 0.7, 0.7, None, 0.6, None], 1):
        checkpoints.save(step, {"step": step}, score)
    checkpoints.wait()
    assert [e.step for e in checkpoints.entries()] == [7, 6, 4]
    best = checkpoints.best()
    assert best is not None and best.step == 4 and read(best.file)["step"] == 4
    checkpoints.keep_newest()
    assert [e.step for e in checkpoints.entries()] == [7] and len(list(tmp_path.iterdir())) == 2


def test_a_reader_never_finds_half_of_one(workshop, tmp_path: Path) -> None:
    """Another process writes and purges while this one reads as fast as it can: it finds a whole one, or none."""
    writer = workshop.start(tmp_path, code=SAVE.replace("STEPS", "range(1, 60)"))
    seen = set()
    while not (tmp_path / "c" / "checkpoint-000000059.json").exists():
        try:
            state = Checkpoints(tmp_path / "c").load()
        except UserError as error:
            assert "cannot be read" in str(error), error
            continue
        if state is not None:
            check(state, state["step"])
            seen.add(state["step"])
    assert writer and workshop.wait() == [0] and len(seen) > 3


def test_a_pickle_with_code_in_it_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (os.system, (f"touch {tmp_path / 'pwned'}",))

    torch.save({"step": Evil()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(UserError, match="cannot be read"):
            read(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="no checkpoint"):
        read(tmp_path / "list.pt")
    assert not (tmp_path / "pwned").exists()
