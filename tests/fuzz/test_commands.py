"""Random command lines: each is done, or refused in a sentence. What is found becomes a test of its own elsewhere."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from omegaconf import OmegaConf

from rsssl.compose import Composer, check_line
from rsssl.errors import UserError
from rsssl.explain import leaf_keys
from rsssl.groups import GROUPS, group_options

Cases = Callable[[int], Iterator[Random]]
TEXT = r"""0 1 -1 2 0.5 -0.5 1e-9 1e9 1e400 nan inf -inf 100000 99999999999999999999999 007 1_0 true false null none ???
    ${nope} ${paths.store} ${oc.env:NOPE} [] [1] [1,2] [0,inf] [[1,2],[3]] [a,b] [null] {} {a:1} {_target_:os.system}
    {a:{b:[1]}} '' "" 'a\ b' "quo'te" \ a=b a,b é 漢字 🛰 a/b . ~ @ : 1:2 -- --help $x !x * % x.tif ./.. os.system
    rsssl.methods.simclr.SimCLR simclr synthetic folder scene meta cpu"""
VALUES = ["", " ", *TEXT.split()]
WHOLE = (0, 1, 2, 3, 5, 7, 16, 31, 100, 1000, 100000, 10**9, 2**31, 2**62, -1)
NUMBERS = (0, 1e-300, 1e-9, 0.1, 0.5, 0.999, 1, 1.5, 2, 100, 1e9, 1e300, -0.1)
HYDRA = ("hydra/launcher", "hydra.run.dir", "hydra.sweep.dir", "hydra.output_subdir", "hydra.job.name")


@cache
def keys_of(*line: str) -> dict[str, Any]:
    """Every key that there is with these options, with its default."""
    with Composer() as composer:
        cfg = composer.compose([*line])
        return {key: OmegaConf.select(cfg, key, throw_on_missing=False) for key in leaf_keys(cfg)}


def like(random: Random, default: Any) -> str:
    """A value of the default's kind."""
    if isinstance(default, bool):
        return random.choice(["true", "false"])
    if isinstance(default, int | float):
        return str(random.choice(WHOLE if isinstance(default, int) else NUMBERS))
    if OmegaConf.is_list(default):
        elements = [like(random, random.choice(default)) for _ in range(random.choice([0, 1, 2, 3]) if default else 0)]
        return f"[{','.join(elements)}]"
    return random.choice(["null", *map(str, WHOLE), *map(str, NUMBERS), "simclr", "a b"])


def override(random: Random, keys: dict[str, Any]) -> str:
    """One override: a key, sometimes with a sign or a package, and any value or the option of any group."""
    key, group = random.choice([*keys, *GROUPS, *HYDRA]), random.choice(GROUPS)
    value = random.choice([*VALUES, random.choice(group_options(group))])
    if random.random() < 0.5:
        return f"{key}={like(random, keys.get(key))}"
    if random.random() < 0.02:
        key = key[: random.randrange(len(key) + 1)] + random.choice(VALUES)
    form = random.choice(["{k}={v}"] * 12 + ["+{k}={v}", "++{k}={v}", "~{k}", "~{k}={v}", "{k}@{g}={v}", "{k}", "{v}"])
    return form.format(k=key, v=value, g=group)


def options(random: Random, task: str, groups: Sequence[str], share: float) -> list[str]:
    """Some options of those of the groups that the task has."""
    ours = [group for group in groups if group in keys_of(task) and random.random() < share]
    return [f"{group}={random.choice(group_options(group))}" for group in ours]


def command(random: Random) -> list[str]:
    """A task, some options, and one to three overrides of their keys."""
    task = f"task={random.choice(group_options('task'))}"
    chosen = options(random, task, ("ssl", "evaluate", "start", "augment", "dataset"), 0.1)
    keys = keys_of(task, *chosen[:1])
    return [task, *chosen, *(override(random, keys) for _ in range(random.choice([1, 1, 1, 2, 3])))]


def test_any_command_line_composes_or_is_refused(cases: Cases) -> None:
    lines = [(command(random), random.random() < 0.1) for random in cases(10)]
    with Composer() as composer:
        for line, multirun in lines:
            try:
                check_line(composer, line, multirun, start=False)
            except UserError:
                pass
            except BaseException as error:
                raise AssertionError(f"{line}") from error


NETWORK = "backbone.name=resnet10t +backbone.kwargs.channels=[8,8,16,16] +backbone.kwargs.stem_width=8 start=random"
TRAINING = "pretrain.steps=1 pretrain.batch_size=8 pretrain.probes=1 pretrain.pictures=1 tracker=csv device=cpu"
DATASET = "dataset=synthetic dataset.test_fraction=0.5"
TILES = "dataset.generate.size=16 dataset.generate.per_class=4 dataset.generate.scene_size=64"
SYNTHETIC, SMALL = f"{DATASET} {TILES}".split(), f"{NETWORK} {TRAINING}".split()
EVALUATED = ["ts=1", "evaluate=knn", "baselines=false", "finetune.steps=1", "finetune.batch_size=4"]
# Keys that reach outside: other processes, a network connection, folders that are not the test's.
ELSEWHERE = ("processes", "hydra/", "url", "download", "paths", "HOME", "experiment", "packages", "backbone=", "start=")


class Places:
    """Tiny runs of each task, in a folder that has what they need."""

    def __init__(self, workshop: Any, folder: Path) -> None:
        self.workshop, self.folder, self.env = workshop, folder, {"RSSSL_STORE": str(folder / "store")}
        line = ["task=pipeline", *SYNTHETIC, *SMALL, *EVALUATED, f"hydra.run.dir={folder / 'run'}"]
        workshop.run(folder / "first", *line, env=self.env)
        self.tiles = next((folder / "store" / "synthetic").glob("v*")) / "tiles"
        self.scene = self.tiles.parent / "scene.tif"
        workshop.run(folder / "first", *self.line("map"), env=self.env)
        shutil.copytree(folder / "first", folder / "again")

    def line(self, task: str) -> list[str]:
        """A command that ends well."""
        trained, images = f"checkpoint={self.folder / 'run'}", [*SYNTHETIC, *SMALL]
        store = f"checkpoint={next((self.folder / 'store' / 'pretrain').iterdir())}"
        more = {
            "pack": SYNTHETIC,
            "pretrain": images,
            "pipeline": [*images, *EVALUATED],
            "evaluate": [*images, *EVALUATED, store],
            "suggest": [*images, "suggest.n=2"],
            "replay": [*images, *EVALUATED],
            "predict": [trained, f"images={self.tiles}", "out=out.csv", "device=cpu"],
            "map": [trained, f"scene={self.scene}", "out=map.tif", "device=cpu", "map.window=16"],
            "accuracy": ["class_map=map.tif", f"reference={self.tiles.parent / 'scene_classes.tif'}"],
            "export": [trained, "out=exported"],
            "store": [],
        }[task]
        return [f"task={task}", *more, "workers=1"]

    def run(self, line: list[str]) -> tuple[int, str]:
        """The exit code of a command and what it said; a minute and 8 GB are its limits."""
        here = self.folder / "here"
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(self.folder / "again", here)
        self.workshop.start(here, argv=line, env=self.env, seconds=60, memory=8 << 30)
        return self.workshop.wait()[0], self.workshop.log.read_text(errors="replace")


@pytest.fixture(scope="module")
def places(workshop: Any, tmp_path_factory: pytest.TempPathFactory) -> Places:
    return Places(workshop, tmp_path_factory.mktemp("commands"))


def tiny(random: Random, places: Places) -> list[str]:
    """A command that ends well, but for one or two of its keys."""
    line = places.line(random.choice(group_options("task")))
    chosen = options(random, line[0], ("ssl", "augment", "evaluate", "schedule", "optimizer"), 0.2)
    keys = {k: v for k, v in keys_of(line[0], *chosen[:1]).items() if not OmegaConf.is_dict(v)}
    changes = [override(random, keys) for _ in range(random.choice([1, 1, 2]))]
    return [*line, *chosen, *(c for c in changes if not any(word in c for word in ELSEWHERE))]


def test_any_tiny_run_ends_well_or_is_refused(cases: Cases, places: Places) -> None:
    for random in cases(3):
        line = tiny(random, places)
        code, said = places.run(line)
        assert code in (0, 2, -signal.SIGALRM) and "Traceback" not in said, f"{line}: exit code {code}\n{said[-3000:]}"
