"""The command line's own time: what `--help` and a composed configuration cost before any work is done."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

from harness import INSTALL, Bench, Figure, attempts, compiled, in_turn, seconds


def figures(bench: Bench) -> Iterator[Figure]:
    yield from attempts(bench, help_text, composed)


def call(command: list[str], folder: Path) -> None:
    """Runs a command to its end in `folder`, silently; CalledProcessError when it fails."""
    # lightly would ask its server for a newer version otherwise, which is not what is compared
    env = compiled(folder) | {"LIGHTLY_DID_VERSION_CHECK": "True"}
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)


def console(name: str) -> str:
    """A console command of this Python's environment. FileNotFoundError."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if not found:
        raise FileNotFoundError(f"there is no command {name}: {INSTALL}")
    return found


def help_text(bench: Bench) -> Iterator[Figure]:
    """rsssl-run --help"""
    name = "lightly-ssl-train"
    ours, theirs = ([console(command), "--help"] for command in ("rsssl-run", name))
    bare = [sys.executable, "-c", "pass"]
    for command in (bare, ours, theirs):  # once untimed: files in the page cache, byte code compiled
        call(command, bench.scratch)
    timed = [partial(lambda c: seconds(partial(call, c, bench.scratch)), command) for command in (ours, theirs)]
    measured = in_turn(timed[0], timed[1], bench.repeats)
    least = min(seconds(partial(call, bare, bench.scratch)) for _ in range(5))
    yield Figure(
        "rsssl-run --help",
        f"{name} --help of lightly {version('lightly')}",
        "s",
        *measured,
        15,
        False,
        least,
        "the interpreter's own start, python -c pass",
        "Wall time, files in the page cache, byte code compiled.",
    )


def composed(bench: Bench) -> Iterator[Figure]:
    """rsssl-run --cfg job, processor time"""
    ours, bare = [console("rsssl-run"), "--cfg", "job"], [sys.executable, "-c", "pass"]

    def cpu(command: list[str]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        call(command, bench.scratch)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    cpu(ours)
    whole, empty = in_turn(partial(cpu, ours), partial(cpu, bare), bench.repeats)
    beyond = tuple(a - b for a, b in zip(whole, empty, strict=True))
    yield Figure(
        "rsssl-run --cfg job, processor time",
        "",
        "s",
        beyond,
        (),
        0,
        False,
        note="Asked: below 1 s. User and system time beyond that of python -c pass, in turn.",
    )
