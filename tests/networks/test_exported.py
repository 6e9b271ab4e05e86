"""Exported folders: every way to load one gives what the network gave, and a file that was touched is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import rsssl
from rsssl.errors import UserError
from rsssl.evaluation.heads import Head, LinearHead
from rsssl.evaluation.knn import KNN
from rsssl.jobs import configured
from rsssl.models.backbone import build_backbone
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import Preprocess
from rsssl.networks import exported
from rsssl.networks.exported import write_exported
from rsssl.networks.network import SceneNetwork

CLASSES = ("field", "forest", "water")
NETWORKS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "resnet, 13 bands": ("resnet10t", 13, {"channels": [16, 16, 32, 32], "stem_width": 8}),
    "resnet, 4 bands": ("resnet10t", 4, {"channels": [16, 16, 32, 32], "stem_width": 8, "drop_path_rate": 0.1}),
    "transformer, 3 bands": ("vit_tiny_patch16_224", 3, {"depth": 2, "embed_dim": 48, "patch_size": 8, "img_size": 32}),
    "convnext, 1 band": ("convnext_atto", 1, {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}),
    "convnext, 3 bands": ("convnext_atto", 3, {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}),
    "swin, 4 bands": (
        "swin_tiny_patch4_window7_224",
        4,
        {"img_size": 32, "window_size": 4, "embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2]},
    ),
}


def card(bands: int, dtype: str = "uint16", size: int = 32, **other: Any) -> SensorCard:
    rng = np.random.default_rng(bands)
    names = tuple(f"B{i}" for i in range(bands))
    numbers = {
        "low": (0.0,) * bands,
        "high": tuple(rng.uniform(2000, 4000, bands).round()),
        "nodata": 0,
        "mean": tuple(rng.uniform(0.3, 0.6, bands)),
        "std": tuple(rng.uniform(0.1, 0.3, bands)),
    } | other
    return SensorCard("tiles", names, dtype, classes=CLASSES, size=(size, size), **numbers)


def pixels(of: SensorCard, n: int) -> Tensor:
    x = torch.randint(0, 4500, (n, of.n_bands, *of.size), generator=torch.Generator().manual_seed(n))
    return x.to(getattr(torch, of.dtype))


def lively(model: nn.Module) -> nn.Module:
    """With statistics and affine parameters that are not those of a new network."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5, generator=generator)
            elif value.is_floating_point() and value.ndim == 1:
                value.add_(torch.randn(value.shape, generator=generator) * 0.1)
    return model.eval()


def classifier(
    name: str,
    bands: int,
    kwargs: dict[str, Any] | None = None,
    head: str = "linear",
    of: SensorCard | None = None,
    depths: int = 1,
) -> SceneNetwork:
    backbone = lively(build_backbone(name, bands, kwargs=kwargs, depths=depths))
    of = of or card(bands)
    with torch.no_grad():
        wide = backbone(torch.zeros(2, bands, 32, 32)).shape[1]
    generator = torch.Generator().manual_seed(1)
    made: Head
    bank, labels = torch.randn(60, wide, generator=generator), torch.arange(60) % 3
    if head == "neighbours":
        made = KNN(5, True, 0.07, False).fit(bank[:12], labels[:12], 3, 0).head()
    elif head == "sum":
        made = configured("evaluate", "auto").fit(bank[:12], labels[:12], 3, 0, pool=bank[12:]).head()
    else:
        weight, bias = torch.randn(3, wide, generator=generator), torch.randn(3, generator=generator)
        made = LinearHead(weight, bias)
    pre = Preprocess(of, 32, tuple(0.9 * m for m in of.mean), tuple(1.1 * s for s in of.std))
    return SceneNetwork(backbone, pre, made)


def by_hand(x: Tensor, network: Any) -> Tensor:
    """What the model card says: to 0..1, nodata to the mean, standardised with the numbers timm's config has."""
    of = network.card
    low, high, band_mean = (np.array(v, np.float64)[:, None, None] for v in (of.low, of.high, of.mean))
    raw = x.to(torch.float64).numpy()
    scaled = np.where(raw == of.nodata, band_mean, ((raw - low) / (high - low)).clip(0, 1))
    return torch.from_numpy(scaled)


@pytest.mark.parametrize(("name", "head"), [(n, h) for n in NETWORKS for h in ("linear", None)])
@torch.no_grad()
def test_timm_and_rsssl_load_what_was_exported(name: str, head: str | None, tmp_path: Path) -> None:
    if name.startswith("swin") and head is None and timm.__version__ == "1.0.30":
        pytest.skip("this timm gives other names to the tensors of a Swin without a classifier")
    model, bands, kwargs = NETWORKS[name]
    network: Any = classifier(model, bands, kwargs, head or "linear")
    if head is None:
        network = SceneNetwork(network.backbone, network.preprocess)
    out = tmp_path / "out"
    write_exported(network, out)
    assert sorted(p.name for p in out.iterdir()) == [
        "README.md",
        "SHA256SUMS",
        "config.json",
        "model.safetensors",
        "rsssl.json",
    ]

    loaded = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    file = load_file(out / "model.safetensors")
    state = loaded.state_dict()
    assert state.keys() == file.keys() and all(
        torch.equal(state[k], file[k]) for k in file
    )  # nothing adapted, nothing drawn
    x = pixels(network.card, 3)
    mean, std = (torch.tensor(loaded.pretrained_cfg[k])[:, None, None] for k in ("mean", "std"))
    got = loaded(((by_hand(x, network) - mean) / std).float())
    if head == "linear":
        got = got.softmax(1)
    torch.testing.assert_close(got, network(x), atol=1e-4, rtol=1e-3)
    assert tuple(loaded.pretrained_cfg["input_size"]) == (bands, 32, 32)
    # older timm would draw a first convolution that it knows of, and that is not for three bands, anew
    assert bands == 3 or json.loads((out / "config.json").read_text())["pretrained_cfg"]["first_conv"] is None
    if head:
        assert loaded.pretrained_cfg["label_names"] == list(CLASSES)
        assert torch.equal(rsssl.load_classifier(out)(x), network(x))
        assert torch.equal(rsssl.load_backbone(out)(x), network.backbone(network.input(x)))
    else:
        assert torch.equal(rsssl.load_backbone(out)(x), network(x))
        with pytest.raises(UserError, match="a backbone without a classifier"):
            rsssl.load_classifier(out)


def test_the_transforms_of_timm_are_ours_for_bytes(tmp_path: Path) -> None:
    """RGB bytes: what timm derives from the config is all there is to do."""
    of = card(3, "uint8", low=(0.0,) * 3, high=(255.0,) * 3, nodata=None)
    network = classifier(*NETWORKS["convnext, 3 bands"], of=of)
    write_exported(network, tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = network(torch.from_numpy(image).permute(2, 0, 1)[None])
        torch.testing.assert_close(
            model(transform(Image.fromarray(image))[None]).softmax(1), expected, atol=1e-4, rtol=1e-3
        )


@pytest.mark.parametrize(
    ("name", "kwargs", "depths", "head"),
    [
        ("googlenet", {}, 1, "linear"),
        ("resnet18_small", {"channels": [8, 8, 16, 16]}, 1, "linear"),
        ("resnet10t", NETWORKS["resnet, 4 bands"][2], 2, "linear"),
        ("resnet10t", NETWORKS["resnet, 4 bands"][2], 1, "neighbours"),
    ],
    ids=["googlenet", "small stem", "two depths", "neighbours"],
)
@torch.no_grad()
def test_networks_that_timm_cannot_build_load_with_rsssl(
    name: str, kwargs: dict[str, Any], depths: int, head: str, tmp_path: Path
) -> None:
    network = classifier(name, 4, kwargs, head, depths=depths)
    out = tmp_path / "out"
    about = write_exported(network, out)
    x = pixels(network.card, 2)
    assert torch.equal(rsssl.load_classifier(out)(x), network(x))
    assert about["timm"] == (out / "config.json").is_file() == (head == "neighbours")
    text = (out / "README.md").read_text()
    assert ("timm cannot build this network" in text) == (head != "neighbours")
    if head == "neighbours":  # timm has the features
        model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
        torch.testing.assert_close(model(network.input(x)), network.backbone(network.input(x)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported classifier of four bands."""
    out = tmp_path_factory.mktemp("exported") / "out"
    notes = {
        "dataset": "tiles",
        "ssl": "simclr",
        "evaluate": "linear",
        "ts": 5,
        "seed": 0,
        "protocol": "clean",
        "n_train": 15,
        "n_test": 60,
        "oa": 0.9,
        "aa": 0.85,
        "kappa": 0.8,
        "split_hash": "abc123",
        "config_hash": "def456",
        "pretrain": {"artifact": "0123", "images": 90},
        "versions": {"torch": "2"},
        "baselines": {"random_init": {"oa": 0.5, "aa": 0.4, "kappa": 0.3}},
    }
    network = classifier(*NETWORKS["resnet, 4 bands"])
    network.notes = notes
    write_exported(network, out)
    return out


def test_the_model_card_tells_what_one_has_to_know(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    for part in (
        "pipeline_tag: image-classification",
        "library_name: timm",
        "| B3 | 0 |",
        "stored as uint16",
        "nodata: 0",
        "field, forest, water",
        "| simclr + linear | 90.0 | 85.0 | 0.800 |",
        "| random init | 50.0 |",
        "`abc123`",
        "local-dir:out",
        "(x - from) / (to - from)",
        "images 90",
    ):
        assert part in text, part
    assert "{" not in text and "license: " not in text


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "rsssl.json"])
@pytest.mark.parametrize("harm", ["a bit", "cut", "gone"])
def test_a_file_that_was_touched_is_refused_by_name(folder: Path, name: str, harm: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    content = bytearray((copy / name).read_bytes())
    content[-9] ^= 1
    (copy / name).write_bytes(content if harm == "a bit" else content[: len(content) // 2])
    if harm == "gone":
        (copy / name).unlink()
    for load in (rsssl.load_classifier, rsssl.load_backbone):
        with pytest.raises(UserError, match=rf"{name} (is missing|is not the file that was exported).*task=export"):
            load(copy)


def test_checksums_are_those_of_sha256sum_and_cannot_be_left_out(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "README.md").write_text("license: mine\n")  # the owner's to edit
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=copy, check=True, capture_output=True)
    rsssl.load_classifier(copy)
    lines = (copy / "SHA256SUMS").read_text().splitlines()
    (copy / "SHA256SUMS").write_text("\n".join(line for line in lines if "model" not in line) + "\n")
    with pytest.raises(UserError, match=r"SHA256SUMS has no line for model\.safetensors"):
        rsssl.load_classifier(copy)
    (copy / "SHA256SUMS").write_text("\n".join([*lines, "0" * 64 + "  ../secret"]) + "\n")
    with pytest.raises(UserError, match="lies elsewhere"):
        rsssl.load_classifier(copy)
    (copy / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match="SHA256SUMS is missing"):
        rsssl.load_classifier(copy)


def test_nothing_is_overwritten_and_nothing_half_made_is_left(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = classifier(*NETWORKS["resnet, 4 bands"])
    with pytest.raises(UserError, match=r"out=.* exists and is not empty: type out="):
        write_exported(network, folder)
    (tmp_path / "empty").mkdir()
    write_exported(network, tmp_path / "empty")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exported, "pack_tensors", fail)
    with pytest.raises(UserError, match="no space left"):
        write_exported(network, tmp_path / "full")
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


ONNX_CASES: dict[str, tuple[str, dict[str, Any], bool, str | None]] = {
    "uint16, resized, inside": ("resnet, 4 bands", {"size": 48}, True, "linear"),
    "int16, nodata, inside": (
        "transformer, 3 bands",
        {"dtype": "int16", "nodata": -9, "low": (-50.0,) * 3},
        True,
        None,
    ),
    "standardised": ("convnext, 3 bands", {"dtype": "uint8", "high": (255.0,) * 3}, False, "sum"),
    "neighbours": ("resnet, 4 bands", {}, True, "neighbours"),
}


@pytest.mark.parametrize("case", ONNX_CASES)
@torch.no_grad()
def test_programs_agree_at_any_batch_size(case: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    name, form, inside, head = ONNX_CASES[case]
    model, bands, kwargs = NETWORKS[name]
    network: Any = classifier(model, bands, kwargs, head or "linear", card(bands, **form))
    if head is None:
        network = SceneNetwork(network.backbone, network.preprocess)
    out = tmp_path / "out"
    about = write_exported(network, out, onnx=True, program=inside, preprocessing=inside)
    assert (
        about["programs"] == ["model.onnx", "model.pt2"][: 1 + inside]
        and "any batch size" in (out / "README.md").read_text()
    )
    assert not (out / "model.onnx.data").exists()
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["pixels"]
    assert [o.name for o in session.get_outputs()] == ["probabilities" if head else "features"]
    program = torch.export.load(out / "model.pt2").module() if inside else network.standardised
    for n in (1, 3, 7):
        x = pixels(network.card, n)
        given = x if inside else network.input(x)
        for found in (torch.from_numpy(session.run(None, {"pixels": given.numpy()})[0]), program(given)):
            torch.testing.assert_close(found, network(x), atol=1e-4, rtol=1e-4)
    (out / "model.onnx").unlink()  # a copy may leave it out
    assert torch.equal((rsssl.load_classifier if head else rsssl.load_backbone)(out)(x), network(x))


def test_onnx_without_its_packages_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'rsssl\[export\]'"):
        write_exported(classifier(*NETWORKS["resnet, 4 bands"]), tmp_path / "out", onnx=True)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def change(folder: Path) -> Callable[..., SensorCard]:
    own = SensorCard.from_dict(json.loads((folder / "rsssl.json").read_text())["card"])
    return lambda **fields: dataclasses.replace(own, **fields)


@torch.no_grad()
def test_the_same_sensor_in_any_form_of_its_card(
    folder: Path, change: Callable[..., SensorCard], tmp_path: Path
) -> None:
    x = pixels(change(), 2)
    expected = rsssl.load_classifier(folder)(x)
    same = change(bands=("b0", "b1", "b2", "b3"), name="other")
    (tmp_path / "card.json").write_text(json.dumps({"card": same.to_dict(), "paths": []}))
    for given in (same, same.to_dict(), tmp_path / "card.json", str(folder / "rsssl.json")):
        assert torch.equal(rsssl.load_classifier(folder, card=given)(x), expected)
    other = rsssl.load_classifier(folder, card=change(nodata=7))
    x[:, :, :8] = 0
    y = torch.where(x.int() == 0, 7, x.int())
    torch.testing.assert_close(other(y), rsssl.load_classifier(folder)(x))
    for wrong in ({"bands": ["a"]}, folder / "README.md", {"card": 3}):
        with pytest.raises(UserError, match=r"is no sensor card .*type card="):
            rsssl.load_classifier(folder, card=wrong)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"bands": ("B2", "B1", "B0", "B3")}, "B2, B1, B0, B3 in another order.*adapt='match'"),
        ({"bands": ("B0", "B1", "B2", "SWIR")}, "B0, B1, B2, SWIR.*adapt='mean'"),
        ({"dtype": "float32"}, "take uint16 and the card says float32.*adapt='match'"),
        ({"high": (1.0, 1.0, 1.0, 1.0)}, "B0 goes from 0 to .* and from 0 to 1 on the card.*adapt='match'"),
    ],
)
def test_another_sensor_is_refused(
    fields: dict[str, Any], said: str, folder: Path, change: Callable[..., SensorCard]
) -> None:
    for load in (rsssl.load_classifier, rsssl.load_backbone):
        with pytest.raises(UserError, match=said):
            load(folder, card=change(**fields))
    with pytest.raises(UserError, match="adapt='guess' is unknown: type adapt='match'"):
        rsssl.load_backbone(folder, card=change(**fields), adapt="guess")
    if "SWIR" in fields.get("bands", ()):
        with pytest.raises(UserError, match="cannot be matched by name: type adapt='mean'"):
            rsssl.load_backbone(folder, card=change(**fields), adapt="match")


@torch.no_grad()
def test_matched_bands_give_the_same(folder: Path, change: Callable[..., SensorCard]) -> None:
    """The same image with its bands in another order, in reflectances instead of counts: equal probabilities."""
    own, order = change(), [2, 0, 3, 1]
    x = pixels(own, 3)
    mixed = {k: tuple(getattr(own, k)[i] for i in order) for k in ("bands", "low", "high", "mean", "std")}
    reordered = rsssl.load_classifier(folder, card=change(**mixed), adapt="match")
    assert torch.equal(reordered(x[:, order]), rsssl.load_classifier(folder)(x))
    mixed["high"] = tuple(v / 10000 for v in mixed["high"])
    other = rsssl.load_classifier(folder, card=change(dtype="float32", classes=(), **mixed), adapt="match")
    torch.testing.assert_close(other(x[:, order] / 10000), rsssl.load_classifier(folder)(x), atol=1e-5, rtol=1e-4)
    assert other.classes == CLASSES and other.card.dtype == "float32" and other.card.bands == mixed["bands"]


@pytest.mark.parametrize("bands", [2, 4, 6])
@pytest.mark.parametrize("adapt", ["mean", "tile", "random"])
def test_other_bands_are_carried_over_as_asked(adapt: str, bands: int, folder: Path) -> None:
    new = dataclasses.replace(card(bands), bands=tuple(f"new{i}" for i in range(bands)))
    network = rsssl.load_backbone(folder, card=new, adapt=adapt)
    old = rsssl.load_backbone(folder).backbone
    before, after = (next(p for p in n.parameters() if p.ndim == 4).detach() for n in (old, network.backbone))
    if adapt == "random":
        fresh = build_backbone("resnet10t", bands, kwargs=NETWORKS["resnet, 4 bands"][2])
        expected = next(p for p in fresh.parameters() if p.ndim == 4).detach()
    else:
        expected = (
            torch.stack([before.mean(1) if adapt == "mean" else before[:, i % 4] for i in range(bands)], 1) * 4 / bands
        )
    torch.testing.assert_close(after, expected)
    others = old.state_dict()
    assert all(
        torch.equal(v, others[k]) for k, v in network.backbone.state_dict().items() if v.shape[1:] != after.shape[1:]
    )
    assert network.preprocess.mean == new.mean and not network.training
    with torch.no_grad():
        x = pixels(new, 2)
        torch.testing.assert_close(network(x), network.backbone(network.input(x)))
