"""The typed configuration: what keys there are, of which type, and which combinations cannot work.

Hydra merges every YAML into these dataclasses, so an unknown key or a wrong type stops at composition. The groups that
users extend with classes of their own (`ssl`, `augment`, `optimizer`, `schedule`, `evaluate`) are open: their keys are
those of the YAML that was chosen, and `rsssl.compose` checks overrides against the types found there.

Light on purpose: nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rsssl.errors import UserError

# clean: nothing is chosen on the test set. validation: for tuning, a part of the pool plays the test set, which stays closed.
# paper: the published code's choice of the best epoch on half of the test images.
PROTOCOLS = ("clean", "validation", "paper")
SUGGEST = ("typicality", "coverage", "margin")
ADAPT = ("cast", "moments")
# Tasks that read no dataset: what they work on is named by keys of their own.
WITHOUT_DATASET = {
    f"rsssl.tasks.{name}.run": keys
    for name, keys in {
        "predict": ("checkpoint", "images", "out"),
        "map": ("checkpoint", "scene", "out"),
        "accuracy": ("scene", "reference"),
        "export": ("checkpoint", "out"),
    }.items()
}
COMPILE = ("default", "reduce-overhead", "max-autotune")  # the modes of torch.compile; the second is CUDA graphs


# OmegaConf resolves annotations at run time: `Optional` spelled as in Python 3.10 works, forward references do not.
@dataclass
class DatasetConfig:
    """Where imagery lies and what its numbers mean; `rsssl.data.dataset.Dataset` takes these fields."""

    _target_: str = "rsssl.data.dataset.Dataset"
    name: str = "folder"
    root: str | None = None
    classes: list[str] | None = None
    bands: list[str] | None = None
    select: list[str] | None = None
    valid_range: Any = None
    nodata: float | None = None
    native_size: int | None = None
    size: int | None = None
    gsd: float | None = None
    url: str | None = None
    md5: str | None = None
    homepage: str | None = None
    on_error: str = "raise"
    split_seed: int = 0
    test_fraction: float = 0.2
    generate: dict[str, Any] | None = None
    download: bool = False


@dataclass
class BackboneConfig:
    _target_: str = "rsssl.models.backbone.build_backbone"
    name: str = "resnet18"
    pretrained: bool = False
    weights: str | None = None
    adapt: str = "mean"
    kwargs: dict[str, Any] = field(default_factory=dict)
    depths: int = 1


@dataclass
class TaskConfig:
    _target_: str = "rsssl.tasks.pipeline.run"


@dataclass
class TrackerConfig:
    _target_: str = "rsssl.engine.tracking.Tracker"
    tensorboard: bool = True


@dataclass
class PretrainConfig:
    """Pre-training on unlabelled images. `dataset` null means the evaluated dataset's own pool."""

    dataset: Any = None
    root: Any = None
    images: int | None = None
    epochs: int = 100
    steps: int | None = None
    batch_size: int = 64
    accumulate: int = 1
    image_size: int | None = None
    progressive: list[Any] = field(default_factory=lambda: [[0.85, 0.5]])
    lr: float | None = None
    standardise: str = "card"
    seed: int = 0
    resume: str | None = None
    log_every: int = 10
    checkpoint_minutes: float = 5.0
    probes: int = 10
    pictures: int = 20


@dataclass
class FinetuneConfig:
    """Training with labels: `evaluate=finetune` and `evaluate=scratch`."""

    epochs: int = 100
    batch_size: int = 64
    lr: float = 4e-4
    backbone_lr_scale: float = 0.1
    augment: str = "d4"


@dataclass
class PathsConfig:
    data: str = "data"
    store: str = "store"


@dataclass
class MapConfig:
    """`task=map`. Null: the stride is half a window, the window the size of the tiles that the classifier was trained on."""

    stride: int | None = None
    window: int | None = None
    fast: bool = False
    confidence: bool = False
    probabilities: bool = False


@dataclass
class ExportConfig:
    """`task=export`: what else to write beside the weights, and whether it takes stored pixels."""

    onnx: bool = False
    program: bool = False
    preprocessing: bool = False


@dataclass
class SuggestConfig:
    """`task=suggest`: how many tiles, chosen how; `labelled` lists those that have their labels."""

    n: int = 50
    by: str = "typicality"
    labelled: str | None = None


@dataclass
class Config:
    task: TaskConfig = field(default_factory=TaskConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    ssl: dict[str, Any] = field(default_factory=dict)
    augment: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    evaluate: dict[str, Any] = field(default_factory=dict)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    map: MapConfig = field(default_factory=MapConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    suggest: SuggestConfig = field(default_factory=SuggestConfig)
    scene: str | None = None
    images: str | None = None
    reference: str | None = None
    field: str | None = None
    out: str | None = None
    bands: list[Any] | None = None
    adapt: str | None = None
    scene_nodata: float | None = None
    batch_size: int = 64
    ts: Any = 20
    seed: int = 0
    protocol: str = "clean"
    tta: bool = False
    baselines: bool = True
    checkpoint: str | None = None
    device: str = "auto"
    compile: str | None = None
    workers: int | None = None
    processes: int = 1
    timeout: float = 600.0


def train_scale(ts: Any) -> int | float | str:
    """`ts` as the rest of the code takes it: an int is labels per class, a float in (0, 1] a fraction, "all" the pool.

    Raises:
        UserError: for anything else.
    """
    if ts == "all" or (isinstance(ts, int) and not isinstance(ts, bool) and ts >= 1):
        return ts
    if isinstance(ts, float) and 0 < ts <= 1:
        return ts
    raise UserError(
        f"ts={ts} is not a train scale: type ts=5 (labels per class), ts=0.1 (a fraction of the pool) or ts=all"
    )


def positive(cfg: Any, *keys: str) -> None:
    """Stops when one of the dotted keys holds a number that is not above zero (null passes)."""
    for key in keys:
        value: Any = cfg
        for part in key.split("."):
            value = value[part]
        if value is not None and value <= 0:
            raise UserError(f"{key}={value} must be above zero: type for example {key}=1")


def check(cfg: Any) -> None:
    """Refuses impossible values and pairs, before any data is read.

    Raises:
        UserError: naming the key and what to type.
    """
    train_scale(cfg.ts)
    positive(
        cfg,
        "pretrain.images",
        "pretrain.epochs",
        "pretrain.steps",
        "pretrain.batch_size",
        "pretrain.image_size",
        "pretrain.lr",
        "pretrain.log_every",
        "pretrain.accumulate",
        "processes",
        "timeout",
        "backbone.depths",
        "finetune.epochs",
        "finetune.batch_size",
        "finetune.lr",
        "dataset.size",
    )
    if cfg.compile is not None and cfg.compile not in COMPILE:
        raise UserError(
            f"compile={cfg.compile} is unknown: type compile={' or compile='.join(COMPILE)} or compile=null"
        )
    if cfg.protocol not in PROTOCOLS:
        raise UserError(f"protocol={cfg.protocol} is unknown: type protocol={' or protocol='.join(PROTOCOLS)}")
    if cfg.dataset.on_error not in ("raise", "skip"):
        raise UserError(
            f"dataset.on_error={cfg.dataset.on_error} is unknown: type dataset.on_error=raise or dataset.on_error=skip"
        )
    if not 0 < cfg.dataset.test_fraction < 1:
        raise UserError(
            f"dataset.test_fraction={cfg.dataset.test_fraction} must lie between 0 and 1: type dataset.test_fraction=0.2"
        )
    if cfg.pretrain.standardise not in ("card", "half"):
        raise UserError(
            f"pretrain.standardise={cfg.pretrain.standardise} is unknown: type pretrain.standardise=card (mean and "
            "std of the pool) or pretrain.standardise=half (the paper's (x - 0.5) / 0.5)"
        )
    if cfg.pretrain.batch_size < 2:
        raise UserError("pretrain.batch_size=1 leaves nothing to compare with: type pretrain.batch_size=256")
    if cfg.backbone.pretrained and cfg.backbone.weights:
        raise UserError(
            "backbone.pretrained=true and backbone.weights are two different starts: "
            "leave one out, type backbone.pretrained=false"
        )
    if cfg.task._target_ == "rsssl.tasks.pretrain.run" and cfg.ssl.get("_target_") is None:
        raise UserError("ssl=none has nothing to pre-train with: type ssl=simclr")
    for key in ("probes", "pictures"):
        if cfg.pretrain[key] < 0:
            raise UserError(f"pretrain.{key}={cfg.pretrain[key]} cannot be: type pretrain.{key}=10, or 0 for none")
    for key in ("temperature", "views"):
        if key in cfg.ssl and cfg.ssl[key] is not None:
            positive(cfg, f"ssl.{key}")
    check_progressive(cfg)
    check_bands(cfg.dataset)
    check_keys(cfg)


EXAMPLES = {
    "checkpoint": "runs/2026-11-23/10-00-00-aid",
    "images": "tiles/",
    "scene": "scene.tif",
    "out": "map.tif",
    "reference": "points.gpkg",
}


def check_needed(cfg: Any) -> None:
    """What a task cannot start without."""
    task = cfg.task._target_
    for key in WITHOUT_DATASET.get(task, ()):
        if cfg[key] is None:
            name = task.split(".")[-2]
            example = (
                {"predict": "classes.csv", "export": "my_model"}.get(name, EXAMPLES[key])
                if key == "out"
                else EXAMPLES[key]
            )
            raise UserError(f"task={name} needs {key}=: type for example {key}={example}")


def check_keys(cfg: Any) -> None:
    """What the keys of the tasks that follow a training may say."""
    positive(cfg, "map.stride", "map.window", "suggest.n", "batch_size")
    if cfg.adapt is not None and cfg.adapt not in ADAPT:
        raise UserError(f"adapt={cfg.adapt} is unknown: type adapt={' or adapt='.join(ADAPT)}, or leave it out")
    if cfg.suggest.by not in SUGGEST:
        raise UserError(f"suggest.by={cfg.suggest.by} is unknown: type suggest.by={' or suggest.by='.join(SUGGEST)}")
    if cfg.map.stride and cfg.map.window and cfg.map.stride > cfg.map.window:
        raise UserError(
            f"map.stride={cfg.map.stride} leaves gaps between windows of {cfg.map.window} pixels: leave it out"
        )


def check_progressive(cfg: Any) -> None:
    """`pretrain.progressive` is a list of [until, scale]: up to that share of the steps, at that scale of the size."""
    hint = "type pretrain.progressive='[[0.8,0.5]]' (80 % of the steps at half size) or pretrain.progressive=[]"
    last = 0.0
    for stage in cfg.pretrain.progressive:
        try:
            until, scale = (float(v) for v in stage)
        except (TypeError, ValueError):
            raise UserError(f"pretrain.progressive holds {stage}, not a pair of numbers: {hint}") from None
        if not (last < until <= 1 and 0 < scale <= 1):
            raise UserError(
                f"pretrain.progressive holds {list(stage)}: shares must rise to 1, scales lie in (0, 1]: {hint}"
            )
        last = until
    fixed = ("swin", "mixer", "mlp")
    if cfg.pretrain.progressive and str(cfg.backbone.name).startswith(fixed):
        raise UserError(
            f"backbone.name={cfg.backbone.name} takes images of one size only and pretrain.progressive changes it: "
            "type pretrain.progressive=[]"
        )


def check_bands(dataset: Any) -> None:
    """The bands selected must be among those the files hold."""
    if dataset.bands is None:
        return  # they are read from the files
    unknown = [b for b in dataset.select or [] if b not in dataset.bands]
    if unknown:
        raise UserError(
            f"dataset.select names {unknown[0]}, which is not among the bands of {dataset.name}: "
            f"type dataset.select=[...] with names from {', '.join(dataset.bands or [])}"
        )
