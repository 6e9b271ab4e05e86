"""`task=export` from the command line, and the folder's way back into the other tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import rsssl
from rsssl.errors import UserError
from rsssl.networks.load import find_classifier, find_weights

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with images, a pre-training and an evaluation (runs `pre` and `eval`)."""
    root, random = tmp_path_factory.mktemp("export"), np.random.default_rng(0)
    for i in range(24):
        (root / "tiles" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        image = (60 + 90 * (i % 2) + random.integers(0, 80, (32, 32, 3))).astype(np.uint8)
        Image.fromarray(image).save(root / "tiles" / "ab"[i % 2] / f"{i}.png")
    common = [
        "dataset=folder",
        f"dataset.root={root / 'tiles'}",
        "backbone.name=resnet10t",
        "start=random",
        "pretrain.epochs=1",
        "workers=1",
        "pretrain.batch_size=8",
        "pretrain.probes=0",
        "pretrain.pictures=0",
        "tracker=csv",
        "device=cpu",
    ]
    workshop.run(root, "task=pretrain", *common, f"hydra.run.dir={root / 'pre'}")
    linear = ["evaluate=linear", "ts=3", "baselines=false"]
    workshop.run(root, "task=pipeline", *common, *linear, f"hydra.run.dir={root / 'eval'}")
    return root


def export(workshop, root: Path, checkpoint: Path, out: Path, *more: str, exits: int = 0) -> str:
    words = ("task=export", f"checkpoint={checkpoint}", f"out={out}", f"hydra.run.dir={out.parent / 'run'}", *more)
    return workshop.run(root, *words, exits=exits)


@torch.no_grad()
def test_a_run_becomes_a_folder_that_everything_loads(workshop, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "classifier"
    text = export(workshop, made, made / "eval", out)
    assert f"local-dir:{out}" in text and "rsssl.load_classifier" in text
    results = json.loads((made / "eval" / "results.json").read_text())
    card = (out / "README.md").read_text()
    assert results["split_hash"] in card and f"| {100 * results['oa']:.1f} |" in card and "a, b" in card

    images = torch.from_numpy(np.stack([np.asarray(Image.open(p)) for p in sorted((made / "tiles").glob("*/*.png"))]))
    x = images.permute(0, 3, 1, 2)
    expected = find_classifier(str(made / "eval"))(x)
    assert torch.equal(rsssl.load_classifier(made / "eval")(x), expected)
    assert torch.equal(rsssl.load_classifier(out)(x), expected)
    assert find_classifier(str(out)).fingerprint != find_classifier(str(made / "eval")).fingerprint != ""
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    batch = torch.stack([transform(Image.fromarray(i.numpy())) for i in images])
    torch.testing.assert_close(model(batch).softmax(1), expected, atol=1e-4, rtol=1e-3)

    again = tmp_path / "again"  # an exported folder can be exported again, with more in it
    text = export(workshop, made, out, again, "export.program=true", "export.preprocessing=true")
    assert f"{again / 'model.pt2'}, which takes stored pixels" in text
    torch.testing.assert_close(torch.export.load(again / "model.pt2").module()(x), expected, atol=1e-4, rtol=1e-4)
    text = export(workshop, made, out, again, exits=2)
    assert f"out={again} exists and is not empty" in text


@torch.no_grad()
def test_a_pre_training_becomes_a_backbone(workshop, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "backbone"
    assert "rsssl.load_backbone" in export(workshop, made, made / "pre", out)
    (folder,) = (p.parent for p in (made / "store" / "pretrain").glob("*/backbone.safetensors"))
    x = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    expected = rsssl.load_backbone(folder)(x)
    for place in (out, made / "pre", made / "eval", folder / "backbone.safetensors", find_weights(str(out))):
        assert torch.equal(rsssl.load_backbone(place)(x), expected), place
    assert (
        "images" in (out / "README.md").read_text()
        and timm.create_model(f"local-dir:{out}", pretrained=True).num_classes == 0
    )
    # and a folder of a backbone is a checkpoint of evaluations
    text = workshop.run(
        made,
        "task=evaluate",
        f"checkpoint={out}",
        "dataset=folder",
        f"dataset.root={made / 'tiles'}",
        "ts=3",
        "workers=1",
        "baselines=false",
        "device=cpu",
        f"hydra.run.dir={tmp_path / 'evaluated'}",
    )
    assert "OA" in text


def test_what_cannot_be_loaded_is_said(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no pre-trained weights: type checkpoint=DIR"):
        rsssl.load_backbone(tmp_path)
    with pytest.raises(UserError, match="does not exist: type"):
        rsssl.load_classifier(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"holds no classifier .*task=evaluate"):
        rsssl.load_classifier(made / "pre")
    (tmp_path / "classifier.safetensors").write_bytes(b"no")
    for load in (rsssl.load_classifier, rsssl.load_backbone):
        with pytest.raises(UserError, match="cannot be read as safetensors"):
            load(tmp_path)


def test_importing_the_package_is_light() -> None:
    code = (
        "import rsssl, sys; assert not {'torch', 'numpy', 'timm'} & set(sys.modules); rsssl.load_backbone; import torch"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd="/")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        rsssl.nothing  # noqa: B018
