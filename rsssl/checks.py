"""Checks of values that several tasks share. Nothing here imports torch: wrong values are told at once."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rsssl.errors import UserError


def check(task: Any) -> None:
    """Lets a task refuse impossible values, before any data is read; one for which all are possible has no `check`."""
    getattr(task, "check", lambda: None)()


def check_there(task: Any, store: str) -> None:
    """Stops where a task is to read what does not exist, before torch is loaded.

    Args:
        task: its `checkpoint`, where it has one, is looked at, and what else its own `check_files` does.
        store: the folder of artefacts, in which a checkpoint may be named.

    Raises:
        UserError: naming the key and what to type.
    """
    checkpoint = getattr(task, "checkpoint", None)
    if checkpoint:
        places = Path(checkpoint).expanduser(), Path(store).expanduser() / "pretrain" / checkpoint
        if not any(place.exists() for place in places):
            raise UserError(
                f"checkpoint={checkpoint} does not exist: type checkpoint=DIR with a run folder, or with the folder "
                "that rsssl-run task=pretrain prints"
            )
    getattr(task, "check_files", lambda: None)()


def positive(**values: Any) -> None:
    """Stops when a value is not a number above zero (None passes). A key of a group is written with two underscores.

    Raises:
        UserError: naming the key and what to type.
    """
    for name, value in values.items():
        key = name.replace("__", ".")
        if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
            raise UserError(f"{key}={value} must be a number above zero: type for example {key}=1")


def text(**values: Any) -> None:
    """Stops when a name, or one of a list, was read as a number with a point, or as true or false.

    Raises:
        UserError: naming the key and what to type.
    """
    for name, value in values.items():
        key = name.replace("__", ".")
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, float | bool):
                raise UserError(f"{key}: a name was read as {one}: put it between quotes, type '{key}=\"NAME\"'")


def check_shared(device: Any, workers: Any, processes: Any, timeout: Any) -> None:
    """Stops when a key that all tasks have holds what it cannot.

    Raises:
        UserError: naming the key and what to type.
    """
    positive(workers=workers, processes=processes, timeout=timeout)
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int)):
        raise UserError(f"workers={workers} is not a whole number: type for example workers=2")
    if not re.fullmatch(r"auto|cpu|(cuda|mps|xpu)(:\d+)?", str(device)):
        raise UserError(f"device={device} is not a device to compute on: type device=auto, device=cpu or device=cuda:0")


def writable(key: str, name: str, folder: bool = False) -> Path:
    """The file or folder of a key; stops where it cannot be made, before the work that it is for is done.

    Args:
        key: that gave the name.
        name: of the file, or of the folder; `~` is the home.
        folder: whether it may be a folder that exists.

    Raises:
        UserError: where a file lies in the place of a folder, or the other way round.
    """
    path = Path(name).expanduser()
    try:
        above = next((p for p in path.parents if p.exists()), path)
        is_folder = path.is_dir()
    except OSError as error:
        raise UserError(f"{key}={path}: {error.strerror}: type {key}= with another name") from error
    if above != path and not above.is_dir():
        raise UserError(f"{key}={path}: {above} is a file and no folder: type {key}= with another name")
    if is_folder and not folder:
        raise UserError(f"{key}={path} is a folder: type {key}= with the name of a file")
    return path


def one_of(key: str, value: Any, known: Sequence[str]) -> None:
    """Stops when a value is none of those known (None passes).

    Raises:
        UserError: naming the key and what to type.
    """
    if value is not None and value not in known:
        raise UserError(f"{key}={value} is unknown: type {key}={f' or {key}='.join(known)}")


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
