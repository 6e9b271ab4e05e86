"""One command, one table: ours and the peers' in one run, on the same data and the same machine.

    python experiments/benchmarks/run.py [NAME ...] [--data DIR] [--repeats 5] [--record]

Every NAME is a module beside this file and runs in a process of its own, so that neither memory nor imports mix.
--record keeps the lines in results.json beside RESULTS.md, which is written from it; modules not run keep theirs. What
was measured while others worked on the machine is not recorded; what was while it was slower or faster is marked.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from harness import COLUMNS, Bench, Figure, attempts, environment, failed, in_child, row, seconds, why  # noqa: E402
from quiet import Watch, busy, changed  # noqa: E402

MODULES = ("views", "pack", "probes", "loss", "neighbours", "step", "startup", "memory", "mapping", "accuracy")
SLOW = ("accuracy",)  # half an hour: only when named, or with --all
LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "hydra-core",
    "lightly",
    "kornia",
    "torchgeo",
    "scikit-learn",
    "rasterio",
    "GDAL",
    "Pillow",
)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODULES)}; all but {', '.join(SLOW)}")
    parser.add_argument("--all", action="store_true", help=f"{', '.join(SLOW)} too, which takes half an hour")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("RSSSL_DATA", "data")),
        help="folder with EuroSAT_RGB, EuroSAT_MS, NWPU_RESISC45 (RSSSL_DATA, else data)",
    )
    parser.add_argument("--repeats", type=int, default=5, help="of ours and theirs, in turn")
    parser.add_argument("--threads", type=int, default=2, help="threads of ours; worker processes of theirs")
    parser.add_argument("--quick", action="store_true", help="one repeat at the smallest sizes: a smoke test")
    parser.add_argument("--record", action="store_true", help="write RESULTS.md and results.json beside this file")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the record there instead")
    parser.add_argument("--module", help=argparse.SUPPRESS)  # what a process of its own is started with
    parser.add_argument("--lines", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--peaks", default="", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    unknown = [name for name in args.names if name not in MODULES]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(MODULES)}")
    args.repeats = 1 if args.quick else args.repeats
    args.data = args.data.expanduser().absolute()
    if not args.data.is_dir():
        parser.error(f"{args.data} is no folder: give the imagery with --data DIR")
    return args


# In a process of its own ---------------------------------------------------------------------------------------------


def run_module(args: argparse.Namespace) -> None:
    """The figures of one module, a line of JSON each, written as they come."""
    bench = Bench(args.data, args.repeats, args.scratch, args.threads, args.quick)
    if args.peaks:
        vars(bench).update(json.loads(args.peaks))  # measured once for the whole run

    def figures(bench: Bench) -> Any:
        yield from importlib.import_module(args.module).figures(bench)

    figures.__doc__ = args.module
    with open(args.lines, "w") as lines:
        for figure in attempts(bench, figures):
            lines.write(json.dumps(asdict(figure)) + "\n")
            lines.flush()
            print("  " + " | ".join(row(figure)), file=sys.stderr, flush=True)


def machine(threads: int, quick: bool) -> dict[str, Any]:
    """What was measured on, and its peaks (called by `in_child`: it imports torch)."""
    import torch

    bench = Bench(Path(), threads=threads, quick=quick)
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = models[0].split(":")[1].strip() if models else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {
        "CPU": f"{cpu}, {cores} cores, {threads} threads used, vector units {torch.backends.cpu.get_cpu_capability()}",
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "libraries": ", ".join(f"{name} {v}" for name in ("rsssl", *LIBRARIES) if (v := version(name))),
    }
    if torch.cuda.is_available():
        found["GPU"] = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return {"machine": found, "peaks": {"flops": bench.flops, "bytes": bench.bytes}}


def version(library: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


# The run -------------------------------------------------------------------------------------------------------------


def main() -> int:
    args = parse()
    if args.module:
        run_module(args)
        return 0
    names = [name for name in MODULES if name in args.names or (not args.names and (args.all or name not in SLOW))]
    out = args.out or (HERE / "RESULTS.md" if args.record else None)
    watch = Watch()
    here = in_child("run", "machine", threads=args.threads, quick=args.quick)
    if "error" in here:
        print(f"the machine's peaks could not be measured: {here['error']}", file=sys.stderr)
        return 1
    if out and (reason := busy(watch.others())):
        print(f"nothing is recorded: {reason}", file=sys.stderr)
        return 1
    print(
        f"{here['machine']['CPU']}: {here['peaks']['flops'] / 1e9:.0f} GFLOP/s, {here['peaks']['bytes'] / 1e9:.1f} GB/s"
    )
    records = {}
    with tempfile.TemporaryDirectory(prefix="rsssl-bench-") as scratch:
        for i, name in enumerate(names, 1):
            print(f"[{i}/{len(names)}] {name} ...", file=sys.stderr, flush=True)
            records[name] = record(name, args, here, Path(scratch, name))
            minutes, lines = records[name]["seconds"] / 60, len(records[name]["figures"])
            print(f"[{i}/{len(names)}] {name}: done in {minutes:.1f} min, lines: {lines}", file=sys.stderr, flush=True)
    show(records)
    return save(records, out) if out else 0


def record(name: str, args: argparse.Namespace, here: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """One module's run: its figures, as dicts, and when, how and where they were measured."""
    scratch.mkdir()
    lines = scratch / "figures.jsonl"
    command = [
        sys.executable,
        str(HERE / "run.py"),
        "--module",
        name,
        "--lines",
        str(lines),
        "--data",
        str(args.data),
        "--repeats",
        str(args.repeats),
        "--threads",
        str(args.threads),
        "--scratch",
        str(scratch),
        "--peaks",
        json.dumps(here["peaks"]),
        *(["--quick"] if args.quick else []),
    ]
    code = 0

    def start() -> None:
        nonlocal code
        code = subprocess.run(command, env=environment(), stdout=sys.stderr).returncode

    watch = Watch()
    took = seconds(start)
    others = watch.others()
    figures = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    if code:
        figures.append(asdict(failed(name, why(code, ""))))
    typed = f"python experiments/benchmarks/run.py {name} --repeats {args.repeats}{' --quick' if args.quick else ''}"
    date = f"{datetime.date.today():%Y-%m-%d}"
    return {"figures": figures, "seconds": took, "date": date, "command": typed, "others": others, **here}


def figure_of(line: dict[str, Any]) -> Figure:
    return Figure(**{**line, "ours": tuple(line["ours"]), "theirs": tuple(line["theirs"])})


def show(records: dict[str, Any]) -> None:
    """The table on the terminal, with the notes below it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console() if sys.stdout.isatty() else Console(width=200)
    table = Table(*COLUMNS, show_lines=True)
    for entry in records.values():
        for line in entry["figures"]:
            table.add_row(*map(escape, row(figure_of(line))))
    console.print(table)


# The record ----------------------------------------------------------------------------------------------------------


def save(records: dict[str, Any], out: Path) -> int:
    """Replace the same modules' records in results.json beside `out` by `records`, and write `out` from all of them.

    A record that was disturbed stays out, and 1 is returned; one with other peaks than the last is marked.
    """
    store = out.with_name("results.json")
    kept = json.loads(store.read_text()) if store.is_file() else {}
    merged, code = dict(kept), 0
    for name, entry in records.items():
        if reason := busy(entry["others"]):
            print(f"{name} is not recorded: {reason}", file=sys.stderr)
            code = 1
        else:
            merged[name] = {**entry, "doubt": changed(entry["peaks"], entry["machine"], kept)}
    merged = {name: merged[name] for name in MODULES if name in merged}
    out.parent.mkdir(parents=True, exist_ok=True)
    for path, text in ((store, json.dumps(merged, indent=1) + "\n"), (out, markdown(merged))):
        fresh = path.with_name(path.name + ".tmp")
        fresh.write_text(text)
        os.replace(fresh, path)
    print(f"written: {out}")
    return code


def markdown(records: dict[str, Any]) -> str:
    """RESULTS.md: the table, the notes and bounds, and where and when each module was run."""
    minutes = sum(entry["seconds"] for entry in records.values()) / 60
    text = [
        "# Results",
        "",
        "Written by `python experiments/benchmarks/run.py --record`; do not edit. Medians, in brackets the "
        'smallest and the largest of the repeats, ours and theirs measured in turn. "Bound" is what the cost model '
        'allows, from the machine\'s measured peaks; "part reached" is 1 where we are at it.',
        "",
        f"{minutes:.0f} minutes in all.",
        "",
    ]
    text += [line(COLUMNS), line(("---",) * len(COLUMNS))]
    figures = [(figure_of(found), entry.get("doubt", "")) for entry in records.values() for found in entry["figures"]]
    text += [line((f"{'(doubtful) ' if doubt else ''}{row(figure)[0]}", *row(figure)[1:])) for figure, doubt in figures]
    text += ["", "## Notes and bounds", ""]
    for figure, doubt in figures:
        parts = (doubt and f"Doubtful: {doubt}.", figure.note, f"Bound: {figure.bound_by}." if figure.bound_by else "")
        said = " ".join(part for part in parts if part)
        text += [f"* **{figure.name}** ({figure.peer or 'no peer'}): {said}"] if said else []
    text += ["", "## Runs", "", line(("module", "date", "minutes", "command", "machine")), line(("---",) * 5)]
    machines: list[dict[str, Any]] = []
    for name, entry in records.items():
        if entry["machine"] not in machines:
            machines.append(entry["machine"])
        number = str(machines.index(entry["machine"]) + 1)
        text.append(line((name, entry["date"], f"{entry['seconds'] / 60:.1f}", f"`{entry['command']}`", number)))
    for number, found in enumerate(machines, 1):
        peaks = [entry["peaks"] for entry in records.values() if entry["machine"] == found]
        flops, moved = (sorted(p[key] / 1e9 for p in peaks) for key in ("flops", "bytes"))
        text += ["", f"## Machine {number}", "", *(f"* {key}: {value}" for key, value in found.items())]
        text += [
            f"* measured peaks: {between(flops, '.0f')} GFLOP/s in a float32 matrix product, "
            f"{between(moved, '.1f')} GB/s read and written by a large copy"
        ]
    return "\n".join(text) + "\n"


def between(values: list[float], form: str) -> str:
    """'a', or 'a to b' where the runs differ; values in ascending order."""
    low, high = format(values[0], form), format(values[-1], form)
    return low if low == high else f"{low} to {high}"


def line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
