"""What is looked at: the surest errors as thumbnails, and the map of the features whose points open their image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rsssl.evaluation.predictions import Prediction
from rsssl.report.html import images
from rsssl.report.html.document import data_block, picture, text
from rsssl.report.html.svg import COLOURS, MARKS
from rsssl.report.results import Result, Row


def looked_at(name: str, best: Sequence[Result], names: Mapping[Row, str], most: int) -> tuple[str, str]:
    """Example errors and the map of features of one seed, or why there are none; of at most so many images."""
    some = images.tested(best)
    if isinstance(some, str):
        return f"<h3>Surest errors, map of the features</h3><p>{text(some)}</p>", ""
    seed = f"{names[best[0].row]}, ts={best[0].ts}, seed {some.result.seed}"
    listed, every = len(some.predictions), some.result.n_test
    part = f", {listed:,} of {every:,} test images" if listed < every else ""
    shown = "".join(error(p, picture(i, quality=82)) for p, i in images.surest_errors(some))
    errors = f'<div class="errors">{shown}</div>' if shown else "<p>None: every test image is right.</p>"
    found = images.embedding(some, most)
    features = (
        f"<h3>Map of the features</h3><p>{text(found)}</p>"
        if isinstance(found, str)
        else mapped(name, found, best[0].classes, seed)
    )
    return f"<h3>Surest errors</h3><p>{text(seed + part)}.</p>{errors}", features


def error(prediction: Prediction, address: str) -> str:
    """One wrong prediction with its image."""
    sure = f"{100 * prediction.confidence:.0f} % sure"
    return (
        f'<figure title="{text(prediction.image)}"><img alt="{text(prediction.image)}" src="{address}"><figcaption>'
        f"<b>{text(prediction.true)}</b>, taken for <b>{text(prediction.predicted)}</b>, {sure}</figcaption></figure>"
    )


def mapped(name: str, found: images.Embedding, classes: Sequence[str], seed: str) -> str:
    """The map of features: a point an image, which opens it."""
    styles = {c: (i % COLOURS, i // COLOURS % len(MARKS)) for i, c in enumerate(classes)}
    points = []
    for i, p in enumerate(found.predictions):
        x, y = found.maps["PCA"][i]
        colour, mark = styles.get(p.true, (0, 0))
        wrong = " wrong" if p.true != p.predicted else ""
        at = f"translate({20 + 560 * x:.1f} {580 - 560 * y:.1f})"
        points.append(f'<path class="point c{colour}{wrong}" data-i="{i}" d="{MARKS[mark]}" transform="{at}"/>')
    keys = [
        f'<li><button type="button" class="c{c}" data-class="{i}" aria-pressed="false"><svg viewBox="-7 -7 14 14" '
        f'aria-hidden="true"><path class="point c{c}" d="{MARKS[m]}"/></svg>{text(k)}</button></li>'
        for i, (k, (c, m)) in enumerate(styles.items())
    ]
    pressed = {k: "true" if k == "PCA" else "false" for k in found.maps}
    choice = [f'<button type="button" data-map="{k}" aria-pressed="{v}">{k}</button>' for k, v in pressed.items()]
    number = {c: i for i, c in enumerate(classes)}
    content = {
        "maps": {k: [[round(float(v), 4) for v in xy] for xy in m] for k, m in found.maps.items()},
        "classes": list(classes),
        "points": [[p.image, number[p.true], number[p.predicted], p.confidence] for p in found.predictions],
        "across": found.across,
    }
    words = (
        f"{len(found.predictions):,} test images; {seed}. Two principal components have {100 * found.explained:.0f} % "
        "of the variance. Point at an image; click to keep it, click a class to see it alone."
    )
    label, how = "Map of the features: arrow keys go from image to image", '<a href="#reading">How to read it</a>'
    parts = [
        f"<h3>Map of the features</h3><p>{text(words)} {text(found.note)} {how}</p>",
        '<div class="embedding"><div class="field"><div class="choice" role="group" aria-label="Which map">',
        *choice,
        f'</div><svg viewBox="0 0 600 600" tabindex="0" role="application" aria-label="{label}">{"".join(points)}',
        '<circle class="chosen" r="10" cx="-99" cy="-99"/></svg></div><div class="beside"><div class="shown" ',
        f'aria-live="polite"><div class="tile" data-atlas="{picture(found.atlas, quality=76)}"></div><p></p></div>',
        f'<ul class="classes">{"".join(keys)}</ul></div>{data_block(f"{name}-points", content)}</div>',
    ]
    return "".join(parts)
