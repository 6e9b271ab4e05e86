"""How a backbone is pre-trained: the keys of the configuration, and what they may be. Nothing here imports torch."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from typing import Any

from rsssl.checks import one_of, positive, text
from rsssl.data.dataset import PackKeys
from rsssl.engine.tracking import Tracker
from rsssl.errors import UserError

COMPILE = ("default", "reduce-overhead", "max-autotune")  # modes of torch.compile
DISTRIBUTED = ("auto", "ddp", "flat")
GRAPHS = ("reduce-overhead", "max-autotune")  # those that record CUDA graphs
AUTO_MINUTES = {"cpu": 8.0, "cuda": 60.0}  # by device
FROZEN = 0.5  # of them on a CPU where stages are left as they are: a step takes less than half the time
MOST_EPOCHS = 100  # a budget buys no more passes over the pool
NETWORK = ("name", "kwargs", "depths")  # the keys of a backbone's config that say what network it is
# Keys that are read outside the class that the group names, and an option that has them.
NEEDED = (("backbone", (*NETWORK, "checkpointing"), "resnet18"), ("optimizer", ("lr",), "adamw"))
FIXED_SIZE = ("swin", "mixer", "mlp")  # families of backbones that take images of one size only


@dataclass
class PretrainKeys:
    """The keys `pretrain.*`.

    Args:
        dataset: names of datasets to pre-train on; None: the evaluated dataset's own pool.
        root: their folders, where they are not the usual ones.
        images: how many images of the pool; None: all.
        epochs: passes over the pool; None: `minutes`.
        steps: that many steps in place of whole epochs.
        minutes: a budget, where neither epochs nor steps are given: as many steps as it buys on this machine, at most
            MOST_EPOCHS passes; None: AUTO_MINUTES, on a CPU half of them where stages are frozen.
        batch_size: images in a batch.
        accumulate: batches that make a step.
        image_size: pixels of a view; None: the images' own size, up to 224.
        progressive: [until, scale] pairs: up to that share of the steps, views at that scale of the size.
        lr: peak learning rate; None: the optimizer's own.
        layer_decay: from each stage of the backbone to the one before it the rate is multiplied by it.
        freeze: stages of the backbone whose rate `layer_decay` brings below that share of `lr` stay as they start: no
            time is spent on their gradients; 0: all are trained.
        average: the weights that are kept are averages over about that share of the steps; 0: the last ones.
        distill: weight of a loss that keeps the start's features readable from the trained ones; 0: none.
        standardise: "start" (as the start's network is used to), "card" (mean and std of the pool) or "half" (the
            paper's (x - 0.5) / 0.5).
        seed: of the first weights, the order and the augmentation.
        resume: another training's checkpoint to go on from.
        keep: keep the checkpoint after the end, so that another training can go on from it, with more epochs.
        log_every: steps between two rows of metrics.
        checkpoint_minutes: between two checkpoints.
        probes: how often the online probe looks at the features.
        pictures: how often pictures of the training are drawn.
    """

    dataset: Any
    root: Any
    images: int | None
    epochs: int | None
    steps: int | None
    minutes: float | None
    batch_size: int
    accumulate: int
    image_size: int | None
    progressive: list[Any]
    lr: float | None
    layer_decay: float
    freeze: float
    average: float
    distill: float
    standardise: str
    seed: int
    resume: str | None
    keep: bool
    log_every: int
    checkpoint_minutes: float
    probes: int
    pictures: int

    def check(self) -> None:
        """Refuses impossible values.

        Raises:
            UserError: naming the key and what to type.
        """
        names = ("images", "epochs", "steps", "batch_size", "image_size", "lr", "log_every", "accumulate")
        positive(**{f"pretrain__{name}": getattr(self, name) for name in names})
        positive(pretrain__minutes=self.minutes)
        for name, value in (("dataset", self.dataset), ("root", self.root)):
            listed = value if isinstance(value, list) else [] if value is None else [value]
            if not all(isinstance(v, str) for v in listed):
                raise UserError(f"pretrain.{name}={value} is not text: type pretrain.{name}=NAME, or [NAME,NAME]")
        if self.root and not self.dataset:
            raise UserError("pretrain.root needs pretrain.dataset: type for example pretrain.dataset=folder")
        if self.images == 1:
            raise UserError("pretrain.images=1 leaves nothing to compare with: type pretrain.images=1000")
        if self.minutes and (self.epochs or self.steps):
            raise UserError("pretrain.minutes= and pretrain.epochs= or steps= both say how long: type one of them")
        # start: as its network is used to. card: mean and std of the pool. half: the paper's (x - 0.5) / 0.5.
        one_of("pretrain.standardise", self.standardise, ("start", "card", "half"))
        if self.batch_size < 2:
            raise UserError("pretrain.batch_size=1 leaves nothing to compare with: type pretrain.batch_size=256")
        if not 0 <= self.average < 1:
            raise UserError(
                f"pretrain.average={self.average} is no share of the steps: type pretrain.average=0.3, or 0"
            )
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"pretrain.layer_decay={self.layer_decay} is not in (0, 1]: type pretrain.layer_decay=0.6")
        if not 0 <= self.freeze < 1:
            raise UserError(f"pretrain.freeze={self.freeze} is not in [0, 1): type pretrain.freeze=0.05, or 0 for none")
        self._check_progressive()

    def budget(self, device: str) -> float | None:
        """Minutes of training on that type of device; None where epochs or steps are given."""
        if self.epochs or self.steps:
            return None
        if self.minutes is not None:
            return self.minutes
        minutes = AUTO_MINUTES.get(device, AUTO_MINUTES["cuda"])
        return FROZEN * minutes if device == "cpu" and self.freeze else minutes

    def _check_progressive(self) -> None:
        hint = "type pretrain.progressive='[[0.8,0.5]]' (80 % of the steps at half size) or pretrain.progressive=[]"
        last = 0.0
        for stage in self.progressive:
            try:
                until, scale = (float(v) for v in stage)
            except (TypeError, ValueError):
                raise UserError(f"pretrain.progressive holds {stage}, not a pair of numbers: {hint}") from None
            if not (last < until <= 1 and 0 < scale <= 1):
                raise UserError(
                    f"pretrain.progressive holds {list(stage)}: shares must rise to 1, scales lie in (0, 1]: {hint}"
                )
            last = until


@dataclass
class Recipe:
    """All that a pre-training follows from, beside the images. Groups are what their YAML composes to.

    Args:
        backbone: arguments of `build_backbone`.
        start: what it is before the training (see starts.py).
        ssl: the method; empty for ssl=none.
        augment: the augmentation policy.
        optimizer: of the pre-training and of fine-tuning.
        schedule: of the learning rate.
        tracker: where metrics go.
        pretrain: see `PretrainKeys`.
        pack: see `rsssl.data.dataset.PackKeys`.
        distributed: how the gradients of several processes become one; "auto" is ddp on accelerators, flat on CPUs.
        compile: the mode of torch.compile; None: not compiled.
        protocol: "clean", "validation" (a part of the pool plays the test set) or "paper".
    """

    backbone: dict[str, Any]
    start: dict[str, Any]
    ssl: dict[str, Any]
    augment: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    tracker: dict[str, Any]
    pretrain: PretrainKeys
    pack: PackKeys
    distributed: str
    compile: str | None
    protocol: str

    def check(self) -> None:
        """Refuses impossible values and pairs.

        Raises:
            UserError: naming the key and what to type.
        """
        self.pretrain.check()
        tracker = pkgutil.resolve_name(self.tracker["_target_"])
        if isinstance(tracker, type) and issubclass(tracker, Tracker):
            tracker.refuse_missing()
        if self.compile is not None and self.compile not in COMPILE:
            raise UserError(
                f"compile={self.compile} is unknown: type compile={' or compile='.join(COMPILE)} or compile=null"
            )
        if self.compile in GRAPHS and self.pretrain.accumulate > 1:
            raise UserError(
                f"compile={self.compile} keeps activations in one place, where the pretrain.accumulate="
                f"{self.pretrain.accumulate} batches of a step would overwrite each other's: type compile=default, or "
                "pretrain.accumulate=1"
            )
        # clean: nothing is chosen on the test set. validation: for tuning, the test set stays closed.
        # paper: the published code's choice of the best epoch on half of the test images.
        one_of("distributed", self.distributed, DISTRIBUTED)
        one_of("protocol", self.protocol, ("clean", "validation", "paper"))
        for group, keys, example in NEEDED:
            if missing := [key for key in keys if key not in getattr(self, group)]:
                key = f"{group}.{missing[0]}"
                raise UserError(f"{key}= cannot be left out: type {group}={example}, or an option that has {key}")
        positive(backbone__depths=self.backbone["depths"])
        text(start__file=self.start.get("file"), start__sha256=self.start.get("sha256"))
        text(ssl__teacher=self.ssl.get("teacher"))
        for name, value in self.ssl.items():  # numbers of views, units, prototypes; a queue may be none
            if name == "temperature" or (type(value) is int and name != "queue"):
                positive(**{f"ssl__{name}": value})
        if self.pretrain.progressive and str(self.backbone["name"]).startswith(FIXED_SIZE):
            raise UserError(
                f"backbone.name={self.backbone['name']} takes images of one size only and pretrain.progressive changes "
                "it: type pretrain.progressive=[]"
            )
