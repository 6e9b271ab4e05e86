"""Is all right on an accelerator, and how fast is it? One command, under ten minutes, no network:

    python experiments/gpu/run.py --out experiments/gpu
    python experiments/gpu/run.py --cpu          # the same in small, on a CPU: whether the command itself works

It makes its own tiles, prints each check as it is done, writes results.json and results.md, and ends with 1 when
anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from checks import CHECKS, Place
from speed import CASES, PUBLISHED, TINY, measured


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="in small, on the CPU")
    parser.add_argument("--only", metavar="WORD", default="", help="checks whose name has it, and no speed")
    parser.add_argument("--out", type=Path, help="folder for results.json and results.md")
    options = parser.parse_args()
    if not options.cpu and not torch.cuda.is_available():
        print("there is no accelerator here: type --cpu to try the command itself", file=sys.stderr)
        return 2
    device = torch.device("cpu" if options.cpu else "cuda")
    with tempfile.TemporaryDirectory() as folder:
        place = Place(device, Path(folder), options.cpu)
        results = {"machine": machine(device), "checks": [], "speed": []}
        for check in CHECKS:
            if options.only in check.__name__:
                results["checks"].append(tried(check, place))
        if not options.only:
            for case in TINY if options.cpu else CASES:
                results["speed"].append(timed(case, place))
    wrong = [line["name"] for part in ("checks", "speed") for line in results[part] if not line["right"]]
    if options.out:
        (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        (options.out / "results.md").write_text(table(results))
    print(f"\nwrong: {', '.join(wrong)}" if wrong else "\nall is right")
    return 1 if wrong else 0


def machine(device: torch.device) -> dict[str, str]:
    import timm

    name = torch.cuda.get_device_name() if device.type == "cuda" else "a CPU"
    return {"device": name, "torch": torch.__version__, "timm": timm.__version__, "cuda": str(torch.version.cuda)}


def tried(check, place: Place) -> dict:  # type: ignore[no-untyped-def,type-arg]
    """One check, and how it ended."""
    name, begin = check.__name__.replace("_", " "), time.monotonic()
    try:
        said, right = check(place), True
    except Exception as error:  # whatever it is, it is a finding, and the others are tried all the same
        traceback.print_exc()
        said, right = f"{type(error).__name__}: {error}", False
    seconds = round(time.monotonic() - begin, 1)
    print(f"{'right' if right else 'WRONG'}  {name}: {said} ({seconds} s)", flush=True)
    return {"name": name, "right": right, "said": said, "seconds": seconds}


def timed(case, place: Place) -> dict:  # type: ignore[no-untyped-def,type-arg]
    """One training, and how fast it was."""
    name = f"{case.network}, {case.bands} bands, {case.size} px from {case.tile}, {case.policy}, batch {case.batch}"
    try:
        speed = measured(place, case, 2 if place.small else 30)
    except Exception as error:
        traceback.print_exc()
        return {"name": name, "right": False, "said": f"{type(error).__name__}: {error}"}
    figures = {"images_per_second": speed.loop, "network_alone": speed.alone, "not_network": speed.rest}
    figures |= {"views_ms": speed.views, "memory_gb": speed.memory}
    print(f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in figures.items()), flush=True)
    return {"name": name, "right": True, **figures}


def table(results: dict) -> str:  # type: ignore[type-arg]
    """results.md."""
    lines = [
        f"{', '.join(f'{k} {v}' for k, v in results['machine'].items())}",
        "",
        "| check | | seconds |",
        "| --- | --- | ---: |",
    ]
    lines += [
        f"| {line['name']} | {'' if line['right'] else '**wrong**: '}{line['said']} | {line['seconds']} |"
        for line in results["checks"]
    ]
    lines += ["", "| training | images/s | network alone | not the network | a batch's views, ms | GB |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
    for line in results["speed"]:
        if line["right"]:
            lines.append(
                f"| {line['name']} | {line['images_per_second']:.0f} | {line['network_alone']:.0f} | "
                f"{100 * line['not_network']:.0f} % | {line['views_ms']:.2f} | {line['memory_gb']:.1f} |"
            )
        else:
            lines.append(f"| {line['name']} | **wrong**: {line['said']} | | | | |")
    return "\n".join([*lines, "", PUBLISHED]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
