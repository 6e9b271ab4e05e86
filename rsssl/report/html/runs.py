"""Where results come from: trainings with their curves and pictures, commands that repeat them, versions."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from PIL import Image, UnidentifiedImageError

from rsssl.engine.tracking import read_metrics
from rsssl.report.html.document import picture, text
from rsssl.report.html.images import place
from rsssl.report.html.plots import curve
from rsssl.report.results import Result, Row, ts_order
from rsssl.report.tables import NONE, duration

PICTURE = 760  # pixels, at most, of the longer side of a training's pictures
VARIED = ("ts", "seed")  # keys that a sweep's command has lists of
NOT_REPEATED = ("paths.", "hydra.", "hydra/", "device=", "workers=", "tracker=")  # cannot change a result


def trainings(results: Iterable[Result], names: Mapping[Row, str]) -> list[str]:
    """A card for each pre-training: what it was, its curves, what it made of a few images."""
    of: dict[str, list[Result]] = defaultdict(list)
    for r in results:
        if r.row.artifact and not r.row.baseline:
            of[r.row.artifact].append(r)
    cards = [(title(group[0], names), group) for group in of.values()]
    return [card(name, group) for name, group in sorted(cards, key=lambda pair: pair[0])]


def title(result: Result, names: Mapping[Row, str]) -> str:
    """The method and the images of a training; a dataset that is evaluated on has the same name here."""
    source = result.row.pretrain_dataset
    known = result.row.dataset if source == result.content.get("dataset") else source
    return f"{names[result.row]}, on {known}" if known else names[result.row]


def card(name: str, group: Sequence[Result]) -> str:
    """One training, of whatever its runs, or the store, still have of it."""
    record = group[0].content["pretrain"]
    folders = [r.path.parent for r in group]
    kept = place(str(record.get("folder")))
    folders += [kept] if kept else []
    units = {"images": "{:,.0f} images", "steps": "{:,.0f} steps", "epochs": "{:g} epochs"}
    units |= {"images_per_second": "{:,.0f} images/s"}
    facts = [unit.format(record[k]) for k, unit in units.items() if isinstance(record.get(k), int | float)]
    facts += [duration(group[0].pretrain_seconds)] if group[0].pretrain_seconds else []
    numbers = next((rows for f in folders if (rows := metrics(f / "metrics.csv"))), {})
    curves = [curve(numbers["loss"], "Loss", 0)] if "loss" in numbers else []
    curves += [curve(numbers["probe_oa"], "Online probe", 1, percent=True)] if "probe_oa" in numbers else []
    parts = [f"<h3>{text(name)}</h3><p>{text(', '.join(facts))}</p>"]
    parts.append(f"<div>{''.join(curves) or '<p>Its metrics.csv is gone.</p>'}</div>")
    if shown := next((found for f in folders if (found := last_picture(f / "pictures"))), None):
        address, step = shown
        words = f"What it makes of a few images after step {step}"
        parts.append(f'<figure><figcaption>{words}</figcaption><img alt="{words}" src="{address}"></figure>')
    return f'<article class="card">{"".join(parts)}</article>'


def metrics(file: Path) -> dict[str, list[tuple[int, float]]]:
    """By name the numbers of a metrics.csv over the steps; what cannot be read is left out."""
    numbers: dict[str, list[tuple[int, float]]] = defaultdict(list)
    try:
        for row in read_metrics(file):
            value = float(row["value"])
            if value - value == 0:  # neither infinite nor not a number
                numbers[row["name"]].append((int(row["step"]), value))
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {name: sorted(points) for name, points in numbers.items()}


def last_picture(folder: Path) -> tuple[str, int] | None:
    """The last picture of a training, no larger than is looked at, and its step."""
    files = sorted(folder.glob("step-*.png")) if folder.is_dir() else []
    for file in reversed(files):
        try:
            with Image.open(file) as image:
                small = image.convert("RGB")
            step = int(file.stem.removeprefix("step-"))
        except (OSError, UnidentifiedImageError, ValueError):
            continue
        small.thumbnail((PICTURE, PICTURE), Image.Resampling.LANCZOS)
        return picture(small, quality=82), step
    return None


def commands(results: Iterable[Result]) -> list[tuple[list[Row], list[str]]]:
    """Rows that the same runs gave, and the commands that repeat them."""
    runs: dict[Row, dict[Path, Result]] = defaultdict(dict)
    for r in results:
        runs[r.row][r.path] = r
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row, by_path in runs.items():
        groups[tuple(repeated(list(by_path.values())))].append(row)
    return [(rows, list(typed)) for typed, rows in groups.items()]


def repeated(results: Sequence[Result]) -> list[str]:
    """Commands that make the results again: a sweep where runs differ in nothing but ts and seed, and each scale has
    the same seeds."""
    swept: dict[tuple[str, ...], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    lost = 0
    for r in results:
        typed = overrides(r.path.parent)
        if typed is None:
            lost += 1
            continue
        rest = tuple(o for o in typed if o.split("=")[0] not in VARIED)
        swept[rest][r.ts].add(str(r.seed))
    lines = []
    for rest, seeds_of in swept.items():
        scales_of: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for ts, seeds in seeds_of.items():
            scales_of[tuple(sorted(seeds, key=int))].append(ts)
        for seeds_of_all, scales in scales_of.items():
            sweep = [f"ts={','.join(sorted(scales, key=ts_order))}", f"seed={','.join(seeds_of_all)}"]
            several = len(scales) > 1 or len(seeds_of_all) > 1
            words = ["rsssl-run", *(["--multirun"] if several else []), *rest, *sweep]
            lines.append(" ".join(map(shlex.quote, words)))
    if lost:
        lines.append(f"# {lost} of {len(results)} runs have no .hydra/overrides.yaml: their config.yaml has every key")
    return lines


def overrides(run: Path) -> list[str] | None:
    """What was typed for a run and can change its results, a --config-dir first; None where nothing says it."""
    typed, hydra = loaded(run / ".hydra" / "overrides.yaml"), loaded(run / ".hydra" / "hydra.yaml")
    if not isinstance(typed, list):
        return None
    sources: Any = hydra
    for key in ("hydra", "runtime", "config_sources"):
        sources = sources.get(key) if isinstance(sources, dict) else None
    own = [
        str(s["path"]).removeprefix("file://")
        for s in sources or []
        if isinstance(s, dict) and s.get("provider") == "command-line"
    ]
    return [*(word for path in own for word in ("--config-dir", path))] + [
        str(o) for o in typed if not str(o).lstrip("+~").startswith(NOT_REPEATED)
    ]


def loaded(file: Path) -> Any:
    """The content of a YAML file; None where it cannot be read."""
    try:
        return yaml.safe_load(file.read_bytes())
    except (OSError, yaml.YAMLError, ValueError):
        return None


def typed_in(results: Iterable[Result]) -> list[str]:
    """The folders in which the commands were typed: relative paths count from there."""
    folders = set()
    for r in results:
        hydra = loaded(r.path.parent / ".hydra" / "hydra.yaml")
        for key in ("hydra", "runtime", "cwd"):
            hydra = hydra.get(key) if isinstance(hydra, dict) else None
        folders |= {str(hydra)} if hydra else set()
    return sorted(folders)


def versions(results: Iterable[Result]) -> str:
    """A table of the versions and devices: a column for each set of them, and how many runs had it."""
    sets: dict[tuple[tuple[str, str], ...], int] = defaultdict(int)
    for r in {r.path: r for r in results}.values():
        known, training = (r.content.get(key) or {} for key in ("versions", "pretrain"))
        facts = {str(k): str(v) for k, v in known.items()} if isinstance(known, dict) else {}
        facts |= {"device": str(r.content["device"])} if "device" in r.content else {}
        hardware = ("device", "threads", "processes")
        facts |= {f"pre-training: {key}": str(training[key]) for key in hardware if key in training}
        sets[tuple(facts.items())] += 1
    names = list(dict.fromkeys(name for facts in sets for name, _ in facts))
    if not names:
        return "<p>These results do not say it.</p>"
    head = "".join(f"<th>{count} run{'s' if count > 1 else ''}</th>" for count in sets.values())
    lines = [f'<tr><th class="words"></th>{head}</tr>']
    for name in names:
        cells = "".join(f"<td>{text(dict(facts).get(name, NONE))}</td>" for facts in sets)
        lines.append(f'<tr><td class="words">{text(name)}</td>{cells}</tr>')
    return f'<div class="scroll"><table class="versions">{"".join(lines)}</table></div>'
