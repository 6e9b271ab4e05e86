"""`rsssl-report --html`: everything that a sweep found, on one page that opens from the disk and asks the network for
nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rsssl.report import figures
from rsssl.report.compare import comparisons
from rsssl.report.datasets import recorded
from rsssl.report.html import gallery, images, plots, runs, tables
from rsssl.report.html.document import document, part, text
from rsssl.report.results import Result, Row
from rsssl.report.tables import METRIC_NAMES, Table, caption, labels, percent, plural

BESIDE = 12  # classes of a confusion matrix that leaves room beside it
READING = {
    "Reliability": "What is 90 % sure should be right nine times in ten: bars reach the accuracy of what is so sure, "
    "and would end on the dashed line. They are darker where more images are. The numbers are expected calibration "
    "errors in points: after calibration, before it, and by chance, if the probabilities were exact.",
    "Paired comparison": "Each row is set beside the best of its column at the seeds that both have: a seed draws the "
    "same labelled images for both. The interval is that of a paired t test over the seeds. p is that of the exact "
    "signed-rank test, and beside it stands the smallest that so many seeds can give: fewer than 6 never come below "
    "0.05. Detectable is the difference, in points, that a paired t test of so many seeds finds in 8 of 10 cases at "
    "the 5 % level, given the spread that these differences have: a smaller one may be there and not be seen. All "
    "seeds share their test images, so nothing here says how it would be on others. p is not corrected for the number "
    "of rows, and the best row was picked for being the best.",
    "Confusion matrix": "Percent of the images of the true class, on average over the seeds; .4 is 0.4 %, an empty "
    "cell is none. Blue is right, orange wrong.",
    "Map of the features": "Test images by the features of the network that the classifier looked at, in a plane. By "
    "principal components (PCA) distances are as true as two dimensions can show them; by t-SNE neighbours are, and "
    "distances between groups mean little. Points with a dark rim were taken for another class; the ring is around the "
    "one that is shown. The arrow keys go from image to image.",
}
HOW = '<a href="#reading">How to read it</a>'


def page(table: Table) -> bytes:
    """The page, in UTF-8. Reads what the run folders and the store still hold, and says in words what is gone."""
    datasets = list(dict.fromkeys(row.dataset for row in table.rows))
    by_dataset = {d: [row for row in table.rows if row.dataset == d] for d in datasets}
    names = {row: name for rows in by_dataset.values() for row, name in figures.panel_names(rows).items()}
    coloured = sorted({name for row, name in names.items() if not row.baseline})  # a colour each, in all plots
    most = max(images.FEWEST, images.POINTS // len(datasets))
    sections = [
        section(f"d{i}", table, d, {row: names[row] for row in by_dataset[d]}, coloured, most)
        for i, d in enumerate(datasets)
    ]
    trained = runs.trainings(table.results, labels(table.rows))
    links = [(f"d{i}", d) for i, d in enumerate(datasets)]
    links += [("trainings", "Trainings")] if trained else []
    links += [("commands", "Commands"), ("versions", "Versions"), ("reading", "How to read it")]
    body = [
        *head(table, links),
        "<main>",
        *sections,
        f'<section id="trainings"><h2>Trainings</h2><div class="cards">{"".join(trained)}</div></section>'
        * bool(trained),
        *commands(table, names),
        f'<section id="versions"><h2>Versions</h2>{runs.versions(table.results)}</section>',
        '<section id="reading"><h2>How to read it</h2>',
        *(f"<p><b>{name}.</b> {text(words)}</p>" for name, words in READING.items() if said_of(name, sections)),
        "</section>",
        "</main>",
    ]
    return document("Few-label scene classification", body, part("report.css"), part("report.js"))


def said_of(name: str, sections: Sequence[str]) -> bool:
    """Whether one of the sections has a part of that name."""
    return any(f"<h3>{name}</h3>" in written for written in sections)


def head(table: Table, links: Sequence[tuple[str, str]]) -> list[str]:
    """The title, what the numbers are, notes, and where to find what."""
    count = len({r.path for r in table.results})
    written = time.strftime("%Y-%m-%d %H:%M")
    notes = [f"<li{' class=warning' if n.startswith('Warning') else ''}>{text(n)}</li>" for n in table.notes]
    return [
        "<header><h1>Few-label scene classification</h1>",
        f"<p>{text(caption(table))}</p>",
        f"<p>{plural(count, 'run')}, written by rsssl-report on {written}.</p>",
        *(['<ul class="notes">', *notes, "</ul>"] if notes else []),
        "<nav>" + "".join(f'<a href="#{name}">{text(title)}</a>' for name, title in links) + "</nav></header>",
    ]


def section(name: str, table: Table, dataset: str, names: Mapping[Row, str], coloured: Sequence[str], most: int) -> str:
    """All that is known of one dataset.

    Args:
        name: of the section, for links.
        table: of all datasets.
        dataset: as the rows name it.
        names: of its rows, for legends.
        coloured: the methods of all datasets, in the order of their colours.
        most: test images on the map of features.
    """
    own = [r for r in table.results if r.row.dataset == dataset]
    parts = [
        f'<section id="{name}"><h2>{text(dataset)}</h2><p>{text(facts(own))}</p>',
        tables.scores(table, list(names)),
    ]
    parts.append('<div class="columns">')
    if len({r.labels_per_class for r in own}) > 1:  # one point of a curve says what the table says
        parts.append(f"<div><h3>Label efficiency</h3>{plots.label_efficiency(table, names, coloured)}</div>")
    best = figures.best_at_largest(table, dataset)
    columns = trusted(table, best[0].row) if best else {}
    parts.append("<div>")
    if columns:
        words = f"Accuracy over confidence, in percent, of {names[best[0].row]}."
        parts.append(f"<h3>Reliability</h3><p>{text(words)} {HOW}</p>")
        parts.append(f'<div class="panels small">{plots.reliability_panels(columns)}</div>')
    parts.append("</div></div>")
    found = comparisons(table, dataset)
    if any(c.seeds > 1 for c in found):  # of one seed there is no interval and no test, and the table has its points
        words = "Each row beside the best of its column, in points of the metric, over the seeds that both have."
        parts.append(f"<h3>Paired comparison</h3><p>{words} {HOW}</p>{tables.comparison(found, names)}")
    if best:
        errors, features = gallery.looked_at(name, best, names, most)
        pair = f"<div>{confused(table, best, names)}</div><div>{errors}</div>"
        beside = len(best[0].classes) <= BESIDE
        parts += [f'<div class="columns">{pair}</div>' if beside else pair, features]
    return "".join([*parts, "</section>"])


def facts(results: Sequence[Result]) -> str:
    """Where a dataset lies, how large it is, how it was split."""
    roots = sorted({str(recorded(r)["root"]) for r in results if recorded(r).get("root")})
    sizes = sorted({(len(r.classes), r.n_test) for r in results})
    splits = sorted({f"{r.split} ({r.split_hash[:8]})" for r in results})
    each = " or ".join(f"{c} classes, {n:,} test images" for c, n in sizes)
    return " · ".join([*roots, each, f"split {' or '.join(splits)}"])


def trusted(table: Table, row: Row) -> dict[str, list[Result]]:
    """By train scale the results of a row that all have a calibration."""
    cells = {ts: table.cells[row, ts].results for ts in table.columns if (row, ts) in table.cells}
    return {ts: found for ts, found in cells.items() if all(r.bins for r in found)}


def confused(table: Table, best: Sequence[Result], names: Mapping[Row, str]) -> str:
    """The confusion matrix of the best row at its largest train scale."""
    row, ts = best[0].row, best[0].ts
    cell = table.cells[row, ts]
    spread = "" if cell.std is None else f" ± {percent(cell.std)}"
    left = len(cell.results) - len(best)
    words = (
        f"{names[row]}, ts={ts}: {METRIC_NAMES[table.metric]} {percent(cell.mean)}{spread}, {plural(len(best), 'seed')}"
    )
    words += f"; {plural(left, 'seed')} with other classes left out" if left else ""
    return f"<h3>Confusion matrix</h3><p>{text(words)}. {HOW}</p>{tables.confusion(best)}"


def commands(table: Table, names: Mapping[Row, str]) -> list[str]:
    """What to type to make each row again."""
    lines = ['<section id="commands"><h2>Commands</h2>']
    folders = runs.typed_in(table.results)
    lines.append(f"<p>Typed in {text(', '.join(folders))}.</p>" if folders else "")
    for rows, typed in runs.commands(table.results):
        of = [(d, [names[row] for row in rows if row.dataset == d]) for d in dict.fromkeys(row.dataset for row in rows)]
        each = "<br>".join(f"<b>{text(dataset)}</b>: {text(' · '.join(those))}" for dataset, those in of)
        lines.append(f'<div class="command"><p>{each}</p>')
        lines += [f'<div class="typed"><code>{text(line)}</code></div>' for line in typed]
        lines.append("</div>")
    return [*lines, "</section>"]
