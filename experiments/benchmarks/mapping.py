"""Maps of a scene beside torchgeo's sampler and loader: the data path alone, end to end, the short cut; and memory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness import Bench, Figure, attempts, peak_mib, seconds

SCENE = "sentinel2_coast_8band_uint8.tif"  # 2,629 x 2,201 pixels, 8 bands, tiled, deflate
WINDOW, STRIDE, BATCH = 64, 32, 64


def figures(bench: Bench) -> Iterator[Figure]:
    import torch

    torch.set_num_threads(bench.threads)
    scene = bench.data / "scenes" / SCENE
    if bench.quick:
        scene = cut(scene, bench.scratch / "cut.tif", 300)
    checkpoint = classifier(bench.scratch)
    large = classifier(bench.scratch, "resnet50")
    yield from attempts(
        bench,
        lambda b: forward_alone(b, scene, checkpoint, "ResNet-18"),
        lambda b: forward_alone(b, scene, large, "ResNet-50"),
        lambda b: data_path(b, scene, checkpoint),
        lambda b: end_to_end(b, scene, checkpoint),
        lambda b: memory(b, checkpoint),
    )


def classifier(folder: Path, name: str = "resnet18") -> Path:
    """A run folder with a network of 8 bands, 64 pixels and ten classes, of random weights, enough to measure speed."""
    import torch

    from rsssl.evaluation.heads import LinearHead
    from rsssl.models.backbone import build_backbone
    from rsssl.models.card import SensorCard
    from rsssl.models.preprocess import Preprocess
    from rsssl.networks.files import CLASSIFIER, write_classifier

    card = SensorCard(
        "tiles",
        tuple(f"B{i:02d}" for i in range(1, 9)),
        "uint8",
        (0.0,) * 8,
        (255.0,) * 8,
        None,
        (0.4,) * 8,
        (0.25,) * 8,
        tuple(f"class {i}" for i in range(10)),
        (WINDOW, WINDOW),
    )
    backbone = build_backbone(name, 8)
    width: Any = backbone.num_features
    head = LinearHead(torch.randn(10, width), torch.zeros(10))
    place = folder / name
    place.mkdir(exist_ok=True)
    preprocess = Preprocess(card, WINDOW, card.mean, card.std)
    write_classifier(place / CLASSIFIER, head, preprocess, {}, backbone)
    return place


def cut(scene: Path, file: Path, side: int) -> Path:
    from rsssl.data.raster import import_gdal

    import_gdal(scene).Translate(str(file), str(scene), srcWin=[0, 0, side, side])
    return file


def opened(scene: Path, checkpoint: Path, fast: bool = False) -> tuple[Any, Any, Any]:
    """Scene, layout and mapper, as task=map has them."""
    import torch

    from rsssl.geo.scene import Scene
    from rsssl.geo.windows import Layout
    from rsssl.networks.load import find_classifier
    from rsssl.networks.mapper import Mapper

    model = find_classifier(checkpoint)
    found = Scene(scene, model.card, values="moments", nodata=None)
    return found, Layout(*found.size, WINDOW, STRIDE), Mapper(model, torch.device("cpu"), WINDOW, STRIDE, BATCH, fast)


def mapped(bench: Bench, scene: Path, checkpoint: Path, fast: bool = False) -> Callable[[], float]:
    """Windows a second of the whole of task=map: reading, classifying, parts, blending, areas, all files."""
    import torch

    from rsssl.networks.load import find_classifier
    from rsssl.networks.mapping import MapOptions, SceneMap

    options = MapOptions(None, "none", "moments", WINDOW, STRIDE, fast, (), BATCH, tta=False)  # its frame is mapped too
    classifier = find_classifier(checkpoint)

    def rate() -> float:
        with tempfile.TemporaryDirectory(dir=bench.scratch) as folder:
            scene_map = SceneMap(str(scene), Path(folder, "map.tif"), classifier, torch.device("cpu"), options)
            windows = scene_map.layout.shape[0] * scene_map.layout.shape[1]
            return windows / seconds(lambda: scene_map.make({}))  # opening the scene is start-up

    return rate


def forward_alone(bench: Bench, scene: Path, checkpoint: Path, name: str) -> Iterator[Figure]:
    """The map against the model's forward alone on resident windows."""
    import torch

    _, layout, mapper = opened(scene, checkpoint)
    n = layout.shape[0] * layout.shape[1]
    batch = torch.randn(BATCH, 8, WINDOW, WINDOW).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def alone() -> None:
        for _ in range(n // BATCH):
            mapper.classifier.standardised(batch)

    ours = mapped(bench, scene, checkpoint)
    ours()
    pairs = turns(ours, lambda: (n // BATCH) * BATCH / seconds(alone), bench.repeats)
    yield Figure(
        f"task=map, {name}, windows of {WINDOW} px every {STRIDE}, {n} windows",
        "forward alone on resident windows",
        "windows/s",
        *pairs,
        0.95,
        True,
        note="the whole command after start-up: reading, blending, areas, GeoTIFF, preview",
    )


def turns(
    ours: Callable[[], float], theirs: Callable[[], float], repeats: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """In turn, each first every other time."""
    pairs = [(ours(), theirs()) if i % 2 == 0 else (theirs(), ours())[::-1] for i in range(repeats)]
    return tuple(a for a, _ in pairs), tuple(b for _, b in pairs)


def torchgeo_loader(scene: Path, workers: int) -> Callable[[], Any]:
    """torchgeo over the same scene: RasterDataset, GridGeoSampler, DataLoader, values scaled by the same formula."""
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import GridGeoSampler

    folder = Path(tempfile.mkdtemp(prefix="rsssl-torchgeo-"))
    shutil.copy(scene, folder / "scene.tif")

    def scaled(sample: dict[str, Any]) -> dict[str, Any]:
        sample["image"] = (sample["image"] / 255 - 0.4) / 0.25
        return sample

    class Scenes(RasterDataset):
        filename_glob = "*.tif"
        is_image = True

    dataset = Scenes(str(folder), transforms=scaled)

    def start() -> Any:
        sampler = GridGeoSampler(dataset, size=WINDOW, stride=STRIDE)
        return DataLoader(dataset, batch_size=BATCH, sampler=sampler, num_workers=workers, collate_fn=stack_samples)

    return start


def best_workers(scene: Path, threads: int) -> tuple[int, Callable[[], Any]]:
    """torchgeo with the number of workers that suits it best here."""
    made = {n: torchgeo_loader(scene, n) for n in (0, threads)}
    times = {n: seconds(lambda make=make: [len(batch["image"]) for batch in make()]) for n, make in made.items()}
    best = min(times, key=times.__getitem__)
    return best, made[best]


def data_path(bench: Bench, scene: Path, checkpoint: Path) -> Iterator[Figure]:
    """Windows read, scaled and batched, without a model."""
    import numpy as np
    import torch

    from rsssl.networks.mapper import read_ahead

    found, layout, mapper = opened(scene, checkpoint)
    n = layout.shape[0] * layout.shape[1]
    numbers = list(range(layout.blocks[0] * layout.blocks[1]))

    class Sink(torch.nn.Module):
        """In the model's place: it takes the batch and gives anything."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :10]

    mapper.classifier.backbone, mapper.classifier.head = Sink(), None

    def ours() -> float:
        return n / seconds(lambda: [mapper.block(b, region) for _, b, region in read_ahead(found, layout, numbers)])

    workers, make = best_workers(scene, bench.threads)

    def theirs() -> float:
        taken = 0

        def all_of_it() -> None:
            nonlocal taken
            for batch in make():
                taken += len(batch["image"])

        took = seconds(all_of_it)
        return taken / took

    ours()
    pixels = np.prod(found.size)
    yield Figure(
        f"windows of a scene read, scaled, batched: 8 bands, {pixels / 1e6:.1f} Mpx, {n} windows of {WINDOW} px",
        f"torchgeo's GridGeoSampler and DataLoader, {workers} workers (the better of 0 and {bench.threads})",
        "windows/s",
        *turns(ours, theirs, bench.repeats),
        5.0,
        True,
    )


def end_to_end(bench: Bench, scene: Path, checkpoint: Path) -> Iterator[Figure]:
    """A map with the same model, by ours and by torchgeo's loader with a loop over its batches."""
    import numpy as np
    import rasterio
    import torch

    from rsssl.engine.device import on_device
    from rsssl.networks.load import find_classifier

    found, layout, _ = opened(scene, checkpoint)
    workers, make = best_workers(scene, bench.threads)
    model = on_device(find_classifier(checkpoint), torch.device("cpu"))  # as anybody has it: nothing is folded
    with rasterio.open(scene) as source:
        profile, transform = source.profile, source.transform
    rows, cols = found.size

    @torch.inference_mode()
    def work() -> None:
        sums = np.zeros((10, rows, cols), np.float32)
        total = np.zeros((rows, cols), np.float32)
        for batch in make():
            shares = model.standardised(batch["image"].to(memory_format=torch.channels_last)).numpy()
            for share, bounds in zip(shares, batch["bounds"], strict=True):
                x0, y1 = (
                    (float(bounds[0].start), float(bounds[1].stop))
                    if isinstance(bounds[0], slice)
                    else (float(bounds[0]), float(bounds[4]))
                )
                col, row = (round(v) for v in ~transform * (x0, y1))
                part = slice(max(row, 0), row + WINDOW), slice(max(col, 0), col + WINDOW)
                sums[(slice(None), *part)] += share[:, None, None]
                total[part] += 1
        made = (sums / np.maximum(total, 1)).argmax(0).astype(np.uint8)
        keep = {
            "width": cols,
            "height": rows,
            "count": 1,
            "dtype": "uint8",
            "crs": profile["crs"],
            "transform": transform,
        }
        with rasterio.open(bench.scratch / "theirs.tif", "w", driver="COG", compress="deflate", **keep) as target:
            target.write(made, 1)

    n = layout.shape[0] * layout.shape[1]
    theirs_n = sum(len(batch["image"]) for batch in make())
    peer = f"torchgeo's sampler and loader ({workers} workers), the same model, mean of windows, rasterio's COG"
    for fast, target in ((False, 1.0), (True, 3.0)):
        ours = mapped(bench, scene, checkpoint, fast)
        ours()
        name = "fully convolutional" if fast else "tile by tile"
        pairs = turns(ours, lambda: theirs_n / seconds(work), bench.repeats)
        yield Figure(
            f"a map of the scene, 50 % overlap, {name}",
            peer,
            "windows/s",
            *pairs,
            target,
            True,
            note=f"{n} windows of ours, {theirs_n} of theirs",
        )


def memory(bench: Bench, checkpoint: Path) -> Iterator[Figure]:
    """Peak memory of a map of a very large mosaic."""
    side = 3_000 if bench.quick else 100_000
    from harness import in_child

    found = in_child("mapping", "map_mosaic", side=side, scratch=str(bench.scratch), checkpoint=str(checkpoint))
    if "error" in found:
        raise RuntimeError(found["error"])
    yield Figure(
        f"peak memory of task=map on a VRT of {side:,} x {side:,} pixels",
        "",
        "MiB",
        (found["peak_mib"],),
        (),
        0.0,
        False,
        note=f"asked: under 2,048 MiB. {found['tiles']} tiles of 1,000 x 1,000 pixels lie in it, the rest is "
        f"nodata, and is looked at and written too; {found['minutes']:.1f} minutes, {found['written']}",
    )


def map_mosaic(side: int, scratch: str, checkpoint: str) -> dict[str, Any]:
    """Maps a VRT that repeats one tile of 8 bands along a strip of its lines (called in a process of its own)."""
    import numpy as np
    import torch

    from rsssl.data.raster import write_geotiff
    from rsssl.networks.load import find_classifier
    from rsssl.networks.mapping import MapOptions, SceneMap

    torch.set_num_threads(2)
    folder = Path(scratch)
    tile = np.random.default_rng(0).normal(102, 60, (8, 1000, 1000)).clip(1, 254).astype(np.uint8)
    names = tuple(f"B{i:02d}" for i in range(1, 9))
    write_geotiff(
        folder / "tile.tif", tile, (500_000.0, 10.0, 0.0, 5_400_000.0, 0.0, -10.0), "EPSG:32632", 0, names, None
    )
    starts = range(0, side, 1000 if side < 10_000 else 10_000)
    bands = []
    for b, name in enumerate(names, 1):
        sources = "".join(
            f'<SimpleSource><SourceFilename relativeToVRT="1">tile.tif</SourceFilename><SourceBand>{b}</SourceBand>'
            f'<SourceProperties RasterXSize="1000" RasterYSize="1000" DataType="Byte" '
            f'BlockXSize="1000" BlockYSize="262"/>'
            f'<SrcRect xOff="0" yOff="0" xSize="1000" ySize="1000"/>'
            f'<DstRect xOff="{x}" yOff="{side // 2}" xSize="1000" ySize="1000"/></SimpleSource>'
            for x in starts
        )
        bands.append(
            f'<VRTRasterBand dataType="Byte" band="{b}"><Description>{name}</Description><NoDataValue>0</NoDataValue>'
            f"{sources}</VRTRasterBand>"
        )
    (folder / "mosaic.vrt").write_text(
        f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><SRS>EPSG:32632</SRS>'
        f"<GeoTransform>500000, 10, 0, 5400000, 0, -10</GeoTransform>{''.join(bands)}</VRTDataset>"
    )
    out = folder / "mosaic.tif"
    options = MapOptions(None, None, "moments", WINDOW, STRIDE, False, (), BATCH, tta=False)
    classifier, device = find_classifier(checkpoint), torch.device("cpu")
    scene_map = SceneMap(str(folder / "mosaic.vrt"), out, classifier, device, options)
    took = seconds(lambda: scene_map.make({}))
    return {
        "peak_mib": peak_mib(),
        "minutes": took / 60,
        "tiles": len(starts),
        "written": f"a map of {out.stat().st_size / 1e6:.0f} MB",
    }
