"""The Python API: what the command line does, as functions. Everything here is public as `rsssl.<name>`.

    import rsssl
    trained = rsssl.pretrain("tiles/", ssl="simclr", pretrain={"epochs": 10})
    results = rsssl.evaluate("labelled/", checkpoint=trained["folder"], ts=5)
    x, paths = rsssl.features(trained["folder"], "tiles/")

Keys are those of the command line: `ts=5`, `evaluate="knn"`, and for a dotted one a dict, `pretrain={"epochs": 10}`.
Their defaults are those of the command line too. A wrong key or value raises `rsssl.UserError`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsssl.data.dataset import Dataset, class_of

if TYPE_CHECKING:
    import numpy as np

    from rsssl.networks.network import SceneNetwork

PathLike = str | os.PathLike[str]


def run(overrides: Sequence[str] = (), config_dir: PathLike | None = None) -> Any:
    """Runs one job as `rsssl-run` does, in this process.

    Args:
        overrides: as on the command line, ["dataset=aid", "ssl=simclr", "ts=5"].
        config_dir: your own folder of YAML files.

    Returns:
        The task's results: for the pipeline and an evaluation what results.json says.

    Raises:
        UserError: for wrong keys and values, and whatever the task refuses.
    """
    from rsssl.jobs import run_here

    return run_here(list(overrides), None if config_dir is None else os.fspath(config_dir))


def pretrain(dataset: PathLike, **keys: Any) -> dict[str, Any]:
    """Trains a backbone without labels, or finds the finished training in the store.

    Args:
        dataset: a folder of images, or the name of a dataset.
        **keys: of task=pretrain: ssl="byol", backbone="resnet50", pretrain={"epochs": 10}, ...

    Returns:
        The record of the training: "weights" (the file), "folder", "images", "epochs", "seconds", ...
    """
    results: dict[str, Any] = run(overrides_of("pretrain", dataset_keys(dataset) | keys))
    return results


def evaluate(dataset: PathLike, checkpoint: PathLike | None = None, **keys: Any) -> dict[str, Any]:
    """Trains a classifier from a few labels per class and tests it.

    Args:
        dataset: a folder with a folder of images for each class, or the name of a dataset.
        checkpoint: weights that exist; None to pre-train first (ssl="none": the backbone as it starts).
        **keys: of task=pipeline: ts=5, evaluate="knn", seed=0, ...

    Returns:
        What results.json says; "run_folder" is what `checkpoint` takes to predict and to map.
    """
    task = "pipeline" if checkpoint is None else "evaluate"
    given = {} if checkpoint is None else {"checkpoint": os.fspath(checkpoint)}
    results: dict[str, Any] = run(overrides_of(task, dataset_keys(dataset) | given | keys))
    return results


def load_backbone(path: PathLike, card: Any = None, adapt: str | None = None) -> SceneNetwork:
    """A pre-trained backbone: stored pixels -> features (B, D), in evaluation mode on the CPU.

    Args:
        path: an exported folder, a run folder, the folder that `pretrain` names, or a file of weights.
        card: the sensor card of your own images, where they are of another sensor: a `SensorCard`, its dict, or a file.
        adapt: what to do where it differs: "match", "mean", "tile" or "random" (see `rsssl.networks.sensor`).

    Returns:
        A module that takes (B, C, H, W) or (C, H, W), numpy or torch, with the attributes card, size, preprocess and
        backbone (the bare network).
    """
    from rsssl.networks.load import load_backbone

    return load_backbone(path, card, adapt)


def load_classifier(path: PathLike, card: Any = None, adapt: str | None = None) -> SceneNetwork:
    """A trained classifier: stored pixels -> class probabilities (B, K), in evaluation mode on the CPU.

    Args:
        path: an exported folder, a run folder of an evaluation, or its classifier.safetensors.
        card: as for `load_backbone`.
        adapt: as for `load_backbone`.

    Returns:
        A module that takes (B, C, H, W) or (C, H, W), numpy or torch, with the attributes classes, card, size,
        preprocess, backbone and head.
    """
    from rsssl.networks.load import load_classifier

    return load_classifier(path, card, adapt)


def features(network: Any, images: Any, batch_size: int = 64) -> tuple[np.ndarray, list[str]]:
    """Features of images.

    Args:
        network: what `load_backbone` or `load_classifier` returned, or a place that `load_backbone` takes.
        images: a folder, a list of paths, or an array (B, C, H, W) or (C, H, W) of stored pixels, numpy or torch.
        batch_size: images at a time.

    Returns:
        (N, D) float32, and the images' paths (empty for arrays).

    Raises:
        UserError: for images that cannot be the sensor's, naming the first.
    """
    from rsssl.networks.featuring import features_of

    return features_of(network, images, batch_size)


def predict(checkpoint: PathLike, images: PathLike, out: PathLike, **keys: Any) -> dict[str, Any]:
    """Classifies images in files.

    Args:
        checkpoint: a run folder or an exported one.
        images: a folder, or a list in a file.
        out: the CSV.
        **keys: of task=predict: bands=[4, 3, 2], tta=True, ...

    Returns:
        {"images": those predicted, "unusable": those that could not be used}.
    """
    given = {"checkpoint": os.fspath(checkpoint), "images": os.fspath(images), "out": os.fspath(out)}
    results: dict[str, Any] = run(overrides_of("predict", given | keys))
    return results


def map(checkpoint: PathLike, scene: PathLike, out: PathLike, **keys: Any) -> dict[str, Any]:
    """Maps a georeferenced scene, or each scene of a folder.

    Args:
        checkpoint: a run folder or an exported one.
        scene: a raster, or a folder of them.
        out: the map, a GeoTIFF, or a folder.
        **keys: of task=map: bands=[4, 3, 2], map={"stride": 16}, ...

    Returns:
        {file of the map: {class: {"pixels": ..., "hectares": ...}}}.
    """
    given = {"checkpoint": os.fspath(checkpoint), "scene": os.fspath(scene), "out": os.fspath(out)}
    results: dict[str, Any] = run(overrides_of("map", given | keys))
    return results


def dataset(name: str, root: PathLike | None = None, **fields: Any) -> Dataset:
    """The dataset that `dataset=NAME` names, with some of its fields changed.

    Args:
        name: an option of conf/dataset, or any name for a folder of your own.
        root: its folder.
        **fields: see `rsssl.data.dataset.Dataset`, and of "scene" `rsssl.geo.scene_dataset.SceneDataset`.
    """
    from rsssl.jobs import dataset_fields

    values = dataset_fields(name) | ({} if root is None else {"root": os.fspath(root)}) | fields
    kind = class_of(values)
    return kind(**{k: v for k, v in values.items() if k != "_target_"})


def dataset_keys(dataset: PathLike) -> dict[str, Any]:
    """The keys for a folder of images, or for the name of a dataset."""
    from rsssl.groups import group_options

    name = os.fspath(dataset)
    if name in group_options("dataset") and not Path(name).is_dir():
        return {"dataset": name}
    return {"dataset": "folder", "dataset.root": name}


def overrides_of(task: str, keys: Mapping[str, Any]) -> list[str]:
    """Python values as overrides of the command line."""
    lines = [f"task={task}"]
    for key, value in keys.items():
        if isinstance(value, Mapping):
            lines += [f"{key}.{name}={quoted(v)}" for name, v in value.items()]
        else:
            lines.append(f"{key}={quoted(value)}")
    return lines


def quoted(value: Any) -> str:
    """A value as Hydra reads it back."""
    from rsssl.errors import hydra_text

    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{quoted(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(quoted(v) for v in value) + "]"
    return hydra_text(os.fspath(value) if isinstance(value, os.PathLike) else str(value))
