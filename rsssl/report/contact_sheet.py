"""A contact sheet: many tiles on a few pages, each with its number and its name, for people to look at."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from rsssl.data.pack import Pack
from rsssl.engine.files import write_atomic
from rsssl.models.card import SensorCard
from rsssl.report.pictures import shown_bands

PAGE = 100  # tiles
COLUMNS = 10
SIDE = 128  # pixels of a thumbnail's longer side
GAP, EDGE = 14, 28
LINE = 17  # pixels of a line of text
HEAD = 58
SHEET = "Contact sheet"  # key in a page's file
PAPER, INK, GREY, RIM = "#ffffff", "#1c2126", "#6b737c", "#d5dadf"


def contact_sheet(pack: Pack, rows: np.ndarray, notes: Sequence[Sequence[str]], title: str, file: Path) -> list[Path]:
    """Writes the tiles `rows` (n,) of a pack in their order, numbered from 1, 100 a page: `file`, then `<stem>-2.png` and on.

    notes: for each tile the lines of text below its number. Returns the files. Plain bytes are shown as they are, other
    numbers are stretched alike in all tiles, so that tiles can be compared. Further pages that an earlier call left are removed.
    """
    bands = shown_bands(pack.card.bands)
    low, high = stretch(pack, rows, bands)
    pages = range(0, len(rows), PAGE)
    files = [page_file(file, i + 1) for i in range(len(pages))]
    for start, place in zip(tqdm(pages, desc="pages", unit="page", leave=False, disable=None), files, strict=True):
        part = rows[start : start + PAGE]
        tiles = [thumbnail(x, low, high) for x in visible(pack.read(part), pack.card, bands)]
        where = f"{start + 1} to {start + len(part)} of {len(rows)}"
        content = io.BytesIO()
        sheet = page(tiles, notes[start : start + PAGE], start + 1, title, where)
        sheet.save(content, format="PNG", optimize=True, pnginfo=page_of(file))
        write_atomic(place, content.getvalue())
    number = len(files) + 1
    while is_page_of(stale := page_file(file, number), file):
        stale.unlink()
        number += 1
    return files


def page_file(file: Path, number: int) -> Path:
    return file if number == 1 else file.with_name(f"{file.stem}-{number}{file.suffix}")


def page_of(file: Path) -> PngInfo:
    """What a page says of itself: another sheet may be called as a page would be."""
    info = PngInfo()
    info.add_itxt(SHEET, file.name.encode("utf-8", "replace").decode())
    return info


def is_page_of(place: Path, file: Path) -> bool:
    try:
        with Image.open(place) as image:
            return image.info.get(SHEET) == file.name.encode("utf-8", "replace").decode()
    except OSError:
        return False


def page(
    tiles: Sequence[Image.Image], notes: Sequence[Sequence[str]], first: int, title: str, where: str
) -> Image.Image:
    """One page of thumbnails with their notes, under a title; `first` is the number of the first tile."""
    bold, plain, large = font(13, bold=True), font(12), font(19, bold=True)
    columns = min(COLUMNS, max(4, len(tiles)))  # a few tiles leave room for the title
    lines = max((len(n) for n in notes), default=1)
    cell = SIDE + GAP, SIDE + LINE * (lines + 1) + GAP
    down = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (2 * EDGE - GAP + columns * cell[0], HEAD + EDGE + down * cell[1]), PAPER)
    draw = ImageDraw.Draw(sheet)
    room = sheet.width - 2 * EDGE
    aside = plain.getlength(where)
    draw.text((EDGE, 20), fitted(title, large, room - aside - GAP), fill=INK, font=large)
    draw.text((sheet.width - EDGE - aside, 26), where, fill=GREY, font=plain)
    for i, (tile, note) in enumerate(zip(tiles, notes, strict=True)):
        x, y = EDGE + i % columns * cell[0], HEAD + i // columns * cell[1]
        at = x + (SIDE - tile.width) // 2, y + (SIDE - tile.height) // 2
        sheet.paste(tile, at)
        draw.rectangle((at[0] - 1, at[1] - 1, at[0] + tile.width, at[1] + tile.height), outline=RIM)
        draw.text((x, y + SIDE + 4), str(first + i), fill=INK, font=bold)
        for number, text in enumerate(note, 1):
            draw.text((x, y + SIDE + 4 + number * LINE), fitted(text, plain, SIDE), fill=GREY, font=plain)
    return sheet


def visible(images: np.ndarray, card: SensorCard, bands: Sequence[int]) -> np.ndarray:
    """Stored (n, C, H, W) -> three bands (n, H, W, 3) float32 in 0..1 units; nodata and NaN are 0."""
    chosen = list(bands)
    x = images[:, chosen].astype(np.float32)
    low, high = (np.asarray(v, np.float32)[chosen, None, None] for v in (card.low, card.high))
    absent = np.isnan(x) | (x == card.nodata if card.nodata is not None else False)
    return np.moveaxis(np.where(absent, 0, np.clip((x - low) / (high - low), 0, 1)), 1, 3)


def stretch(pack: Pack, rows: np.ndarray, bands: Sequence[int]) -> tuple[float, float]:
    """What becomes black and white, in 0..1 units: plain bytes 0 and 1, else the 2nd and 98th percentile of these tiles, of all
    bands together, which keeps their hues."""
    if pack.card.dtype == "uint8":
        return 0.0, 1.0
    sample = rows[:: -(-len(rows) // PAGE)]
    low, high = np.percentile(visible(pack.read(sample)[:, :, ::4, ::4], pack.card, bands), [2, 98])
    return float(low), max(float(high), float(low) + 1e-3)


def thumbnail(tile: np.ndarray, low: float, high: float) -> Image.Image:
    """(H, W, 3) in 0..1 units -> a picture of SIDE pixels on its longer side."""
    picture = Image.fromarray((255 * np.clip((tile - low) / (high - low), 0, 1)).round().astype(np.uint8))
    scale = SIDE / max(picture.size)
    size = max(1, round(scale * picture.width)), max(1, round(scale * picture.height))
    return picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)


def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib."""
    return ImageFont.truetype(
        str(Path(get_data_path()) / "fonts" / "ttf" / f"DejaVuSans{'-Bold' if bold else ''}.ttf"), size
    )


def fitted(text: str, face: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, without its beginning where it is too wide: names of files differ in their ends."""
    text = text.encode("utf-8", "replace").decode()
    if face.getlength(text) <= width:
        return text
    while text and face.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text
