"""Datasets told apart by where their images lie and how these were split, not by their name alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from rsssl.report.results import Result


def told_apart(results: Iterable[Result]) -> tuple[list[Result], list[str]]:
    """The results under names that stand for one dataset each, and notes on names that stood for several.

    `dataset=folder` of two roots becomes "folder (first)" and "folder (second)"; one root that was split in two ways
    becomes "folder (split 1a2b3c4d)" and another. The same images in another place are the same dataset. Older results
    do not say where their images lay: they are told apart where others of the same split do.
    """
    results = list(results)
    by_name: dict[str, list[Result]] = defaultdict(list)
    for r in sorted(results, key=lambda r: str(r.path)):
        by_name[r.row.dataset].append(r)
    shown: dict[tuple[str, str], str] = {}  # by the file and the name in it
    notes = []
    for name, group in by_name.items():
        roots = roots_of(group)
        short = shortest({root for root in roots.values() if root})
        ways = splits_of(group, roots)
        for r in group:
            root = roots[str(r.path)]
            parts = [short[root]] if root and len(set(roots.values())) > 1 else []
            parts += [f"split {r.split_hash[:8]}"] if len(ways[root, r.row.protocol]) > 1 else []
            shown[str(r.path), name] = f"{name} ({', '.join(parts)})" if parts else name
        notes += sentences(name, {roots[str(r.path)]: r for r in group}, short, ways)
    return [replace(r, row=r.row._replace(dataset=shown[str(r.path), r.row.dataset])) for r in results], notes


def recorded(result: Result) -> dict[str, Any]:
    """What a result says of its images: "root", "fingerprint", "pack", "features"; empty for older ones."""
    data = result.content.get("data")
    return data if isinstance(data, dict) else {}


def roots_of(group: Sequence[Result]) -> dict[str, str]:
    """By the path of each result the root of its images, "" where nobody knows; one for the same images."""
    first: dict[str, str] = {}  # by fingerprint
    for r in group:
        if root := str(recorded(r).get("root") or ""):
            first.setdefault(str(recorded(r).get("fingerprint")), root)
    roots = {str(r.path): first.get(str(recorded(r).get("fingerprint")), "") for r in group}
    of_split: dict[str, set[str]] = defaultdict(set)
    for r in group:
        of_split[r.split_hash] |= {roots[str(r.path)]} - {""}
    for r in group:
        if not roots[str(r.path)] and len(of_split[r.split_hash]) == 1:
            roots[str(r.path)] = next(iter(of_split[r.split_hash]))
    return roots


def splits_of(group: Sequence[Result], roots: dict[str, str]) -> dict[tuple[str, str], set[str]]:
    """By root and protocol the hashes of the splits; none where the root is unknown: what was split is too."""
    ways: dict[tuple[str, str], set[str]] = defaultdict(set)
    for r in group:
        if root := roots[str(r.path)]:
            ways[root, r.row.protocol].add(r.split_hash)
    return ways


def shortest(roots: Iterable[str]) -> dict[str, str]:
    """For each root the last of its folders, and as many above it as tell it from the others."""
    parts = {root: PurePath(root).parts for root in roots}
    names = {}
    for root, own in parts.items():
        others = [other for key, other in parts.items() if key != root]
        depth = next((n for n in range(1, len(own)) if all(other[-n:] != own[-n:] for other in others)), len(own))
        names[root] = str(PurePath(*own[-depth:])) if own else root
    return names


def sentences(
    name: str, by_root: dict[str, Result], short: dict[str, str], ways: dict[tuple[str, str], set[str]]
) -> list[str]:
    """What is said of a name that stands for several datasets."""
    notes = []
    if len(by_root) > 1:
        each = "; ".join(f"{short[root]}: {root}" if root else "older results, which do not say" for root in by_root)
        notes.append(f"{name} stands for {len(by_root)} datasets ({each}).")
    for (root, protocol), hashes in ways.items():
        if len(hashes) > 1:
            each = ", ".join(sorted(h[:8] for h in hashes))
            notes.append(
                f"Warning: {name} in {root} was split in different ways under protocol={protocol} (split_hash {each}): "
                "shown apart, not comparable."
            )
    return notes
