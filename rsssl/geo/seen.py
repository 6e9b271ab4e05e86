"""Whether a reference is what a map's classifier was trained from: its figures would say how well it remembers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from rsssl.engine.files import sha256_of
from rsssl.engine.outputs import read_record
from rsssl.geo.vectors import LAYER
from rsssl.records import Damaged


def learnt_from(class_map: str, reference: str) -> bool:
    """Whether the reference is one of the files of labels that a map's record names, or has the content of one.

    Args:
        class_map: the map; one without a record of ours may be of anything.
        reference: the file; a layer of several as FILE|layername=LAYER.
    """
    target, file = Path(class_map).expanduser(), plain(reference)
    try:
        config = read_record(target)["config"]
    except (Damaged, KeyError, OSError):
        return False
    for label in labels_of(config):
        for known in (label, target.parent / label):  # as typed there, and beside the map, where both were moved
            with suppress(OSError):
                if known.samefile(file):
                    return True
                same_size = known.stat().st_size == file.stat().st_size
                if same_size and known.is_file() and file.is_file() and sha256_of(known) == sha256_of(file):
                    return True
    return False


def labels_of(config: Any) -> Iterator[Path]:
    """The files of labels in a map's configuration, or in that of the run folder that its classifier came from."""
    from omegaconf import OmegaConf

    given = (config.get("dataset") or {}).get("labels")
    checkpoint = config.get("checkpoint")
    if not given and checkpoint and (file := Path(checkpoint).expanduser() / "config.yaml").is_file():
        given = OmegaConf.select(OmegaConf.load(file), "dataset.labels")
    for name in [given] if isinstance(given, str) else given or []:
        yield plain(str(name))


def plain(name: str) -> Path:
    """The file of what was typed, without the name of a layer."""
    return Path(name.partition(LAYER)[0]).expanduser()
