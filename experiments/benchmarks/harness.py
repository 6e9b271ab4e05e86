"""What every benchmark is made of: a figure (ours and a peer's in turn), the machine's measured peaks, child processes.

Standard library only at import, so that a benchmark of memory or start-up pays for nothing it does not use.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
INSTALL = "pip install -e '.[bench]'"


@dataclass(frozen=True)
class Figure:
    """One line of the table: what was measured, of ours and of a peer, and what was asked.

    unit: "images/s", "s", "MiB"... of ours, theirs and bound. ours, theirs: a number a repeat, taken in turn (theirs
    may be empty: a figure without a peer). target: the ratio asked for; 0 for none. higher_is_better: True for a rate,
    False for a time or memory. bound: the best the cost model allows, and bound_by how it follows. note: conditions,
    anything odd.
    """

    name: str
    peer: str
    unit: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    target: float
    higher_is_better: bool
    bound: float | None = None
    bound_by: str = ""
    note: str = ""

    @property
    def ratios(self) -> tuple[float, ...]:
        """How many times better ours is, for each repeat; above 1 is better, whatever the unit."""
        pairs = zip(self.ours, self.theirs, strict=False)
        return tuple(_divide(a, b) if self.higher_is_better else _divide(b, a) for a, b in pairs)

    @property
    def ratio(self) -> float | None:
        """The median of the ratios; None without a peer."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def reached(self) -> bool | None:
        """Whether the median ratio is what was asked; None where nothing was asked or there is no peer."""
        return None if self.ratio is None or self.target <= 0 else self.ratio >= self.target

    @property
    def of_bound(self) -> float | None:
        """Our median as a part of what the cost model allows: 1 is the bound itself; None without one."""
        if self.bound is None or not self.ours:
            return None
        measured = statistics.median(self.ours)
        return _divide(measured, self.bound) if self.higher_is_better else _divide(self.bound, measured)


def _divide(a: float, b: float) -> float:
    return a / b if b else math.inf


@dataclass
class Bench:
    """What a benchmark is given.

    data: the imagery; scratch: a temporary folder; quick: smallest sizes, for a smoke test.
    flops and bytes are the machine's own peaks with `threads` threads, measured on first use.
    """

    data: Path
    repeats: int = 5
    scratch: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="rsssl-bench-")))
    threads: int = 2
    quick: bool = False

    @cached_property
    def flops(self) -> float:
        """Float32 multiply-adds of a large matrix product, times two, per second: the best of the tries."""
        import torch

        torch.set_num_threads(self.threads)
        n, tries = (1024, 3) if self.quick else (2048, 8)
        a, b = torch.randn(n, n), torch.randn(n, n)
        out = a @ b
        return 2 * n**3 / min(seconds(lambda: torch.mm(a, b, out=out)) for _ in range(tries))

    @cached_property
    def bytes(self) -> float:
        """Bytes read plus bytes written, per second, of a copy far larger than the caches: the best of the tries."""
        import torch

        torch.set_num_threads(self.threads)
        n, tries = (1 << 26, 3) if self.quick else (1 << 28, 6)
        a, b = torch.ones(n // 4), torch.zeros(n // 4)
        return 2 * n / min(seconds(lambda: b.copy_(a)) for _ in range(tries))


def seconds(function: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def in_turn(
    ours: Callable[[], float], theirs: Callable[[], float], repeats: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(our numbers, their numbers): measured ours, theirs, ours, theirs..., so that a slow minute hits both alike."""
    pairs = [(ours(), theirs()) for _ in range(repeats)]
    return tuple(a for a, _ in pairs), tuple(b for _, b in pairs)


def peak_mib() -> float:
    """Peak resident memory of this process so far, MiB.

    Linux: VmHWM, since ru_maxrss there starts at the peak of the process that forked this one.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def in_child(module: str, function: str, **arguments: Any) -> dict[str, Any]:
    """`module.function(**arguments)` in a fresh Python process: the dict it returns, which JSON can hold.

    "peak_mib" in it is the growth of the peak resident memory as the function itself reports it, else over the whole
    call (imports within it included). A child that raised or was killed gives {"error": the reason} in place of a
    result.
    """
    code = "import sys; sys.path.insert(0, sys.argv[1]); import harness; harness._child(*sys.argv[2:])"
    with tempfile.TemporaryDirectory(prefix="rsssl-bench-") as folder:
        answer = Path(folder, "answer.json")
        command = [sys.executable, "-c", code, str(HERE), module, function, json.dumps(arguments), str(answer)]
        child = subprocess.run(command, capture_output=True, text=True, env=environment())
        if child.returncode == 0 and answer.is_file():
            return json.loads(answer.read_text())
    return {"error": why(child.returncode, child.stderr)}


def _child(module: str, function: str, arguments: str, answer: str) -> None:
    imported = __import__(module)
    before = peak_mib()
    result = dict(getattr(imported, function)(**json.loads(arguments)))
    result.setdefault("peak_mib", peak_mib() - before)
    Path(answer).write_text(json.dumps(result))


def why(code: int, stderr: str) -> str:
    """One line on why a process ended with `code`: its last words, or the signal that ended it."""
    if code in (-9, 137):
        return "killed by the system (out of memory?)"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"ended with exit status {code}"


def environment(**extra: str) -> dict[str, str]:
    """The environment of a child: this one's, with this folder first on its path."""
    path = os.pathsep.join(p for p in (str(HERE), os.environ.get("PYTHONPATH", "")) if p)
    return {**os.environ, "PYTHONPATH": path, **extra}


def compiled(folder: Path) -> dict[str, str]:
    """The environment of a command whose start is timed: byte code is kept in `folder`, as after any installation,
    whatever this environment says of byte code. The first run compiles; do not time it.
    """
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**env, "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}


def spread(values: Sequence[float], form: Callable[[float], str]) -> str:
    """'median (min to max)'; the median alone of one value; '-' of none."""
    if not values:
        return "-"
    middle = form(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({form(min(values))} to {form(max(values))})"


def short(value: float) -> str:
    """Three significant digits, thousands with a comma: 0.0123, 4.56, 78.9, 1,230."""
    if not math.isfinite(value) or value == 0:
        return "0" if value == 0 else str(value)
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def failed(name: str, error: BaseException | str) -> Figure:
    """The line of a figure that could not be measured, with the reason in the place of the peer."""
    reason = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    if isinstance(error, ImportError):
        reason = f"{(error.name or str(error)).split('.')[0]} is not installed: {INSTALL}"
    return Figure(name, reason, "", (), (), 0.0, True)


def attempts(bench: Bench, *parts: Callable[[Bench], Iterator[Figure]]) -> Iterator[Figure]:
    """The figures of each part; one that fails, for a missing peer or anything else, gives a line that says so."""
    for part in parts:
        try:
            yield from part(bench)
        except Exception as error:
            if not isinstance(error, ImportError):
                traceback.print_exc()
            yield failed((part.__doc__ or part.__name__).strip().splitlines()[0].rstrip("."), error)


COLUMNS = ("figure", "ours", "peer", "times better (min to max)", "asked", "bound (part reached)", "reached")


def row(figure: Figure) -> tuple[str, ...]:
    """A figure's cells, in the order of COLUMNS."""
    theirs = f"{spread(figure.theirs, short)} {figure.unit} ({figure.peer})" if figure.theirs else figure.peer or "-"
    part = figure.of_bound
    return (
        figure.name,
        f"{spread(figure.ours, short)} {figure.unit}".strip(),
        theirs,
        spread(figure.ratios, short),
        short(figure.target) if figure.target > 0 else "-",
        "-" if figure.bound is None else f"{short(figure.bound)} {figure.unit} ({part:.2f})" if part else "-",
        {True: "yes", False: "no", None: "-"}[figure.reached],
    )
