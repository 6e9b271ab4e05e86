"""What the questions' tables share: `record.py` puts them into README.md.

Accuracies are percent, mean ± sample standard deviation over all rows of a cell (draws of labels, and pre-training
seeds where there are several); a cell without rows is "-". Differences are taken draw by draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import correlation, mean, stdev

from runs import SEEDS, TS, Network, Table

Rows = list[dict[str, str]]


def values(rows: Iterable[dict[str, str]], column: str = "oa", **wanted: object) -> list[float]:
    """Percent, of the rows with these values."""
    return [100 * float(r[column]) for r in rows if all(r[k] == str(v) for k, v in wanted.items())]


def spread(numbers: list[float], sign: str = "") -> str:
    """49.1 ± 1.1."""
    if not numbers:
        return "-"
    return f"{mean(numbers):{sign}.1f}" + (f" ± {stdev(numbers):.1f}" if len(numbers) > 1 else "")


def over(rows: Rows, before: Rows, ts: int) -> list[float]:
    """Points that a network's rows are above another's, draw by draw."""
    base = {r["seed"]: 100 * float(r["oa"]) for r in before if r["ts"] == str(ts)}
    return [100 * float(r["oa"]) - base[r["seed"]] for r in rows if r["ts"] == str(ts) and r["seed"] in base]


def grouped(rows: Rows, *columns: str) -> dict[tuple[str, ...], Rows]:
    """The rows by their values in some columns."""
    cells: dict[tuple[str, ...], Rows] = {}
    for row in rows:
        cells.setdefault(tuple(row[c] for c in columns), []).append(row)
    return cells


def rank_correlation(x: list[float], y: list[float]) -> float:
    """Spearman's: the correlation of ranks, those of equal values in the middle of their places."""
    first, second = ([sum(b < a for b in v) + sum(b == a for b in v) / 2 for a in v] for v in (x, y))
    return correlation(first, second)


def markdown(head: list[str], lines: list[list[str]], left: int = 1) -> str:
    """A table whose first columns are words."""
    rule = ["---" if i < left else "---:" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *lines])


def there(rows: Rows, networks: list[Network], by: Sequence[str], ts: Sequence[int] = TS) -> str:
    """How much of what is planned the CSV holds, and which networks, called by some columns, are missing."""
    keys = [{k: str(v) for k, v in n.says.items()} for n in networks]
    counts = [sum(all(r[k] == v for k, v in key.items()) for r in rows) for key in keys]
    each = len(ts) * len(SEEDS)
    sentence = f"{sum(counts)} of the {each * len(keys)} runs planned are there."
    names = [" ".join(str(n.says[k]) for k in by if n.says[k] != "") for n in networks]
    missing = [name for name, count in zip(names, counts, strict=True) if count < each]
    return sentence + (f" Missing, or not whole: {', '.join(dict.fromkeys(missing))}." if missing else "")


def trained(folder: Path) -> dict[str, dict[str, str]]:
    """The pre-trainings by their hash."""
    return {r["artifact"]: r for r in Table(folder / "trainings.csv", ("artifact",)).rows()}


def effort(rows: Rows, trainings: dict[str, dict[str, str]]) -> list[str]:
    """Steps, passes and seconds of a processor of a cell's first pre-training."""
    one = next((trainings[r["artifact"]] for r in rows if r["artifact"] in trainings), None)
    return [one["steps"], one["epochs"], one["cpu_seconds"]] if one else ["", "", ""]
