"""A contact sheet: many tiles on a few pages, each with its number and its name, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from rsssl.data.pack import Pack
from rsssl.engine.files import write_atomic
from rsssl.engine.progress import followed
from rsssl.models.bands import shown_bands
from rsssl.report.tiles import picture, png, stretch, thumbnail, visible

PAGE = 100  # tiles
COLUMNS = 10
SIDE = 128  # pixels of a thumbnail's longer side
GAP, EDGE = 14, 28
LINE = 17  # pixels of a line of text
HEAD = 58
SHEET = "Contact sheet"  # key in a page's file, with the name of the first page
PAPER, INK, GREY, RIM = "#ffffff", "#1c2126", "#6b737c", "#d5dadf"


def contact_sheet(pack: Pack, rows: np.ndarray, notes: Sequence[Sequence[str]], title: str, file: Path) -> list[Path]:
    """Writes tiles of a pack, 100 a page: `file`, then `<stem>-2.png` and on. Further pages of an earlier call are
    removed.

    Plain bytes are shown as they are, other numbers are stretched alike in all tiles, so that tiles can be compared.

    Args:
        pack: of the tiles.
        rows: (n,) the tiles in their order; they are numbered from 1.
        notes: for each tile the lines of text below its number.
        title: stands on each page.
        file: the first page, a PNG.

    Returns:
        The files.
    """
    bands = shown_bands(pack.card.bands)
    low, high = stretch(pack, rows, bands)
    files: list[Path] = []
    for start in followed(range(0, len(rows), PAGE), "contact sheet", "pages"):
        part = rows[start : start + PAGE]
        tiles = [thumbnail(picture(x, low, high), SIDE) for x in visible(pack.read(part), pack.card, bands)]
        place = f"{start + 1} to {start + len(part)} of {len(rows)}"
        sheet = page(tiles, notes[start : start + PAGE], start + 1, title, place)
        belongs_to = PngInfo()
        belongs_to.add_itxt(SHEET, printable(file.name))
        files.append(page_file(file, len(files) + 1))
        write_atomic(files[-1], png(sheet, optimize=True, pnginfo=belongs_to))
    number = len(files) + 1
    while is_page_of(stale := page_file(file, number), file):
        stale.unlink()
        number += 1
    return files


def page_file(file: Path, number: int) -> Path:
    return file if number == 1 else file.with_name(f"{file.stem}-{number}{file.suffix}")


def is_page_of(place: Path, file: Path) -> bool:
    """By what the page says of itself: another sheet may have the name that a page of this one would have."""
    try:
        with Image.open(place) as image:
            return image.info.get(SHEET) == printable(file.name)
    except OSError:
        return False


def page(
    tiles: Sequence[Image.Image], notes: Sequence[Sequence[str]], first: int, title: str, place: str
) -> Image.Image:
    """One page of thumbnails with their notes.

    Args:
        tiles: thumbnails, at most `PAGE`.
        notes: for each the lines of text below its number.
        first: the number of the first tile.
        title: at the top left.
        place: at the top right, which tiles these are.
    """
    bold, plain, large = font(13, bold=True), font(12), font(19, bold=True)
    columns = min(COLUMNS, max(4, len(tiles)))  # a few tiles leave room for the title
    lines = max((len(texts) for texts in notes), default=1)
    width, height = SIDE + GAP, SIDE + LINE * (lines + 1) + GAP
    down = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (2 * EDGE - GAP + columns * width, HEAD + EDGE + down * height), PAPER)
    draw = ImageDraw.Draw(sheet)
    aside = sheet.width - EDGE - plain.getlength(place)
    draw.text((EDGE, 20), fitted(title, large, aside - EDGE - GAP), fill=INK, font=large)
    draw.text((aside, 26), place, fill=GREY, font=plain)
    for i, (tile, texts) in enumerate(zip(tiles, notes, strict=True)):
        x, y = EDGE + i % columns * width, HEAD + i // columns * height
        left, top = x + (SIDE - tile.width) // 2, y + (SIDE - tile.height) // 2
        sheet.paste(tile, (left, top))
        draw.rectangle((left - 1, top - 1, left + tile.width, top + tile.height), outline=RIM)
        y += SIDE + 4
        draw.text((x, y), str(first + i), fill=INK, font=bold)
        for number, text in enumerate(texts, 1):
            draw.text((x, y + number * LINE), fitted(text, plain, SIDE), fill=GREY, font=plain)
    return sheet


def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib."""
    folder = Path(get_data_path(), "fonts", "ttf")
    return ImageFont.truetype(str(folder / f"DejaVuSans{'-Bold' if bold else ''}.ttf"), size)


def printable(text: str) -> str:
    """The text with question marks for what is no Unicode: names of files may hold any bytes."""
    return text.encode("utf-8", "replace").decode()


def fitted(text: str, face: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, without its beginning where it is too wide: names of files differ in their ends."""
    text = printable(text)
    if face.getlength(text) <= width:
        return text
    while text and face.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text
