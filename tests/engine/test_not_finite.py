"""A loss or a gradient that is not finite stops the training within its step, and the step can be taken again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rsssl.engine.checkpoint import Checkpoints, read

BREAK = """
keys = {{"log_every": 7, "checkpoint_minutes": 60, "advice": "type something", "late": {late}}}
run, method = fit({name!r}, {pack!r}, "run", 20, **keys)
original = run.model.forward
def forward(batch):
    out = original(batch)
    if batch.ids.sum() == TARGET and {where}:
        {damage}
    return out
from rsssl.engine.ranks import rank
TARGET = int(run.batches.ids(3)[1].sum())
run.model.forward = forward
states, after = [], run.model.after_step
def after_step(step, total):
    after(step, total)
    states.append({{k: v.clone() for k, v in method.state_dict().items()}})
run.model.after_step = after_step
try:
    run.run()
finally:
    if rank() == 0:
        torch.save(states[2], "before.pt")
"""
DAMAGE = {
    "a loss": 'out["loss"] = out["loss"] * float("nan")',
    "a gradient": 'out["loss"] = out["loss"] + (next(method.backbone.parameters()).sum() * 0).sqrt()',  # 0 * infinity
}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("damage", "name"), [("a loss", "moco_v2"), ("a gradient", "dino")])
def test_stops_within_the_step_with_the_state_before_it(
    damage: str, name: str, late: bool, workshop, pack_of_tiles: Path, tmp_path: Path
) -> None:
    code = BREAK.format(name=name, pack=str(pack_of_tiles), where="True", damage=DAMAGE[damage], late=late)
    text = workshop.run(tmp_path, warm=[name, str(pack_of_tiles)], code=code, exits=1)
    assert "at step 3 of 20: type something" in text, text[-2000:]
    record = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    assert record["step"] == 3 and len(record["ids"][0]) == 8 and len(record["keys"]) == 1
    if damage == "a gradient" and not late:  # else the next step's have taken their place
        assert record["gradients"], "the parameters are not named"
    newest = Checkpoints(tmp_path / "run").newest()
    assert newest is not None and newest.step == 3
    whole = read(newest.file)
    state, before = whole["model"], torch.load(tmp_path / "before.pt", weights_only=True)
    moments = [t for of_one in whole["optimizer"]["state"].values() for t in of_one.values()]
    assert moments and all(bool(torch.isfinite(t).all()) for t in moments)
    assert all(bool(torch.isfinite(t).all()) for t in whole["average"].values())
    assert state.keys() == before.keys()
    assert all(torch.equal(state[k], before[k]) for k in before), (
        "the bad step has changed weights, queues or statistics"
    )


@pytest.mark.parametrize("late", [False, True])
def test_one_rank_alone_stops_all_and_all_images_of_the_step_are_kept(
    late: bool, workshop, pack_of_tiles: Path, tmp_path: Path
) -> None:
    code = BREAK.format(name="simclr", pack=str(pack_of_tiles), where="rank() == 1", damage=DAMAGE["a loss"], late=late)
    workshop.run(tmp_path, warm=["simclr", str(pack_of_tiles)], code=code, ranks=2, exits=1)
    record = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    assert record["step"] == 3 and len(set(record["ids"][0])) == 8 and record["ranks"] == 2


def test_replay_names_the_images_and_the_layer(workshop, tiles: Path, tmp_path: Path) -> None:
    """A network whose third layer overflows on one step's images, by a method of the user's own."""
    (tmp_path / "my" / "ssl").mkdir(parents=True)
    (tmp_path / "my" / "ssl" / "fragile.yaml").write_text("_target_: fragile.Fragile\nviews: 2\n")
    (tmp_path / "my" / "fragile.py").write_text(
        "import torch\n"
        "from rsssl.methods.simclr import SimCLR\n"
        "class Weak(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return torch.where(x.amax() > 2.4, x / 0, x)\n"
        "class Fragile(SimCLR):\n"
        "    def __init__(self, backbone, views=2):\n"
        "        super().__init__(backbone, views, 0.2, 512, 128, 2, False)\n"
        "        self.projector.insert(1, Weak())\n"
    )
    command = [
        "--config-dir",
        "my",
        "ssl=fragile",
        "dataset=folder",
        f"dataset.root={tiles}",
        "backbone.name=resnet10t",
        "start=random",
        "+backbone.kwargs.channels=[8,16,32,64]",
        "pretrain.batch_size=16",
        "pretrain.image_size=16",
        "pretrain.probes=0",
        "pretrain.pictures=0",
        "pretrain.lr=0.02",
        "tracker=csv",
        "hydra.run.dir=run",
    ]
    text = workshop.run(tmp_path, *command, "task=pretrain", exits=2)
    assert "task=replay" in text and "pretrain.resume=" in text
    text = workshop.run(tmp_path, *command, "task=replay")
    replayed = json.loads((tmp_path / "run" / "replay.json").read_text())
    assert replayed["reproduced"] and replayed["first_layer"] == "projector.1 (Weak)" and "projector.1 (Weak)" in text
    assert len(replayed["paths"]) == 16 and all(Path(p).is_file() for p in replayed["paths"])
    workshop.run(tmp_path / "other", *command[2:], "ssl=simclr", "task=replay", exits=2)
