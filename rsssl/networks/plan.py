"""What a pre-training depends on, worked out before it starts: which images, at which size, and the hash of it all."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate

from rsssl import rng
from rsssl.data.catalog import name_of
from rsssl.data.dataset import Dataset
from rsssl.data.places import class_folders, place_names
from rsssl.data.pool import Pool, Source
from rsssl.data.prepared import Data, load, statistics
from rsssl.data.rows import Indices
from rsssl.data.sizes import LARGEST, size_advice
from rsssl.engine import distributed
from rsssl.engine.device import precision
from rsssl.engine.files import sha256, sha256_of
from rsssl.engine.resume import resumed
from rsssl.engine.run import Run
from rsssl.engine.store import digest
from rsssl.errors import UserError
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import Preprocess
from rsssl.networks.recipe import Recipe
from rsssl.networks.starts import Start
from rsssl.networks.teacher import teacher_file

log = logging.getLogger(__name__)
VERSION = 4  # raised when a change of the code changes what the same inputs train to
Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std per band, in units of 0 to 1
ENLARGED = 2  # times that small images are enlarged, at most, to the size that a start wants
GROUPS = ("ssl", "augment", "optimizer", "schedule", "backbone")
# Keys that cannot change the weights, or that stand in the inputs in another form.
NOT_IN_THE_INPUTS = ("dataset", "root", "resume", "keep", "log_every", "checkpoint_minutes", "probes", "pictures")
WITHOUT = {"epochs": None, "steps": None, "minutes": None, "accumulate": 1, "distill": 0.0, "freeze": 0.0}
PLACES_HINT = (
    "type ssl.together=folder for place_1/january.tif place_1/july.tif, or ssl.together=name for january/place_1.tif "
    "july/place_1.tif, or ssl=simclr for tiles of different places"
)


@dataclass(frozen=True)
class Plan:
    """All that a pre-training depends on.

    Args:
        recipe: how it is trained.
        start: what the backbone is before.
        parts: the datasets.
        indices: of each part, the rows that are trained on.
        preprocess: how images become the network's input.
        lr: peak learning rate.
        inputs: what the training's hash is made of.
        minutes: the budget of time, where neither epochs nor steps are given.
        teacher: the file of the network that is learnt from.
        start_from: another training's checkpoint.
    """

    recipe: Recipe
    start: Start
    parts: list[Data]
    indices: list[Indices]
    preprocess: Preprocess
    lr: float
    inputs: dict[str, Any]
    minutes: float | None
    teacher: Path | None = None
    start_from: Path | None = None

    @property
    def n_images(self) -> int:
        return sum(len(i) for i in self.indices)

    @property
    def data_name(self) -> str:
        return "+".join(d.pack.card.name for d in self.parts)

    @property
    def sources(self) -> list[Source]:
        """The rows that are trained on, by pack."""
        return [Source(d.pack, i) for d, i in zip(self.parts, self.indices, strict=True)]

    def path_of(self, number: int) -> str:
        """The file of an image of the pool."""
        for data, rows in zip(self.parts, self.indices, strict=True):
            if number < len(rows):
                return name_of(data.dataset.root or "", data.pack.paths[int(rows[number])])
            number -= len(rows)
        raise UserError("the failed step names an image that the pool does not have: type the command that failed")


def plan(recipe: Recipe, dataset: Dataset, run: Run) -> Plan:
    """Prepares the data and works out what the configuration leaves open (image size, learning rate, which images)."""
    instantiate(recipe.augment, _convert_="all")  # an impossible augmentation is refused before any data is read
    keys = recipe.pretrain
    tiles = recipe.pack.tiles
    parts = [load(d, run.store, run.workers, recipe.protocol, tiles) for d in datasets(recipe, dataset, run)]
    indices = draw(parts, keys.images, keys.seed)
    start: Start = instantiate(recipe.start, _convert_="all")
    card = replace(parts[0].pack.card, classes=())
    native = min(min(d.pack.card.size) for d in parts)
    preprocess = presented(recipe, start, card, native, statistics(*((d.pack, d.split.pool) for d in parts)))
    for part in parts:
        if advice := size_advice(part.dataset, part.pack, preprocess.size):
            log.info(advice)
    lr = keys.lr if keys.lr is not None else recipe.optimizer["lr"]
    settings = {k: v for k, v in asdict(keys).items() if k not in NOT_IN_THE_INPUTS} | {
        "image_size": preprocess.size,
        "lr": lr,
    }
    minutes = keys.budget(run.device.type)
    settings["minutes"] = keys.minutes or (None if minutes is None else "auto")  # the same on any device
    for key, without in WITHOUT.items():
        if settings[key] == without:
            settings.pop(key)
    inputs = {
        "version": VERSION,
        "data": [{"name": d.pack.card.name, "pixels": d.pack.fingerprint, "split": d.split.hash} for d in parts],
        "pretrain": settings,
        **{group: canonical(getattr(recipe, group)) for group in GROUPS},
    }
    if not inputs["backbone"]["checkpointing"]:
        inputs["backbone"].pop("checkpointing")
    if Pool([Source(d.pack, i) for d, i in zip(parts, indices, strict=True)]).block_starts is not None:
        inputs["order"] = "blocks"  # of packs in object storage: other batches than those of the same packs here
    if (computed_in := precision(run.device)) != "fp32":  # other weights than a CPU's
        inputs["precision"] = computed_in
    if identity := start.identity(recipe.backbone["name"]):
        inputs["start"] = identity
    teacher = teacher_file(recipe.ssl, run.store)
    if teacher:
        inputs["ssl"]["teacher"] = sha256_of(teacher)
    planned = Plan(recipe, start, parts, indices, preprocess, lr, inputs, minutes, teacher)
    if together := recipe.ssl.get("together"):
        inputs["places"] = digest({"places": place_of_each(planned, together)})
    if code := own_code(inputs):
        inputs["code"] = code
    if not keys.resume:
        return planned
    first = resumed(keys.resume, inputs, run.store) if distributed.rank() == 0 else None
    start_from, inputs["resumed"] = distributed.broadcast(first)
    return replace(planned, start_from=start_from)


def datasets(recipe: Recipe, evaluated: Dataset, run: Run) -> list[Dataset]:
    """The datasets to pre-train on: `pretrain.dataset` (a name, or several), else the evaluated dataset's own pool."""
    names, roots = as_list(recipe.pretrain.dataset), as_list(recipe.pretrain.root)
    if not names:
        return [evaluated]
    if roots and len(roots) != len(names):
        raise UserError(f"pretrain.root has {len(roots)} folders for {len(names)} datasets: type one for each")
    chosen = []
    for i, name in enumerate(names):
        dataset: Dataset = run.option("dataset", name)
        if roots:
            dataset.root = roots[i]
        if same_images(dataset, evaluated, bool(roots)):
            dataset = evaluated  # with its split: what it tests on is never trained on
        else:
            # Editions of one dataset share their test scenes when they share the split.
            for key in ("split_seed", "test_fraction", "on_error"):
                setattr(dataset, key, getattr(evaluated, key))
            if roots and name == "folder":
                dataset.classes = []  # any tree: its folders need not be classes, and none of it is tested on
        chosen.append(dataset)
    return chosen


def same_images(dataset: Dataset, evaluated: Dataset, rooted: bool) -> bool:
    """Whether a dataset to pre-train on is the evaluated one, under its own name, an alias, or by its folder."""
    if not rooted and dataset.name == evaluated.name:
        return True
    roots = [d.root and Path(d.root).expanduser().resolve() for d in (dataset, evaluated)]
    return roots[0] is not None and roots[0] == roots[1]


def as_list(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(v) for v in value] if not isinstance(value, str) else [value]


def presented(recipe: Recipe, start: Start, card: SensorCard, native: int, pool: Statistics) -> Preprocess:
    """How images become the network's input.

    Args:
        recipe: how it is trained.
        start: what the backbone is before.
        card: of the images.
        native: pixels of a side of the smallest of them.
        pool: mean and std of the pool.
    """
    form, keys = start.form(recipe.backbone["name"]), recipe.pretrain
    size = keys.image_size or (min(LARGEST, native) if form is None else min(form.size, ENLARGED * native))
    if keys.standardise == "half":
        pool = (0.5,) * card.n_bands, (0.5,) * card.n_bands
    elif form and keys.standardise == "start":
        pool = form.standardisation(card, *pool)
    return Preprocess(card, size, *pool)


def draw(parts: list[Data], images: int | None, seed: int) -> list[Indices]:
    """The pool's rows to train on: all of them, or `images` drawn at random over all parts."""
    pools = [d.split.pool for d in parts]
    total = sum(len(p) for p in pools)
    if images is None or images == total:
        return pools
    if images > total:
        raise UserError(
            f"pretrain.images={images} is more than the {total} images of the pool: type pretrain.images=null for all "
            "of them"
        )
    chosen = np.sort(rng.Order(rng.fold("pretrain images", seed), total)[:images])
    starts = np.cumsum([0, *(len(p) for p in pools)])
    return [p[chosen[(chosen >= a) & (chosen < b)] - a] for p, a, b in zip(pools, starts, starts[1:], strict=False)]


def place_of_each(planned: Plan, together: str) -> list[str]:
    """The place of each image of the pool, by the layout of the folders (see data/places.py).

    Raises:
        UserError: when the folders are the classes, so that a place would be a label.
    """
    places = []
    for number, (data, source) in enumerate(zip(planned.parts, Pool(planned.sources).sources, strict=True)):
        paths, root = data.pack.paths.select(np.asarray(source.indices)), data.dataset.root
        if together == "folder" and not all("/" in p for p in paths):
            raise UserError(f"ssl.together=folder: images of {root} lie in no folder of a place; {PLACES_HINT}")
        if together == "folder" and class_folders(paths, data.pack.card.classes):
            raise UserError(
                f"ssl.together=folder: the folders of {root} are its classes, so tiles would be paired by label; put "
                f"the "
                "tiles of a place into a folder of their own, class/place/date.tif, or type ssl.together=name"
            )
        places += [f"{number}/{name}" for name in place_names(paths, together)]
    return places


def canonical(node: Any) -> Any:
    """A configuration without the files that our classes lie in: moving a class does not change what it computes."""
    if isinstance(node, list):
        return [canonical(child) for child in node]
    if not isinstance(node, dict):
        return node
    content = {k: canonical(v) for k, v in node.items()}
    target = content.get("_target_")
    if isinstance(target, str) and target.startswith("rsssl."):
        content["_target_"] = f"rsssl.{target.split('.')[1]}.{target.rpartition('.')[2]}"
    return content


def own_code(node: Any) -> dict[str, str]:
    """The user's own classes that `_target_` names, with a hash of their file: an edit makes another method of it."""
    if isinstance(node, list):
        return {k: v for child in node for k, v in own_code(child).items()}
    if not isinstance(node, dict):
        return {}
    hashes = {k: v for child in node.values() for k, v in own_code(child).items()}
    target = node.get("_target_")
    if isinstance(target, str) and target.split(".")[0] not in ("rsssl", "torch", "torchvision", "timm"):
        spec = importlib.util.find_spec(target.rpartition(".")[0])
        if spec and spec.origin and Path(spec.origin).is_file():
            hashes[target] = sha256(Path(spec.origin).read_bytes())
    return hashes
