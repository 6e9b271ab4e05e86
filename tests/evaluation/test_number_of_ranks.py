"""Packs, features, probes and kNN are the same on any number of ranks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rsssl.data.pack import Pack

EVALUATE = [
    "dataset=folder",
    "backbone.name=resnet10t",
    "start=random",
    "ssl=none",
    "ts=5",
    "hydra.run.dir=run",
    "tracker=csv",
]
SAME = ("oa", "aa", "kappa", "per_class", "confusion", "n_test", "n_train", "split_hash", "config_hash", "baselines")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 300 small noisy tiles: three chunks of features, some scores nearly tied."""
    from PIL import Image

    root, rng = tmp_path_factory.mktemp("many"), np.random.default_rng(1)
    for name, shade in (("dark", 110), ("light", 120)):
        (root / name).mkdir()
        for i in range(300):
            Image.fromarray(rng.normal(shade, 40, (16, 16, 3)).clip(0, 255).astype(np.uint8)).save(
                root / name / f"{i:03d}.png"
            )
    return root


@pytest.mark.parametrize("evaluate", ["linear", "knn", "ridge", "auto"])
def test_results_do_not_depend_on_the_number_of_ranks(evaluate: str, workshop, many: Path, tmp_path: Path) -> None:
    found, features = [], []
    for ranks in (1, 2, 4) if evaluate == "knn" else (1, 2):
        folder = tmp_path / str(ranks)
        job = {"ranks": ranks} if ranks > 1 else {}
        workshop.run(folder, *EVALUATE, f"dataset.root={many}", f"evaluate={evaluate}", **job)
        results = json.loads((folder / "run" / "results.json").read_text())
        trust = [each.pop("calibration") for each in (results, *results["baselines"].values())]
        found.append(results | {"trust": [[t[k] for k in ("ece", "brier", "nll")] for t in trust]})
        features.append({f.parent.name: f.read_bytes() for f in folder.glob("store/features/*/*.bin")})
        assert len(list(folder.rglob("results.json"))) == 1
    for other, bank in zip(found[1:], features[1:], strict=True):
        assert all(other[k] == found[0][k] for k in SAME)
        np.testing.assert_allclose(other["trust"], found[0]["trust"], rtol=1e-4)
        assert bank == features[0], "features are not bit-equal"


def test_a_pack_made_by_ranks_is_the_one_that_one_process_makes(workshop, many: Path, tmp_path: Path) -> None:
    command = ["task=pack", "dataset=folder", f"dataset.root={many}", "hydra.run.dir=run"]
    for ranks in (1, 2, 3):
        job = {"ranks": ranks} if ranks > 1 else {}
        workshop.run(tmp_path / str(ranks), *command, env={"RSSSL_STORE": str(tmp_path / str(ranks) / "store")}, **job)
    packs = [Pack.open(next((tmp_path / str(r)).glob("store/pack/[!.]*"))) for r in (1, 2, 3)]
    assert packs[0].fingerprint == packs[1].fingerprint == packs[2].fingerprint
    assert all(np.array_equal(packs[0].images, p.images) and np.array_equal(packs[0].moments, p.moments) for p in packs)
    for pack in packs:
        pack.verify()


@pytest.mark.parametrize("evaluate", ["scratch", "selftrain"])
def test_training_a_network_under_torchrun_is_that_of_one_process(
    evaluate: str, workshop, many: Path, tmp_path: Path
) -> None:
    found = []
    for ranks in (1, 2):
        job = {"ranks": ranks} if ranks > 1 else {}
        workshop.run(
            tmp_path / str(ranks),
            *EVALUATE,
            f"dataset.root={many}",
            f"evaluate={evaluate}",
            "finetune.steps=3",
            "baselines=false",
            **job,
        )
        found.append(json.loads((tmp_path / str(ranks) / "run" / "results.json").read_text()))
    assert found[0]["confusion"] == found[1]["confusion"]
