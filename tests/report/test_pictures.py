"""The pictures of a pre-training: the right bands, stretched by the image itself, a row for each image."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from rsssl.batch import Batch
from rsssl.engine.trackers import TensorBoard
from rsssl.engine.tracking import Tracker
from rsssl.methods.base import Method
from rsssl.models.backbone import build_backbone
from rsssl.models.card import SensorCard
from rsssl.models.preprocess import Preprocess
from rsssl.report.pictures import GAP, HEAD, SIDE, Pictures

BANDS = ("B02", "B03", "B04", "B08")
CARD = SensorCard("t", BANDS, "uint8", (0.0,) * 4, (1.0,) * 4, None, (0.5,) * 4, (1.0,) * 4, (), (16, 16))


def pictures(method: Method, batch: Batch, folder: Path) -> Pictures:
    source = SimpleNamespace(device=torch.device("cpu"), sample=lambda n: batch)
    preprocess = Preprocess(CARD, 16, (0.1, 0.2, 0.3, 0.4), (0.5,) * 4)
    return Pictures(method, source, preprocess, folder, Tracker())  # type: ignore[arg-type]


def test_a_page_holds_each_column_stretched_by_its_row(tmp_path: Path) -> None:
    batch = Batch(torch.arange(3), 0, torch.randn(1, 3, 4, 16, 16))
    shown = pictures(Method(build_backbone("resnet10t", 4), views=1), batch, tmp_path)
    image, other = torch.randn(3, 4, 16, 16), torch.randn(3, 4, 16, 16)
    page = np.asarray(shown.page({"other": other, "image": image}))
    assert page.shape == (HEAD + 3 * (SIDE + GAP), 2 * (SIDE + GAP), 3) and page.dtype == np.uint8
    unit = image.numpy()[:, [2, 1, 0]] * 0.5 + np.array([0.3, 0.2, 0.1])[:, None, None]
    for row in range(3):
        low, high = np.percentile(unit[row], [2, 98])
        expected = np.clip((unit[row] - low) / (high - low), 0, 1) * 255
        top = HEAD + row * (SIDE + GAP)
        tile = page[top : top + SIDE : SIDE // 16, SIDE + GAP : 2 * SIDE + GAP : SIDE // 16]
        assert np.abs(tile - np.moveaxis(expected, 0, 2)).max() <= 1


def test_they_are_written_for_any_number_of_bands_and_leave_the_weights_alone(method_of, tmp_path: Path) -> None:
    torch.manual_seed(0)
    batch = Batch(torch.arange(8), 0, torch.randn(1, 8, 4, 64, 64))
    for method in (method_of(name, build_backbone("resnet10t", 4)) for name in ("colorization", "marta_gan")):
        before = {k: v.clone() for k, v in method.state_dict().items()}
        shown = pictures(method, batch, tmp_path)
        shown(7)
        shown(8)
        first, second = (np.asarray(Image.open(tmp_path / "pictures" / f"step-000000{n}.png")) for n in (7, 8))
        assert np.array_equal(first, second), "the same images each time"
        assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())
        (tmp_path / "pictures" / "step-0000007.png").unlink()


def test_tensorboard_shows_them_too(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = TensorBoard().open(tmp_path)
    source = SimpleNamespace(
        device=torch.device("cpu"), sample=lambda n: Batch(torch.arange(2), 0, torch.randn(2, 2, 4, 8, 8))
    )
    method = Method(build_backbone("resnet10t", 4), views=2)
    Pictures(method, source, Preprocess(CARD, 16, (0,) * 4, (1,) * 4), tmp_path, tracker)(3)  # type: ignore[arg-type]
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (image,) = events.Images("pictures")
    assert image.step == 3 and image.width == 2 * (SIDE + GAP)
