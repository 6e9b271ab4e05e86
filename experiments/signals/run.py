"""Which self-supervised signal suits a scene dataset, when each may train for the same time? One command, one table.

    python experiments/signals/run.py --data DIR [--seconds 90] [--only simclr,byol] [--dataset eurosat_rgb]

Each method of the `ssl` group, with the recipe of its YAML, pre-trains on the same 6,000 unlabelled images for as many steps as
fit into the time, which a short run measures first; then linear classifiers on 5, 20 and 100 labels per class, 5
seeds. The store is the runner's own, so that a repeated command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

CALIBRATION = 20  # steps of the short run
LEFT_OUT = ("none", "seasonal")  # seasonal needs tiles of one place at several dates


def rsssl_run(arguments: list[str], log: Path) -> None:
    with open(log, "a") as file:
        code = subprocess.run(["rsssl-run", *arguments], stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        raise SystemExit(f"rsssl-run {' '.join(arguments)} failed; the last lines of {log}:\n{log.read_text()[-2000:]}")


def steps(common: list[str], method: str, options: argparse.Namespace, folder: Path) -> int:
    """How many steps of pre-training fit into the time."""
    key = hashlib.sha256(json.dumps([*common, method]).encode()).hexdigest()[:8]
    note = folder / f"seconds_per_step-{key}.json"
    if not note.is_file():
        places = [f"paths.store={options.out}/store", f"hydra.run.dir={folder}/calibration"]
        few = ["task=pretrain", f"pretrain.steps={CALIBRATION}", "pretrain.pictures=0", "pretrain.probes=0"]
        rsssl_run([*common, f"ssl={method}", *few, *places], folder / "log.txt")
        found = json.loads((folder / "calibration" / "pretrain.json").read_text())["pretrain"]
        note.write_text(json.dumps(found["seconds"] / found["steps"]))
    return max(1, round(options.seconds / json.loads(note.read_text())))


def row(method: str, folder: Path) -> dict:
    """The table's row of one method: means and standard deviations over seeds, in percent."""
    found = [json.loads(p.read_text()) for p in folder.rglob("results.json")]
    record = max((r["pretrain"] for r in found), key=lambda p: not p["reused"])
    made: dict = {"method": method, "backbone": found[0]["backbone"], "seconds": round(record["seconds"]),
                  "epochs": record["epochs"], "images_per_second": round(record["images_per_second"])}  # fmt: skip
    for name, of in (("", lambda r: r), *((f"{b}_", lambda r, b=b: r["baselines"][b]) for b in found[0]["baselines"])):
        for ts in sorted({r["ts"] for r in found}):
            values = [100 * of(r)["oa"] for r in found if r["ts"] == ts]
            made[f"{name}{ts}"] = round(mean(values), 1)
            made[f"{name}{ts}_std"] = round(stdev(values), 1) if len(values) > 1 else 0.0
    return made


def table(rows: list[dict], scales: list[str]) -> str:
    """Markdown, the best at the middle scale first, each backbone's baselines below."""
    middle = scales[len(scales) // 2]

    def cells(r: dict, prefix: str = "") -> str:
        return " | ".join(f"{r[f'{prefix}{ts}']:.1f} ± {r[f'{prefix}{ts}_std']:.1f}" for ts in scales)

    lines = [
        "| method | backbone | seconds | passes | " + " | ".join(scales) + " |",
        "| --- | --- | ---: | ---: |" + " ---: |" * len(scales),
    ]
    for r in sorted(rows, key=lambda r: -r[middle]):
        lines.append(f"| {r['method']} | {r['backbone']} | {r['seconds']} | {r['epochs']} | {cells(r)} |")
    networks = {(r["backbone"], r[f"random_init_{middle}"]): r for r in rows}
    for r in networks.values():
        features = f", features of MARTA-GAN's depths ({r['method']})" if r["method"] == "marta_gan" else ""
        lines.append(f"| random init{features} | {r['backbone']} | | | {cells(r, 'random_init_')} |")
    lines.append(f"| image statistics | | | | {cells(rows[0], 'image_statistics_')} |")
    return "\n".join(lines) + "\n"


def methods() -> list[str]:
    from rsssl.groups import group_options

    return [m for m in group_options("ssl") if m not in LEFT_OUT]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the dataset's folder, unless it is made here (synthetic)")
    parser.add_argument("--dataset", default="eurosat_rgb", help="any option of the group `dataset`")
    parser.add_argument("--out", type=Path, default=Path("runs/signals"), help="runs, logs, pictures and the table")
    parser.add_argument("--only", help="methods, separated by commas; all others keep the rows they have")
    parser.add_argument("--seconds", type=float, default=90.0, help="of pre-training for each method")
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--ts", default="5,20,100")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("overrides", nargs="*", help="for rsssl-run, as protocol=validation or ssl.views=2")
    options = parser.parse_intermixed_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    root = [f"dataset.root={options.data}"] if options.data else []
    common = [f"dataset={options.dataset}", *root, f"pretrain.images={options.images}", "tracker=csv", *options.overrides]
    scales = options.ts.split(",")
    for method in options.only.split(",") if options.only else methods():
        folder = options.out / method
        folder.mkdir(parents=True, exist_ok=True)
        todo = steps(common, method, options, folder)
        seeds = ",".join(map(str, range(options.seeds)))
        shutil.rmtree(folder / "runs", ignore_errors=True)  # a sweep of other steps or seeds; the store keeps its stages
        rsssl_run(
            ["--multirun", *common, f"ssl={method}", f"pretrain.steps={todo}", "pretrain.probes=0", "pretrain.pictures=3",
             f"ts={options.ts}", f"seed={seeds}", f"paths.store={options.out}/store", f"hydra.sweep.dir={folder}/runs"],
            folder / "log.txt")  # fmt: skip
        (folder / "row.json").write_text(json.dumps(row(method, folder / "runs")))
        print((folder / "row.json").read_text(), file=sys.stderr, flush=True)
    rows = [json.loads(p.read_text()) for p in sorted(options.out.glob("*/row.json"))]
    (options.out / "table.md").write_text(table(rows, scales))
    with open(options.out / "table.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(table(rows, scales))


if __name__ == "__main__":
    main()
