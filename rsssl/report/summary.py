"""The few lines of one result, or of a map, on the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsssl.report.results import method_of

LEAST = 0.05  # points, less than which a printed figure does not show


def labelled(images: int, drawn: int | None) -> str:
    """How many labelled images, in words: windows of a scene are many to a polygon."""
    return f"{images:,} images" if drawn is None else f"{images:,} windows of {drawn:,} points and polygons"


def print_results(results: dict[str, Any], file: Path) -> None:
    """The run's few lines on the terminal; tables over runs are rsssl-report's."""
    method = method_of(results["ssl"], results["start"], results["evaluate"])
    bands = results["evaluate"] == "statistics"  # alone: no network was looked at
    rows = [(method if bands else f"{method} + {results['evaluate']}", results)]
    if "linear" in results.get("parts", {}):
        rows.append((f"{method} + linear", results["parts"]["linear"]))
    for name, values in results["baselines"].items():
        probe = f" + {values['evaluate']}" if "evaluate" in values else ""
        rows.append((f"{name.replace('_', ' ')}{probe}", values))
    width = max(len(name) for name, _ in rows)
    scale = results["ts"] if isinstance(results["ts"], str | float) else f"{results['ts']} labels per class"
    drawn, on = results.get("n_drawn"), results["dataset"] if bands else f"{results['dataset']}, {results['backbone']}"
    print(
        f"\n{on}, {scale} ({labelled(results['n_train'], drawn)}), seed {results['seed']}, tested on "
        f"{results['n_test']} {'windows' if drawn else 'images'} ({results['split']}), protocol {results['protocol']}"
    )
    for name, values in rows:
        oa, aa, kappa = 100 * values["oa"], 100 * values["aa"], values["kappa"]
        print(f"  {name:<{width}}  OA {oa:5.1f}  AA {aa:5.1f}  kappa {kappa:.3f}")
    for sentence in better_baselines(results):
        print(f"  {sentence}")
    if "calibration" in results:
        trust = results["calibration"]
        error, chance = (f"{100 * trust[key]:.1f}" for key in ("ece", "chance"))
        held = results.get("details", {}).get("held_out")  # labels; without any nothing could be calibrated
        before = f"{100 * trust['before']['ece']:.1f} uncalibrated; " if "before" in trust and held else ""
        print(
            f"  probabilities are off by {error} points on average ({before}perfect ones would seem off by {chance} "
            "on so few test images)"
        )
    if "random_split" in results:
        print(
            f"  with a random split it would have said {100 * results['random_split']['oa']:.1f}: too good, since "
            "neighbours of tested images would be among the labels"
        )
    for further in results.get("outlook", []):
        labels = f"{further['labels_per_class']:.0f} labels per class"
        if drawn:
            times = further["times"]
            labels = f"{times} times the labels ({labelled(times * results['n_train'], times * drawn)})"
        low, high = (f"{100 * further[key]:.0f}" for key in ("low", "high"))
        print(f"  with {labels} it would be {low} to {high} % (nine times in ten)")
    print(f"  {file}")


def print_areas(out: Path, areas: dict[str, dict[str, Any]], notes: dict[str, Any]) -> None:
    """The classes on the terminal, the largest first: how much of the map, and how many of its test samples were found.

    Args:
        out: the map.
        areas: {class: {"pixels": ..., "hectares": ...}}.
        notes: of the classifier.
    """
    whole, recalls = max(1, sum(area["pixels"] for area in areas.values())), notes.get("per_class") or {}
    print(f"\n{out}")
    for name, area in sorted(areas.items(), key=lambda item: -item[1]["pixels"]):
        if area["pixels"] or name in recalls:
            hectares = "" if area["hectares"] is None else f"  {area['hectares']:>14,.1f} ha"
            recall = "" if recalls.get(name) is None else f"  recall {100 * recalls[name]:5.1f} %"
            print(f"  {name:<28} {100 * area['pixels'] / whole:6.2f} %{hectares}{recall}")
    if recalls:
        print(f"  recall: the share of a class's test samples that were found ({notes.get('split', 'at random')})")
    for sentence in better_baselines(notes):
        print(f"  {sentence}")
    beside = [name for name in (f"{out.stem}_preview.png", f"{out.stem}_areas.csv") if out.with_name(name).is_file()]
    print(f"  {', '.join(beside)} and {out.stem}.qml lie beside it")
    command = f"rsssl-run task=accuracy {shlex.quote(f'class_map={out}')} reference=FILE"
    print(f"  how good it is by labels that the map has not seen: {command}")


def better_baselines(results: Mapping[str, Any]) -> list[str]:
    """A sentence for each baseline, and for the linear part, that got more of the test samples right than the result:
    by how much, and what to type to have it.

    Args:
        results: as they stand in results.json, or a classifier's notes.
    """
    others = dict(results.get("baselines") or {})
    if "linear" in results.get("parts", {}):
        others["the linear part"] = results["parts"]["linear"]
    sentences = []
    for name, values in others.items():
        if (more := 100 * (values["oa"] - results["oa"])) >= LEAST:
            told = f"{name.replace('_', ' ')} did better here, by {more:.1f} points ({100 * values['oa']:.1f} %)"
            sentences.append(f"{told}: {instead(name, values)}")
    return sentences


def instead(name: str, values: Mapping[str, Any]) -> str:
    """What to type to have a baseline in place of the result."""
    if name == "image_statistics":
        return "the classes differ by colour and brightness as a whole; to have that alone type evaluate=statistics"
    if name == "the linear part":
        return "type evaluate=linear"
    probe = f" evaluate={values['evaluate']}" if "evaluate" in values else ""
    return f"type ssl=none{' start=random' * (name == 'random_init')}{probe}"
