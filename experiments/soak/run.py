"""The soak: the real command, killed at random moments again and again, must end as if nothing had happened.

    python experiments/soak/run.py --minutes 30
    python experiments/soak/run.py --minutes 30 --cases start scene map
    python experiments/soak/run.py --minutes 30 --cases packing parts remote ddp

Each round takes one case on one or two processes. It runs the command once undisturbed, then in a fresh store with
kills at random moments (packing, training, saving, evaluating, mapping, starting again), until it ends, and compares
packs, weights, metrics, results and maps bit for bit. `results.csv` gets a row a round, as soon as it is over.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from rsssl.data.synthetic import generate
from rsssl.engine.checkpoint import Checkpoints
from rsssl.engine.files import sha256_of
from rsssl.engine.tracking import read_metrics

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.range_server import RangeServer  # noqa: E402

METHODS = [
    ("simclr", 1),
    ("moco_v2", 2),
    ("byol", 1),
    ("dino", 2),
    ("swav", 1),
    ("marta_gan", 2),
    ("mae", 1),
    ("simclr", 2),
]
CALM = 8  # every eighth attempt is not disturbed
TIMED = ("images_per_second", "data_share")
SAME = ("oa", "aa", "kappa", "confusion", "baselines", "split_hash")  # not config_hash, which knows the store
TRAINING = [
    "pretrain.images=256",
    "pretrain.batch_size=16",
    "pretrain.image_size=32",
    "pretrain.epochs=8",
    "pretrain.checkpoint_minutes=0.01",
    "pretrain.log_every=1",
    "pretrain.probes=2",
    "pretrain.pictures=2",
    "tracker=csv",
]
TILES = ["dataset=synthetic", "dataset.generate.per_class=60", "ts=5", "hydra.run.dir=run"]
SMALL = ["start=random", "backbone.name=resnet10t"]
SCENE = ["dataset=scene", "dataset.scenes=../scene.tif", "dataset.labels=../scene_classes.tif", "dataset.window=32"]
SCENE += ["dataset.windows=400", "dataset.block=100"]


FAULTS = ("503", "close", "truncate", "short", "wrong")  # of a server


def command(case: str, address: str) -> list[str]:
    """What is typed: a method by its name, or one of the other cases; the address is of a finished pack."""
    if case == "packing":  # into many packs, by all processes together, and nothing else: all kills fall into it
        return ["task=pack", "dataset=folder", "dataset.root=../tiles", "pack.tiles=53", "hydra.run.dir=run"]
    if case == "parts":  # a training on a dataset of many packs
        return ["ssl=simclr", *SMALL, *TRAINING, *TILES, "pack.tiles=53"]
    if case == "remote":  # a pack that a web server has
        return ["ssl=simclr", *SMALL, *TRAINING, "dataset=pack", f"dataset.root={address}", "ts=5", "hydra.run.dir=run"]
    if case == "ddp":
        return ["ssl=simclr", *SMALL, *TRAINING, *TILES, "distributed=ddp"]
    if case == "start":  # published weights, adapted; evaluate=auto, with the labels spread over the pool
        return ["ssl=vicreg", "pretrain.minutes=null", *TRAINING, "pretrain.epochs=2", *TILES]
    if case == "scene":  # windows of a scene, divided by their place
        return ["ssl=simclr", *SMALL, *TRAINING, *SCENE, "ts=5", "hydra.run.dir=run"]
    if case == "map":  # from a scene and its labels to a map, in one command
        return ["task=map", "ssl=simclr", *SMALL, *TRAINING, "pretrain.minutes=null", *SCENE, "ts=5", "out=map.tif"]
    return [f"ssl={case}", *(SMALL if case not in ("mae", "dino") else ["start=random"]), *TRAINING, *TILES]


@dataclass
class Round:
    """What happened in one round."""

    case: str
    processes: int
    kills: int = 0  # SIGKILL to one process, or to all of the job's
    stops: int = 0  # SIGTERM
    resumes: int = 0  # trainings that went on from a checkpoint
    restarts: int = 0  # by torchrun itself
    steps: int = 0
    steps_lost: int = 0  # done after the last checkpoint, and done again
    mismatches: int = 0  # of weights, metrics and results against the undisturbed run
    seconds: float = 0.0


class Job:
    """The command on some processes in a folder of its own, in a session of its own."""

    def __init__(self, case: str, processes: int, folder: Path, address: str = "") -> None:
        network = ["+backbone.kwargs.depth=2"] if case in ("mae", "dino") else []
        launch = ["-m", "rsssl.run"]
        if processes > 1:
            launch = [
                "-m",
                "torch.distributed.run",
                "--standalone",
                f"--nproc-per-node={processes}",
                "--max-restarts=3",
                *launch,
            ]
        self.folder, self.processes = folder, processes
        folder.mkdir(parents=True, exist_ok=True)
        self.log = open(folder / "log.txt", "a")  # noqa: SIM115
        environment = os.environ | {"RSSSL_STORE": str(folder / "store"), "OMP_NUM_THREADS": "1"}
        words = [sys.executable, *launch, *command(case, address), *network]
        self.process = subprocess.Popen(
            words, cwd=folder, env=environment, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True
        )

    def wait(self, seconds: float | None) -> int | None:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def ranks(self) -> list[int]:
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(child) for thread in threads for child in thread.read_text().split()]

    def kill_all(self) -> None:
        for pid in [*self.ranks(), self.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


def training(folder: Path) -> Path | None:
    return next((f for f in folder.glob("store/pretrain/*") if f.is_dir()), None)


def last_step(folder: Path) -> int:
    found = training(folder)
    return max((int(r["step"]) for r in read_metrics(found / "metrics.csv")), default=0) if found else 0


def saved_step(folder: Path) -> int:
    found = training(folder)
    entries = Checkpoints(found).entries() if found else []
    return entries[0].step if entries else 0


def packs(folder: Path) -> list[tuple[str, str]]:
    """Files of packs, by where they lie in theirs, and their checksums."""
    store = folder / "store" / "pack"
    files = [*store.rglob("*.bin"), *store.rglob("parts.json")]
    return sorted(("/".join(file.relative_to(store).parts[1:]), sha256_of(file)) for file in files)


def differences(a: Path, b: Path) -> list[str]:
    """What two finished runs do not have in common, bit for bit."""
    found = [] if packs(a) == packs(b) else ["packs"]
    one, two = training(a), training(b)
    if not one and not two:
        assert packs(a), "neither packs nor a training"
        return found
    assert one and two
    weights = [load_file(f / "backbone.safetensors") for f in (one, two)]
    found += [k for k in weights[0] if not torch.equal(weights[0][k], weights[1][k])]
    numbers = [
        [tuple(r.values()) for r in read_metrics(f / "metrics.csv") if r["name"] not in TIMED] for f in (one, two)
    ]
    found += ["metrics.csv"] if sorted(numbers[0]) != sorted(numbers[1]) else []
    if (a / "map.tif").is_file():
        made = ("map.tif", "map_areas.csv", "map_preview.png", "map.qml")
        found += [name for name in made if (a / name).read_bytes() != (b / name).read_bytes()]
    file = "run/results.json" if (a / "run").is_dir() else "map_classifier/results.json"
    results = [json.loads((f / file).read_text()) for f in (a, b)]
    return found + [k for k in SAME if results[0][k] != results[1][k]]


def disturb(job: Job, done: Round, draw: random.Random) -> None:
    """One kill, or request to stop, of one kind or another."""
    before, saved = last_step(job.folder), saved_step(job.folder)
    ranks = job.ranks() if job.processes > 1 else []
    what = draw.choice(["all", "all", "stop", "rank"])
    if what == "stop":
        done.stops += 1
        job.process.send_signal(signal.SIGTERM)
        if job.wait(60) is None:
            raise RuntimeError(f"{job.folder} did not stop within 60 s")
        return
    done.kills += 1
    done.steps_lost += max(0, before - saved) if training(job.folder) and not finished(job.folder) else 0
    if what == "rank" and ranks:  # torchrun starts both again
        done.restarts += 1
        os.kill(draw.choice(ranks), signal.SIGKILL)
    else:
        job.kill_all()


def finished(folder: Path) -> bool:
    found = training(folder)
    return found is not None and (found / "done.json").is_file()


def soak(case: str, processes: int, folder: Path, draw: random.Random) -> Round:
    begin, done = time.monotonic(), Round(case, processes)
    whole, killed = folder / "whole", folder / "killed"
    server = served(folder) if case == "remote" else None
    address = server.url if server else ""
    if case in ("scene", "map"):
        generate(folder, bands=3, size=64, per_class=1, seed=0, scene_size=512)
    if case == "packing":
        generate(folder, bands=3, size=64, per_class=300, seed=0, scene_size=64)
    start = time.monotonic()
    if Job(case, processes, whole, address).wait(600) != 0:
        raise RuntimeError(f"the undisturbed run of {case} failed: see {whole / 'log.txt'}")
    took, attempts = time.monotonic() - start, 0
    longest = (0.7 if case == "packing" else 0.35) * took  # before a kill; imports take a third of a packing
    while True:
        if server:
            server.faults.clear()
            server.faults.extend(draw.choices(FAULTS, k=3))
        job, attempts, before = Job(case, processes, killed, address), attempts + 1, done.kills + done.stops
        if attempts % CALM == 0:  # left alone: one that hangs would not be seen otherwise
            code = job.wait(10 * took)
            if code is None:
                job.kill_all()
                raise RuntimeError(f"{case} on {processes} processes hangs: see {killed / 'log.txt'}")
        while (code := job.wait(draw.uniform(0, longest))) is None:
            disturb(job, done, draw)
        if code == 0:
            break
        if done.kills + done.stops == before:
            raise RuntimeError(f"{case} on {processes} processes fails by itself ({code}): see {killed / 'log.txt'}")
    text = (killed / "log.txt").read_text(errors="replace")
    done.resumes, done.steps = text.count("resumed at step"), last_step(whole)
    done.mismatches = len(differences(whole, killed))
    done.seconds = round(time.monotonic() - begin, 1)
    if server:
        server.close()
    return done


def served(folder: Path) -> RangeServer:
    """A server of the pack of built-in imagery."""
    words = [sys.executable, "-m", "rsssl.run", "task=pack", *TILES[:2], f"paths.store={folder / 'packed'}"]
    subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return RangeServer(next((folder / "packed" / "pack").glob("[0-9a-f]*")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="on one process and two; the methods above else")
    parser.add_argument("--out", type=Path, default=HERE / "results.csv")
    options = parser.parse_args()
    draw, begin, rounds = random.Random(options.seed), time.monotonic(), 0
    cases = [(case, n) for n in (1, 2) for case in options.cases] if options.cases else METHODS
    names = list(asdict(Round("", 0)))
    with open(options.out, "w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        while time.monotonic() - begin < 60 * options.minutes:
            folder = Path(tempfile.mkdtemp(prefix="soak-"))
            done = soak(*cases[rounds % len(cases)], folder, draw)
            rounds += 1
            writer.writerow(asdict(done))
            file.flush()
            print(done, flush=True)
            if done.mismatches:
                print(f"{differences(folder / 'whole', folder / 'killed')}: left in {folder}", flush=True)
            else:
                shutil.rmtree(folder)


if __name__ == "__main__":
    main()
