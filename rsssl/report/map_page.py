"""A class map as one HTML file that opens from the disk: scene and map under a slider, legend, areas, accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rsssl.data.scene_file import SceneFile
from rsssl.engine.files import write_atomic
from rsssl.engine.outputs import read_record
from rsssl.geo.nodata import as_number
from rsssl.geo.scene import Scene
from rsssl.networks.network import SceneNetwork
from rsssl.records import read_json
from rsssl.report.assessment import interval, table
from rsssl.report.html.document import document, picture, text

LONGEST = 1600  # pixels of a picture's longer side

STYLE = """
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
i.key { display: inline-block; width: .95em; height: .95em; border-radius: 3px; margin-right: .5em;
  vertical-align: -.1em; border: 1px solid rgba(0, 0, 0, .25) }
@media print { .bar { display: none } }
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
    scene, over = picture(Image.fromarray(page.scene), quality=88), picture(Image.fromarray(painted(page)), "PNG")
    body = [
        f"<h1>{text(page.map.stem)}</h1>",
        "<main><section>",
        '<div class="view">',
        f'<img alt="the scene" src="{scene}">',
        f'<img class="over" alt="the map" src="{over}"><div class="edge"></div></div>',
        '<div class="bar"><label for="at">scene</label><input id="at" type="range" min="0" max="100" step="0.1" '
        'value="50" aria-label="where the map begins"><span>map</span><label for="ease">opacity</label>'
        '<input id="ease" type="range" min="0" max="100" value="100"></div>',
        *(f"<p>{text(key)}: {text(value)}</p>" for key, value in page.facts.items()),
        "</section><section>",
        *areas_table(page),
        *(accuracy_part(page.accuracy) if page.accuracy else []),
        "</section></main>",
    ]
    file = page.map.with_suffix(".html")
    write_atomic(file, document(page.map.stem, body, STYLE, SCRIPT))
    return file


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
