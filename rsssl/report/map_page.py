"""A class map as one HTML file that opens from the disk: scene and map under a slider, legend, areas, accuracy."""

from __future__ import annotations

import shlex
import time
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
from rsssl.report.summary import better_baselines, labelled

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
.bar span.one { display: flex; flex: 1 1 16rem; gap: .6rem; align-items: center; white-space: nowrap }
.bar input { flex: 1; min-width: 4rem; accent-color: var(--mark) }
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
        notes: of the classifier: how it was made, and how good it is.
        accuracy: as `task=accuracy` writes it; None where nothing tested.
    """

    map: Path
    scene: np.ndarray
    classes: np.ndarray
    names: Sequence[str]
    colours: np.ndarray
    areas: Mapping[str, Mapping[str, Any]]
    facts: Mapping[str, str]
    notes: Mapping[str, Any]
    accuracy: Mapping[str, Any] | None = None

    @property
    def title(self) -> str:
        """The map's name, and what it is a map of."""
        return f"{self.map.stem}: {Path(self.facts['scene']).name}"


def page_of(
    target: Path,
    classifier: SceneNetwork,
    command: Sequence[str],
    bands: list[Any] | None,
    nodata: Any,
    values: str | None,
) -> MapPage:
    """The page of a map, of what lies beside it.

    Args:
        target: the map.
        classifier: that made it.
        command: the overrides that were typed.
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
        facts={"scene": scene.name, **facts_of(classifier.notes), **made_by(record, command)},
        notes=classifier.notes,
        accuracy=read_json(file, "type rsssl-run task=accuracy again") if file.is_file() else None,
    )


def facts_of(notes: Mapping[str, Any]) -> dict[str, str]:
    """What a classifier's notes say of how it was trained and tested."""
    if "n_train" not in notes:
        return {}
    trained = f"{labelled(notes['n_train'], notes.get('n_drawn'))}, evaluate={notes.get('evaluate')}"
    tested = f"{100 * notes['oa']:.1f} % of {notes['n_test']} windows right ({notes.get('split', 'at random')})"
    return {"trained on": trained, "tested": tested}


def made_by(record: Mapping[str, Any], command: Sequence[str]) -> dict[str, str]:
    """When a map was made, and by which command."""
    return {
        "made": time.strftime("%Y-%m-%d %H:%M", time.localtime(record["finished"])),
        "command": shlex.join(["rsssl-run", *command]),
    }


def write_page(page: MapPage) -> Path:
    """Writes the page beside the map, whole or not at all; its file."""
    scene, over = picture(Image.fromarray(page.scene), quality=88), picture(Image.fromarray(painted(page)), "PNG")
    body = [
        f"<h1>{text(page.title)}</h1>",
        "<main><section>",
        '<div class="view">',
        f'<img alt="the scene" src="{scene}">',
        f'<img class="over" alt="the map" src="{over}"><div class="edge"></div></div>',
        '<div class="bar"><span class="one"><label for="at">scene</label><input id="at" type="range" min="0" '
        'max="100" step="0.1" value="50" aria-label="where the map begins"><span>map</span></span>'
        '<span class="one"><label for="ease">opacity</label><input id="ease" type="range" min="0" max="100" '
        'value="100"></span></div>',
        *(f"<p>{text(key)}: {text(value)}</p>" for key, value in page.facts.items()),
        "</section><section>",
        *areas_table(page),
        *baselines_part(page.notes),
        *(accuracy_part(page.accuracy) if page.accuracy else []),
        "</section></main>",
    ]
    file = page.map.with_suffix(".html")
    write_atomic(file, document(page.title, body, STYLE, SCRIPT))
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
    recalls = page.notes.get("per_class") or {}
    lines = [
        '<h2>Areas</h2><div class="scroll"><table><tr><th>class</th><th>share</th><th>hectares</th>',
        '<th title="the share of its test samples that were found">recall</th></tr>' if recalls else "</tr>",
    ]
    for i, (name, area) in sorted(enumerate(page.areas.items()), key=lambda item: -item[1][1]["pixels"]):
        if area["pixels"] or name in recalls:
            key = f'<i class="key" style="background: rgb{tuple(page.colours[i].tolist())}"></i>'
            hectares = "" if area["hectares"] is None else f"{area['hectares']:,.1f}"
            share = f"{100 * area['pixels'] / whole:.1f} %"
            found = "" if recalls.get(name) is None else f"{100 * recalls[name]:.1f} %"
            recall = f"<td>{found}</td>" * bool(recalls)
            lines.append(f"<tr><td>{key}{text(name)}</td><td>{share}</td><td>{hectares}</td>{recall}</tr>")
    return [*lines, "</table></div>"]


def baselines_part(notes: Mapping[str, Any]) -> list[str]:
    """The classifier beside its baselines on the same test samples; nothing where there are none."""
    if not notes.get("baselines"):
        return []
    rows = {"this map's classifier": notes} | {n.replace("_", " "): s for n, s in notes["baselines"].items()}
    lines = ["<h2>Beside it</h2><table><tr><th>classifier</th><th>right, of the test samples</th></tr>"]
    lines += [f"<tr><td>{text(n)}</td><td>{100 * s['oa']:.1f} %</td></tr>" for n, s in rows.items()]
    return [*lines, "</table>", *(f"<p>{text(sentence)}</p>" for sentence in better_baselines(notes))]


def accuracy_part(accuracy: Mapping[str, Any]) -> list[str]:
    """How good the map is, and the areas that follow from that."""
    headings, rows = table(dict(accuracy))
    samples, area = accuracy["of_samples"], accuracy["of_area"]
    which = "that the classifier was trained from" if accuracy.get("seen") else "that the classifier has not seen"
    lines = [
        f"<h2>Accuracy</h2><p>{accuracy['n_samples']:,} {text(accuracy['kind'])} {which}: "
        f"{100 * samples['oa']:.1f} % right, of the area {interval(area['oa'], area['oa_ci95'], 100, 1)} %.</p>",
        '<div class="scroll"><table><tr>' + "".join(f"<th>{text(h)}</th>" for h in headings) + "</tr>",
        *("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows),
        "</table></div>",
    ]
    return lines + [f"<p>{text(note)}</p>" for note in accuracy.get("notes", [])]
