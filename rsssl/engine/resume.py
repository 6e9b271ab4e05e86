"""Going on from another training's checkpoint (`pretrain.resume=`): what may differ, and what may not.

A repeated command needs none of this: it finds its own unfinished training. This is for more epochs, or for a lower
learning rate after a divergence. The schedule is planned anew over all steps, those already done included, and the
images come in the order in which they would have come.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from rsssl.engine.checkpoint import Checkpoints, Entry
from rsssl.engine.files import sha256_of
from rsssl.engine.store import Store, inputs_of, is_finished, recorded
from rsssl.errors import UserError

log = logging.getLogger(__name__)
# How fast and how long; everything else says what is trained, and on what. The state of the optimizer stays, so must
# its class.
MAY_DIFFER = (
    "pretrain.epochs",
    "pretrain.steps",
    "pretrain.minutes",
    "pretrain.lr",
    "pretrain.progressive",
    "precision",
    "optimizer",
    "schedule",
    "resumed",
)
MUST_NOT = ("optimizer._target_",)


def resumed(path: str, inputs: dict[str, Any], store: Store) -> tuple[Path, dict[str, Any]]:
    """The checkpoint to begin with, and what is recorded of it.

    Args:
        path: a checkpoint's file, the folder it lies in, that folder's name in the store, or a run folder.
        inputs: of the training that begins with it.

    Raises:
        UserError: when there is none, or it is of a training that differs in more than MAY_DIFFER; with the
            differences.
    """
    if known := begun(path, inputs, store):
        return known
    folder, entry = find(path, store)
    before = inputs_of(folder)
    if before is None:
        raise UserError(
            f"pretrain.resume={path}: {folder} does not say how it was trained: type a folder of <store>/pretrain"
        )
    different = differences(before, inputs)
    wrong = [d for d in different if not allowed(d[0])]
    if wrong:
        lines = "\n".join(f"  {key}: was {was}, now {now}" for key, was, now in wrong)
        raise UserError(
            f"pretrain.resume={path} was trained otherwise:\n{lines}\nIts state is of no use here: type the values it "
            f"had, or "
            "leave pretrain.resume out to train from the start"
        )
    log.info(
        "goes on from %s, after %d steps%s",
        entry.file,
        entry.step,
        "".join(f"; {key}: was {was}, now {now}" for key, was, now in different),
    )
    return entry.file, {"from": folder.name, "sha256": entry.sha256, "step": entry.step}


def begun(path: str, inputs: dict[str, Any], store: Store) -> tuple[Path, dict[str, Any]] | None:
    """What the same command resolved to before, if it was typed before: the folder it names may have newer checkpoints
    now."""
    given = Path(path).expanduser()
    if given.suffix == ".pt":
        return None
    names = {folder.name for folder in (given, recorded(given)) if folder}
    for folder in (store.root / "pretrain").glob("*/"):
        other = inputs_of(folder) or {}
        origin = other.pop("resumed", None)
        if origin and origin["from"] in names and not differences(other, inputs):
            file = store.root / "pretrain" / origin["from"] / f"checkpoint-{origin['step']:09d}.pt"
            return file, origin
    return None


def find(path: str, store: Store) -> tuple[Path, Entry]:
    """The training's folder, and the checkpoint in it that is meant."""
    given = Path(path).expanduser()
    if given.suffix == ".pt":
        for entry in Checkpoints(given.parent).entries():
            if entry.file.name == given.name:
                if sha256_of(given) != entry.sha256:
                    raise UserError(
                        f"pretrain.resume={path} is damaged: type another of {given.parent}/checkpoint-*.pt"
                    )
                return given.parent, entry
    for folder in (given, recorded(given), store.root / "pretrain" / path):
        newest = Checkpoints(folder).newest() if folder and folder.is_dir() else None
        if folder and newest:
            return folder, newest
        if folder and is_finished(folder):
            raise UserError(
                f"pretrain.resume={path}: {folder} is finished, and kept nothing to go on from: type "
                f"rsssl-run task=store remove=pretrain/{folder.name}, its command with pretrain.keep=true, and this one"
            )
    raise UserError(
        f"pretrain.resume={path} holds no checkpoint: type pretrain.resume=DIR with a folder of "
        f"{store.root / 'pretrain'}, or "
        "with the run folder of a pre-training"
    )


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(dotted key, was, is) of all that differs."""
    a, b = flat(before), flat(now)
    return [
        (k, a.get(k, "not there"), b.get(k, "not there")) for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)
    ]


def flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in node.items():
        inner = value if isinstance(value, dict) and value else None
        leaves |= flat(inner, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return json.loads(json.dumps(leaves))  # as it stands in a record: tuples are lists


def allowed(key: str) -> bool:
    return key not in MUST_NOT and any(key == k or key.startswith(f"{k}.") for k in MAY_DIFFER)
