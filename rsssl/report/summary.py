"""The few lines of one result on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rsssl.report.results import method_of


def print_results(results: dict[str, Any], file: Path) -> None:
    """The run's few lines on the terminal; tables over runs are rsssl-report's."""
    rows = [(f"{method_of(results['ssl'], results['start'])} + {results['evaluate']}", results)]
    if "linear" in results.get("parts", {}):
        rows.append((f"{method_of(results['ssl'], results['start'])} + linear", results["parts"]["linear"]))
    for name, values in results["baselines"].items():
        probe = f" + {values['evaluate']}" if "evaluate" in values else ""
        rows.append((f"{name.replace('_', ' ')}{probe}", values))
    width = max(len(name) for name, _ in rows)
    scale = results["ts"] if isinstance(results["ts"], str | float) else f"{results['ts']} labels per class"
    print(
        f"\n{results['dataset']}, {results['backbone']}, {scale} ({results['n_train']} images), seed "
        f"{results['seed']}, tested on {results['n_test']} images ({results['split']}), protocol "
        f"{results['protocol']}"
    )
    for name, values in rows:
        oa, aa, kappa = 100 * values["oa"], 100 * values["aa"], values["kappa"]
        print(f"  {name:<{width}}  OA {oa:5.1f}  AA {aa:5.1f}  kappa {kappa:.3f}")
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
        print(
            f"  with {further['labels_per_class']:.0f} labels per class it would be {100 * further['low']:.0f} to "
            f"{100 * further['high']:.0f} % (nine times in ten)"
        )
    print(f"  {file}")
