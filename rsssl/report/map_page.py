"""A class map as one HTML file that opens from the disk: scene and map under a slider, legend, areas, accuracy."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from rsssl.data.scene_file import SceneFile
from rsssl.engine.files import write_atomic
from rsssl.engine.outputs import read_record
from rsssl.geo.nodata import as_number
from rsssl.geo.scene import Scene
from rsssl.geo.style import printable
from rsssl.networks.network import SceneNetwork
from rsssl.records import read_json
from rsssl.report.assessment import interval, table

LONGEST = 1600  # pixels of a picture's longer side

STYLE = """
:root { --ink: #1f2328; --faint: #6a737d; --paper: #ffffff; --card: #f6f8fa; --line: #d8dee4; --mark: #0969da }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --faint: #9aa4af; --paper: #0f1419; --card: #171d24; --line: #2d353e; --mark: #58a6ff } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.2rem; max-width: 82rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.35rem; margin: 0 0 .2rem; overflow-wrap: anywhere } h2 { font-size: 1rem; margin: 1.4rem 0 .4rem }
p { margin: .3rem 0; color: var(--faint) }
main { display: grid; grid-template-columns: minmax(0, 1fr) 25rem; gap: 1.6rem; align-items: start }
@media (max-width: 62rem) { main { grid-template-columns: minmax(0, 1fr) } }
.view { position: relative; border: 1px solid var(--line); border-radius: 6px; overflow: hidden; line-height: 0;
  touch-action: pan-y; background: repeating-linear-gradient(45deg, var(--card) 0 8px, var(--paper) 8px 16px) }
.view img { width: 100%; height: auto; user-select: none; -webkit-user-drag: none }
.view img.over { position: absolute; inset: 0; height: 100%; image-rendering: pixelated;
  clip-path: inset(0 0 0 var(--at)) }
.view .edge { position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 3px #000 }
.bar { display: flex; gap: .8rem; align-items: center; margin: .5rem 0; color: var(--faint); flex-wrap: wrap }
.bar input { flex: 1; min-width: 8rem; accent-color: var(--mark) }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .22rem .5rem .22rem 0; text-align: right; border-bottom: 1px solid var(--line); font-weight: 400 }
th { color: var(--faint); font-size: .86em; vertical-align: bottom }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere }
.scroll { overflow-x: auto } i.key { display: inline-block; width: .95em; height: .95em; border-radius: 3px;
  margin-right: .5em; vertical-align: -.1em; border: 1px solid rgba(0, 0, 0, .25) }
code { font-size: .86em; overflow-wrap: anywhere } @media print { .bar { display: none } body { max-width: none } }
"""
SCRIPT = """
const view = document.querySelector('.view'), over = view.querySelector('.over');
const line = document.querySelector('#at'), ease = document.querySelector('#ease');
const set = value => { line.value = value; view.style.setProperty('--at', value + '%') };
line.addEventListener('input', () => set(line.value));
ease.addEventListener('input', () => { over.style.opacity = ease.value / 100 });
const drag = event => { if (event.buttons || event.type === 'pointerdown') {
  const box = view.getBoundingClientRect();
  set(Math.max(0, Math.min(100, 100 * (event.clientX - box.left) / box.width))) } };
view.addEventListener('pointerdown', drag); view.addEventListener('pointermove', drag); set(50);
"""


@dataclass(frozen=True)
class MapPage:
    """What stands on the page.

    Args:
        map: the map's file.
        scene: (h, w, 3) uint8.
        classes: (h, w) class numbers; any outside 0..K-1 is nodata.
        names: of the K classes.
        colours: (K, 3) uint8.
        areas: {class: {"pixels": ..., "hectares": ...}}.
        facts: further lines, by their heading.
        accuracy: as `task=accuracy` writes it; None where nothing tested.
    """

    map: Path
    scene: np.ndarray
    classes: np.ndarray
    names: Sequence[str]
    colours: np.ndarray
    areas: Mapping[str, Mapping[str, Any]]
    facts: Mapping[str, str]
    accuracy: Mapping[str, Any] | None = None


def page_of(
    target: Path, classifier: SceneNetwork, bands: list[Any] | None, nodata: Any, values: str | None
) -> MapPage:
    """The page of a map, of what lies beside it.

    Args:
        target: the map.
        classifier: that made it.
        bands: of the scene, and `nodata` and `values`: as it was mapped with.
        nodata: see there.
        values: see there.
    """
    record, file = read_record(target), target.with_name(f"{target.stem}_accuracy.json")
    scene = Scene(record["inputs"]["scene"][0][0], classifier.card, bands, as_number(nodata, "scene_nodata"), values)
    (h, w), made = scene.size, SceneFile(target)
    step = max(1, -(-max(h, w) // LONGEST))
    shape = -(-h // step), -(-w // step)
    made.use([1])
    return MapPage(
        map=target,
        scene=scene.thumbnail(shape),
        classes=made.part(0, 0, w, h, shape).values[0],
        names=classifier.classes,
        colours=np.array(record["inputs"]["colours"], np.uint8),
        areas=record["areas"],
        facts={"scene": scene.name, **facts_of(classifier.notes)},
        accuracy=read_json(file, "type rsssl-run task=accuracy again") if file.is_file() else None,
    )


def facts_of(notes: Mapping[str, Any]) -> dict[str, str]:
    """What a classifier's notes say of how it was trained and tested."""
    if "n_train" not in notes:
        return {}
    trained = f"{notes['n_train']} labelled windows, evaluate={notes.get('evaluate')}"
    tested = f"{100 * notes['oa']:.1f} % of {notes['n_test']} windows right ({notes.get('split', 'at random')})"
    return {"trained on": trained, "tested": tested}


def write_page(page: MapPage) -> Path:
    """Writes the page beside the map, whole or not at all; its file."""
    body = [
        f"<h1>{text(page.map.stem)}</h1>",
        "<main><section>",
        '<div class="view">',
        f'<img alt="the scene" src="{picture(page.scene, "JPEG")}">',
        f'<img class="over" alt="the map" src="{picture(painted(page), "PNG")}"><div class="edge"></div></div>',
        '<div class="bar"><label for="at">scene</label><input id="at" type="range" min="0" max="100" step="0.1" '
        'value="50" aria-label="where the map begins"><span>map</span><label for="ease">opacity</label>'
        '<input id="ease" type="range" min="0" max="100" value="100"></div>',
        *(f"<p>{text(key)}: {text(value)}</p>" for key, value in page.facts.items()),
        "</section><section>",
        *areas_table(page),
        *(accuracy_part(page.accuracy) if page.accuracy else []),
        "</section></main>",
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    html = (
        f'<!DOCTYPE html><html lang="en"><head>{head}<title>{text(page.map.stem)}</title><style>{STYLE}</style></head>'
    )
    html += "<body>" + "\n".join(body) + f"<script>{SCRIPT}</script></body></html>\n"
    file = page.map.with_suffix(".html")
    write_atomic(file, html.encode("utf-8", "replace"))
    return file


def text(value: Any) -> str:
    return escape(printable(str(value)))


def picture(pixels: np.ndarray, kind: str) -> str:
    """An image as the address of itself."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **({"quality": 88} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"


def painted(page: MapPage) -> np.ndarray:
    """(h, w, 4) the map in its colours; nodata is transparent."""
    k = len(page.names)
    table = np.zeros((k + 1, 4), np.uint8)
    table[:k] = np.concatenate([page.colours, np.full((k, 1), 255)], 1)
    painted: np.ndarray = table[np.where((page.classes < 0) | (page.classes >= k), k, page.classes.astype(np.int64))]
    return painted


def areas_table(page: MapPage) -> list[str]:
    """The classes that occur, the largest first, with their colours and areas."""
    whole = max(1, sum(area["pixels"] for area in page.areas.values()))
    lines = ['<h2>Areas</h2><div class="scroll"><table><tr><th>class</th><th>share</th><th>hectares</th></tr>']
    for i, (name, area) in sorted(enumerate(page.areas.items()), key=lambda item: -item[1][1]["pixels"]):
        if area["pixels"]:
            key = f'<i class="key" style="background: rgb{tuple(page.colours[i].tolist())}"></i>'
            hectares = "" if area["hectares"] is None else f"{area['hectares']:,.1f}"
            share = f"{100 * area['pixels'] / whole:.1f} %"
            lines.append(f"<tr><td>{key}{text(name)}</td><td>{share}</td><td>{hectares}</td></tr>")
    return [*lines, "</table></div>"]


def accuracy_part(accuracy: Mapping[str, Any]) -> list[str]:
    """How good the map is, and the areas that follow from that."""
    headings, rows = table(dict(accuracy))
    samples, area = accuracy["of_samples"], accuracy["of_area"]
    lines = [
        f"<h2>Accuracy</h2><p>{accuracy['n_samples']:,} {text(accuracy['kind'])} that the classifier has not seen: "
        f"{100 * samples['oa']:.1f} % right, of the area {interval(area['oa'], area['oa_ci95'], 100, 1)} %.</p>",
        '<div class="scroll"><table><tr>' + "".join(f"<th>{text(h)}</th>" for h in headings) + "</tr>",
        *("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows),
        "</table></div>",
    ]
    return lines + [f"<p>{text(note)}</p>" for note in accuracy.get("notes", [])]
