"""A list of runs, done once each: each leaves its rows in a CSV, and a repeated command goes on where the last stopped.

The runs are rsssl's own (`rsssl.run` does what `rsssl-run` does, in this process), and their folders lie under `--out`,
each with its results.json and resolved configuration; the CSV names the folder of each row. A budget is a time of one
processor: what a step takes is measured once for each recipe, by processor time, and the budget becomes a number of
steps. So what else the machine does changes how long the runs take, and not what they train.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import rsssl

FOLDER = Path(__file__).resolve().parent
SHORT, LONG = 7, 20  # steps of the two runs whose difference is 13 steps: 11 with small views and 2 with whole ones
BRIEF = ["pretrain.pictures=0", "pretrain.probes=0"]
TS, SEEDS = (5, 20, 100), (0, 1, 2, 3, 4)
SECONDS = 180.0  # of one processor, for a pre-training
Row = dict[str, Any]


@dataclass
class Table:
    """Rows in a CSV, which several processes may add to.

    Args:
        file: the CSV.
        keys: the columns that tell its rows apart.
    """

    file: Path
    keys: tuple[str, ...]

    def rows(self) -> list[dict[str, str]]:
        """What stands in it."""
        if not self.file.is_file():
            return []
        with open(self.file, newline="") as file:
            return list(csv.DictReader(file))

    def find(self, **wanted: object) -> list[dict[str, str]]:
        """The rows with these values."""
        return [row for row in self.rows() if all(row[k] == str(v) for k, v in wanted.items())]

    def add(self, row: Row) -> None:
        """Adds a row unless there is one with its keys; the rows stay sorted."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.file.parent):
            rows = self.rows()
            if not self.find(**{k: row[k] for k in self.keys}):
                rows.append({k: str(v) for k, v in row.items()})
            rows.sort(key=lambda r: [(float(v), "") if is_number(v) else (0.0, v) for v in (r[k] for k in self.keys)])
            part = self.file.with_suffix(".part")
            with open(part, "w", newline="") as file:
                writer = csv.DictWriter(file, list(row), lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
            part.replace(self.file)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Waits until no other process is here."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def is_number(text: str) -> bool:
    """Whether a cell of a CSV holds a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Network:
    """A network of a question, pre-trained or not.

    Args:
        says: what the CSV says of it, by column: this tells it from the question's others.
        train: overrides that its pre-training follows from.
        seconds: of one processor, that its pre-training may take; None where `train` says how long.
        test: overrides of its evaluations.
    """

    says: dict[str, Any]
    train: tuple[str, ...]
    seconds: float | None = None
    test: tuple[str, ...] = ("baselines=false",)

    @property
    def name(self) -> str:
        """A folder's name."""
        words = "-".join(str(v) for v in self.says.values() if v != "")
        return re.sub(r"[^\w.@+-]+", "_", words)

    def with_test(self, *overrides: str) -> Network:
        """The same network, evaluated in another way."""
        return replace(self, test=(*self.test, *overrides))


@dataclass
class Bench:
    """Does runs for a question.

    Args:
        options: of the command line, see `command_line`.
        results: the question's CSV.
        costs: the CSV of what a step costs.
        trainings: the CSV of the pre-trainings.
        common: overrides of all its runs.
        places: overrides that say where the images lie.
    """

    options: argparse.Namespace
    results: Table
    costs: Table
    trainings: Table
    common: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)

    def run(self, folder: str, *overrides: str) -> dict[str, Any]:
        """One run of rsssl in its folder under `--out`."""
        out = self.options.out
        typed = [*self.common, *self.places, *overrides, *self.options.overrides]
        where = ["tracker=csv", f"paths.store={out}/store", f"hydra.run.dir={out}/{folder}"]
        found: dict[str, Any] = rsssl.run([*typed, *where])
        return found

    def steps(self, network: Network) -> int:
        """How many steps of its pre-training fit into its time."""
        train = [o for o in network.train if not o.startswith("pretrain.seed=")]
        costly = [o for o in [*self.common, *train, *self.options.overrides] if not o.startswith("dataset.root=")]
        key = {"recipe": " ".join(costly)}
        if not self.costs.find(**key):
            took = {}
            for steps in (2, SHORT, LONG):  # the first wakes what is slow once
                begin = time.process_time()
                short = ["task=pretrain", f"pretrain.steps={steps}", *BRIEF, f"pretrain.seed={time.time_ns()}"]
                found = self.run(f"cost/{network.name}-{steps}", *train, *short)  # no store has that seed
                took[steps] = time.process_time() - begin
                shutil.rmtree(found["folder"])
            cost = max((took[LONG] - took[SHORT]) / (LONG - SHORT), 1e-3)
            self.costs.add(key | {"seconds_a_step": f"{cost:.4f}"})
        cost = float(self.costs.find(**key)[0]["seconds_a_step"])
        return max(1, round((network.seconds or 0.0) / cost))

    def missing(self, network: Network) -> list[tuple[int, int]]:
        """The evaluations (labels per class, seed) that its rows lack."""
        there = {(r["ts"], r["seed"]) for r in self.results.find(**network.says)}
        asked = [(ts, seed) for ts in self.options.ts for seed in self.options.seeds]
        return [(ts, seed) for ts, seed in asked if (str(ts), str(seed)) not in there]

    def do(self, network: Network) -> None:
        """Pre-trains the network, if it is to be, and adds the rows that are missing."""
        missing = self.missing(network)
        tested = self.prepared(network) if missing else []
        for ts, seed in missing:
            folder = f"{self.results.file.stem}/{network.name}/{ts}-{seed}"
            found = self.run(folder, *tested, f"ts={ts}", f"seed={seed}", "evaluate=linear")
            figures = {name: f"{self.judged(network, found)[name]:.4f}" for name in ("oa", "aa", "kappa")}
            where = {"artifact": (found["pretrain"] or {}).get("artifact", ""), "run": folder}
            hashes = {"split": found["split_hash"], "config": found["config_hash"]}
            self.results.add(network.says | {"ts": ts, "seed": seed} | figures | self.more(found) | where | hashes)

    def prepared(self, network: Network) -> list[str]:
        """Trains the network unless it is a start, and gives the overrides of its evaluations."""
        given = [f"pretrain.steps={self.steps(network)}"] if network.seconds else []
        if "ssl=none" not in network.train:
            self.train(network, *given)
        return [*network.train, *given, *BRIEF, *network.test]

    def train(self, network: Network, *given: str) -> dict[str, Any]:
        """Pre-trains it; what that took and how its own puzzle went becomes a row, unless the store had it."""
        folder, begin = f"{self.results.file.stem}/{network.name}/train", time.process_time()
        found = self.run(folder, "task=pretrain", *network.train, *given, *BRIEF)
        spent = time.process_time() - begin
        if not found["reused"]:
            row = {"artifact": found["artifact"], "network": network.name, "cpu_seconds": f"{spent:.0f}"}
            row |= {name: found[name] for name in ("images", "steps", "epochs")}
            self.trainings.add(row | {"seconds": f"{found['seconds']:.0f}"} | course(self.options.out / folder))
        return found

    def judged(self, network: Network, found: dict[str, Any]) -> dict[str, Any]:
        """Where in a run's results a network's figures stand."""
        return found

    def more(self, found: dict[str, Any]) -> Row:
        """What a question's rows say beside."""
        return {}

    def asked(self, network: Network) -> bool:
        """Whether `--only` has it."""
        words = set(map(str, network.says.values()))
        return all(words & set(some) for some in self.options.only)

    def all(self, networks: Sequence[Network]) -> None:
        """Does the networks in their order, until the time is over."""
        end = time.monotonic() + 3600 * self.options.hours
        for number, network in enumerate(networks, 1):
            if not self.asked(network):
                continue
            if time.monotonic() > end:
                print(f"the {self.options.hours:g} hours are over; the same command goes on")
                return
            print(f"{number} of {len(networks)}: {network.name}", flush=True)
            self.do(network)


def course(folder: Path) -> Row:
    """The loss and the share of puzzles solved, over the first and the last tenth of a training's rows."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    row: Row = {}
    for column, names in (("loss", ("loss",)), ("solved", ("puzzles_solved", "places_found", "turns_found"))):
        values = [float(r["value"]) for r in rows if r["name"] in names]
        few = max(1, len(values) // 10)
        row[f"{column}_first"], row[f"{column}_last"] = (
            f"{sum(part) / len(part):.4f}" if part else "" for part in (values[:few], values[-few:])
        )
    return row


def numbers(text: str) -> list[int]:
    """5,20 -> [5, 20]."""
    return [int(part) for part in text.split(",")]


def command_line(about: str | None) -> argparse.ArgumentParser:
    """What all questions understand."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder with EuroSAT_RGB, AID and NWPU_RESISC45")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"), help="run folders and the store")
    parser.add_argument("--csv", type=Path, default=FOLDER, help="the folder of the CSVs")
    parser.add_argument("--hours", type=float, default=1e6, help="no run begins after so many")
    only = "runs with one of these values, as simclr,byol; typed twice, with one of each"
    parser.add_argument("--only", action="append", default=[], type=lambda text: text.split(","), help=only)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of one processor, for a pre-training")
    parser.add_argument("--ts", type=numbers, default=TS, help="labels per class, as 5,20")
    parser.add_argument("--seeds", type=numbers, default=SEEDS, help="draws of the labels, as 0,1,2")
    parser.add_argument("overrides", nargs="*", help="for every run of rsssl, as dataset=synthetic")
    return parser


def seeds_in_turn(networks: Sequence[Network], seeds: Sequence[int]) -> Iterator[Network]:
    """All networks with the first pre-training seed, then with the second."""
    for seed in seeds:
        for n in networks:
            yield Network({**n.says, "pretrain_seed": seed}, (*n.train, f"pretrain.seed={seed}"), n.seconds, n.test)
