"""The report as one page: its numbers, its images, what it never does, and how it looks to a browser."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import subprocess
import sys
import zlib
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import rsssl
from rsssl.data.pack import Pack
from rsssl.data.packing import pack
from rsssl.engine.files import sha256
from rsssl.engine.store import Store
from rsssl.report.command import main
from tests.report.made_up import scores, write_run

NAMES = ["<script>alert(1)</script>", "a&b \"c'", "water"]


class Page(HTMLParser):
    """A page as elements: (tag, attributes, text directly inside)."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[int] = []
        self.feed(content)
        assert not self.open, [self.elements[i][0] for i in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in ("meta", "img", "br"):
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for i in self.open:
            self.elements[i][2].append(data)

    def all(self, tag: str, **attributes: str) -> list[tuple[dict[str, str | None], str]]:
        """Elements with such attributes, and all the text in them."""
        return [
            (has, "".join(texts))
            for name, has, texts in self.elements
            if name == tag and all(v in (has.get(k.rstrip("_")) or "").split() for k, v in attributes.items())
        ]


@pytest.fixture(scope="module")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pack]:
    """A store with a pack of three classes of 20 flat tiles, each of a grey of its own, and their features."""
    folder = tmp_path_factory.mktemp("tiny")
    for k in range(3):
        (folder / "tiles" / f"class{k}").mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (12, 8), (80 * k + i, 90, 40)).save(folder / "tiles" / f"class{k}" / f"{i:02}.png")
    dataset, store = rsssl.dataset("folder", root=str(folder / "tiles")), Store(folder / "store")
    packed = store.get("pack", {}, lambda place: pack(dataset, place, workers=1, progress=False))
    features = store.root / "features" / ("1" * 16)
    features.mkdir(parents=True)
    draw = (np.random.default_rng(0).normal(size=(60, 5)) * [9, 5, 1, 1, 1]).astype(np.float32)
    checksums = np.array([zlib.crc32(row.tobytes()) for row in draw], np.uint32)
    (features / "000000.bin").write_bytes(checksums.tobytes() + draw.tobytes())
    return store.root, Pack.open(packed.folder)


def add_run(folder: Path, store: Path, pack: Pack, seed: int, oa: float = 0.0, **changes: Any) -> dict[str, Any]:
    """A run whose test images are every second image; every fifth of these is taken for the next class."""
    lines = []
    for n, row in enumerate(range(0, 60, 2)):
        true = int(pack.labels[row])
        taken = (true + 1) % 3 if n % 5 == 0 else true
        lines.append([pack.paths[row], NAMES[true], NAMES[taken], f"{0.5 + n / 100:.4f}"])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["image", "true", "predicted", "confidence"], *lines])
    folder.mkdir(parents=True)
    (folder / "predictions.csv").write_text(text.getvalue())
    record = {"listed": 30, "sha256": sha256(text.getvalue().encode())}
    data = {"root": "/data/tiles", "fingerprint": pack.fingerprint}
    data |= {"pack": str(pack.folder), "features": str(store / "features" / ("1" * 16))}
    found = scores(0.7, seed, NAMES) | ({"oa": oa} if oa else {})
    (folder / ".hydra").mkdir()
    typed = ["dataset=folder", "dataset.root=my tiles", "ts=5", f"seed={seed}", "paths.store=/elsewhere"]
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(typed))
    (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump({"hydra": {"runtime": {"cwd": "/home/me"}}}))
    more = {"seed": seed, "predictions": record, "data": data, "versions": {"torch": "9.9"}, "pretrain": None}
    return write_run(folder, **(found | more | changes))


@pytest.fixture
def sweep(tmp_path: Path, tiny_store: tuple[Path, Pack]) -> tuple[Path, list[dict]]:
    """Three seeds of two methods, and their training."""
    folder, runs = tmp_path / "runs", []
    for seed in range(3):
        runs.append(add_run(folder / f"a{seed}", *tiny_store, seed, oa=0.9 + seed / 100))
        pretrain = {"artifact": "b" * 16, "folder": "/gone", "steps": 40, "images": 60, "epochs": 5}
        add_run(folder / f"b{seed}", *tiny_store, seed, oa=0.8, ssl="none", pretrain=pretrain, evaluate="ridge")
    rows = ["step,epoch,name,value", *(f"{s},0,loss,{9 - s / 10}" for s in (10, 20, 40)), "40,0,probe_oa,0.625"]
    (folder / "b0" / "metrics.csv").write_text("\n".join([*rows, ""]))
    (folder / "b0" / "pictures").mkdir()
    for step in (20, 40):
        Image.new("RGB", (700, 300), (step, 0, 0)).save(folder / "b0" / "pictures" / f"step-{step:07d}.png")
    return folder, runs


def made(folder: Path) -> tuple[str, Page]:
    assert main([str(folder), "--html", "--no-figures"]) == 0
    content = (folder / "report.html").read_text()
    return content, Page(content)


def test_it_loads_nothing_and_names_stay_text(sweep: tuple[Path, list[dict]]) -> None:
    content, page = made(sweep[0])
    for _, attributes, _ in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "data-atlas"):
                assert (value or "").startswith(("data:image/", "#"))
    assert not re.search(r"https?://|@import|url\((?!\$)", content)
    (policy,) = (a["content"] for a, _ in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and "default-src 'none'" in policy and "unsafe-inline'; script" in policy
    scripts = page.all("script")
    assert [a.get("type") for a, _ in scripts] == ["application/json", None]
    assert "alert(1)" not in scripts[1][1], "a class called <script> is no script"
    assert f"{NAMES[0]}, taken for {NAMES[1]}, 50 % sure" in [text for _, text in page.all("figcaption")]


def test_scores_and_comparison_are_those_of_the_runs(sweep: tuple[Path, list[dict]]) -> None:
    _, page = made(sweep[0])
    cells = [(a, text) for a, text in page.all("td") if "seed 0:" in (a.get("title") or "")]
    values = np.array([run["oa"] for run in sweep[1]])
    assert cells[0][1] == f"{100 * values.mean():.1f} ± {100 * values.std(ddof=1):.1f} (3)"
    assert float(cells[0][0]["data-sort"] or "") == pytest.approx(values.mean(), abs=1e-6)
    assert cells[0][0]["title"] == "seed 0: 90.0, seed 1: 91.0, seed 2: 92.0"
    rows = [text.replace("\N{MINUS SIGN}", "-") for _, text in page.all("tr")]
    half = 4.302653 * 1 / np.sqrt(3)  # t at 0.975 with two degrees of freedom; the differences are 10, 11, 12
    assert any(f"-11.0{-11 - half:.1f} to {-11 + half:.1f}0.25 (0.25)" in text for text in rows), rows


def test_one_run_has_no_comparison(tmp_path: Path, tiny_store: tuple[Path, Pack]) -> None:
    """Nothing can be tested on one seed: a row beside another has neither an interval nor a p."""
    add_run(tmp_path / "runs", *tiny_store, seed=0, baselines={"image_statistics": scores(0.3, 1, NAMES)})
    html = made(tmp_path / "runs")[0]
    assert "image statistics" in html
    for empty in ("Paired comparison", "Label efficiency", "± —", "standard deviation"):
        assert empty not in html, f"one run has nothing to say of {empty}"
    assert "<b>Confusion matrix.</b>" in html, "what stands on the page is explained"


def test_two_train_scales_are_a_curve(tmp_path: Path, tiny_store: tuple[Path, Pack]) -> None:
    for ts in (2, 4):
        add_run(tmp_path / "runs" / str(ts), *tiny_store, seed=0, ts=ts)
    assert "<h3>Label efficiency</h3>" in made(tmp_path / "runs")[0]


def test_the_confusion_matrix_has_numbers(sweep: tuple[Path, list[dict]]) -> None:
    _, page = made(sweep[0])
    cells = {a["title"]: text for a, text in page.all("td") if "taken for" in (a.get("title") or "")}
    mean = np.mean([np.array(r["confusion"]) / 40 for r in sweep[1]], axis=0) * 100
    for i in range(3):
        for j in range(3):
            (text,) = (t for k, t in cells.items() if k and k.startswith(f"{NAMES[i]}, taken for {NAMES[j]}: "))
            assert float(text) == pytest.approx(mean[i, j], abs=0.51)


def test_the_surest_errors_are_shown_with_their_images(sweep: tuple[Path, list[dict]]) -> None:
    _, page = made(sweep[0])
    images = [a for a, _ in page.all("img") if (a["alt"] or "").endswith(".png")]
    captions = [text for _, text in page.all("figcaption") if "taken for" in text]
    assert [re.search(r"(\d+) %", text)[1] for text in captions] == ["75", "70", "65", "60", "55", "50"]  # type: ignore[index]
    assert images[0]["alt"] == "class2/10.png"
    with Image.open(io.BytesIO(base64.b64decode((images[0]["src"] or "").split(",")[1]))) as image:
        assert image.size == (96, 64)
        assert np.abs(np.asarray(image.convert("RGB")).mean((0, 1)) - (170, 90, 40)).max() < 4


def test_points_of_the_map_open_their_own_image(sweep: tuple[Path, list[dict]], tiny_store: tuple[Path, Pack]) -> None:
    _, page = made(sweep[0])
    content = json.loads(page.all("script", type_="application/json")[0][1])
    assert set(content["maps"]) == {"PCA", "t-SNE"} and len(content["points"]) == 30
    (atlas,) = (a["data-atlas"] for a, _ in page.all("div", class_="tile"))
    with Image.open(io.BytesIO(base64.b64decode((atlas or "").split(",")[1]))) as image:
        pixels = np.asarray(image.convert("RGB"))
    store, pack = tiny_store
    rows = []
    for i, (name, true, taken, sure) in enumerate(content["points"]):
        rows.append(pack.paths.index(name))
        x, y = i % content["across"] * 64, i // content["across"] * 64
        grey = int(pack.labels[rows[-1]]) * 80 + int(name[-6:-4])
        assert abs(int(pixels[y + 32, x + 32, 0]) - grey) < 6, name
        assert (taken != true) == (round(100 * sure - 50) % 5 == 0)
    features = np.fromfile(store / "features" / ("1" * 16) / "000000.bin", np.float32)[60:].reshape(60, 5)[rows]
    centred = features - features.mean(0)
    values, axes = np.linalg.eigh(centred.T @ centred)
    flat = np.array(content["maps"]["PCA"])
    for k in (0, 1):
        expected = centred @ axes[:, -1 - k]
        assert abs(np.corrcoef(flat[:, k], expected)[0, 1]) == pytest.approx(1, abs=1e-4)
    assert f"{100 * values[-2:].sum() / values.sum():.0f} % of the variance" in "".join(t for _, t in page.all("p"))


def test_commands_trainings_and_versions(sweep: tuple[Path, list[dict]]) -> None:
    _, page = made(sweep[0])
    assert {t for _, t in page.all("code")} == {
        "rsssl-run --multirun dataset=folder 'dataset.root=my tiles' ts=5 seed=0,1,2"
    }
    assert "Typed in /home/me." in [t for _, t in page.all("p")]
    (card,) = (text for _, text in page.all("article"))
    assert "60 images, 40 steps, 5 epochs" in card and "Loss: 8 at step 10, 5 in the end" in card
    (shown,) = (a for a, _ in page.all("img") if "step" in (a["alt"] or ""))
    assert "after step 40" in (shown["alt"] or "")
    with Image.open(io.BytesIO(base64.b64decode((shown["src"] or "").split(",")[1]))) as image:
        assert image.size == (700, 300)
    assert ["torch", "9.9"] in [[t for _, t in page.all("td")][-2:]]


def test_a_store_that_was_moved_is_found_by_the_environment(
    sweep: tuple[Path, list[dict]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    shutil.copytree(Path(sweep[1][0]["data"]["pack"]).parents[1], store)
    for run in sweep[0].glob("[ab]*"):
        content = json.loads((run / "results.json").read_text())
        for key in ("pack", "features"):
            content["data"][key] = str(Path("/gone", *Path(content["data"][key]).parts[-2:]))
        (run / "results.json").write_text(json.dumps(content))
    assert "The store no longer holds these images" in made(sweep[0])[0]
    monkeypatch.setenv("RSSSL_STORE", str(store))
    assert "t-SNE" in made(sweep[0])[0]
    (card,) = store.glob("pack/*/card.json")
    card.write_bytes(card.read_bytes()[:-9])
    assert "The store no longer holds these images" in made(sweep[0])[0]


def test_what_is_gone_is_said_in_a_sentence(sweep: tuple[Path, list[dict]], tiny_store: tuple[Path, Pack]) -> None:
    folder, _ = sweep
    for run in folder.glob("[ab]*"):
        content = json.loads((run / "results.json").read_text())
        content["data"]["features"] = str(tiny_store[0] / "features" / ("2" * 16))
        (run / "results.json").write_text(json.dumps(content))
    assert "The store no longer holds the features" in made(folder)[0]
    for run in folder.glob("[ab]*"):
        content = json.loads((run / "results.json").read_text())
        content["data"]["pack"] = "/etc"
        (run / "results.json").write_text(json.dumps(content))
    assert "The store no longer holds these images" in made(folder)[0]
    for run in folder.glob("[ab]*"):
        (run / "predictions.csv").write_text("image,true,predicted,confidence\n")
    assert "missing or not what was written" in made(folder)[0]
    write_run(folder / "old", dataset="aid")
    assert "These results are older than the list of predictions" in made(folder)[0]


def test_the_page_needs_no_torch(sweep: tuple[Path, list[dict]]) -> None:
    code = (
        "import sys; from rsssl.report.command import main\n"
        f"main([{str(sweep[0])!r}, '--html', '--no-figures'])\n"
        "print({'torch', 'matplotlib'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "set()" and run.stderr == ""


def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not found:
        pytest.skip("there is no Chromium here")
    return found


def dom(page: Path) -> str:
    """The page as a browser has it after its scripts ran."""
    command = [chromium(), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}"]
    command += ["--window-size=1500,900", "--virtual-time-budget=2000", "--dump-dom", f"file://{page}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("width", [400, 1400])
def test_in_a_browser(sweep: tuple[Path, list[dict]], width: int) -> None:
    content, _ = made(sweep[0])
    page = sweep[0] / "report.html"
    assert 'aria-sort="none"' in dom(page), "its own script runs under its own policy"
    probe = """<script>
        const heading = [...document.querySelectorAll('.scores th button')].find(b => b.textContent === 'ts=5');
        const values = () => [...document.querySelectorAll('.scores tbody tr')].map(r => r.cells[2].dataset.sort);
        heading.click(); const down = values(); heading.click();
        const out = { down, up: values(), sort: heading.parentElement.getAttribute('aria-sort') };
        out.inner = innerWidth; out.wide = document.documentElement.scrollWidth;
        document.querySelector('[data-map="t-SNE"]').click();
        const map = document.querySelector('.field > svg');
        map.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight' }));
        out.shown = document.querySelector('.shown p').textContent;
        parent.document.body.dataset.probe = JSON.stringify(out);
    </script></body>"""
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", content).replace("</body>", probe)
    frame = f'<iframe style="width: {width}px; height: 900px; border: 0" srcdoc="{escape(free)}"></iframe>'
    (sweep[0] / "probed.html").write_text(f"<!DOCTYPE html><html><body>{frame}</body></html>")
    has = Page(dom(sweep[0] / "probed.html")).all("body")[0][0]
    out = json.loads(has["data-probe"] or "{}")
    assert out["down"] == ["0.910000", "0.800000"] and out["up"] == ["0.800000", "0.910000"]
    assert out["sort"] == "ascending" and "% sure" in out["shown"]
    assert out["inner"] == width and out["wide"] <= width, "the page does not scroll sideways"


ODD = [
    {"data": "x", "predictions": [1], "versions": "9"},
    {"data": {"root": 5, "fingerprint": None, "pack": 7, "features": []}, "predictions": {"sha256": 1}},
    {"data": {"root": "\udc80"}, "device": {}, "versions": {"<b>": [1]}},
    {"pretrain": {"artifact": "a", "folder": 3, "steps": "many", "epochs": 2, "device": ["<i>"]}, "ts": "all"},
    {"pretrain": {"artifact": "c", "folder": "/etc", "seconds": 1}, "ts": 0.5, "dataset": "<u>&amp;" * 40},
    {"kappa": None, "ts": 20, "confusion": [[40, 0, 0], [0, 0, 0], [0, 0, 80]]},
]


@pytest.mark.parametrize("metric", ["oa", "kappa"])
def test_odd_and_damaged_files_leave_a_page(tmp_path: Path, metric: str) -> None:
    for i, odd in enumerate(ODD):
        run = tmp_path / str(i)
        write_run(run, **(scores(0.5, i, NAMES) | {"seed": i} | odd))
        (run / ".hydra").mkdir()
        (run / ".hydra" / "overrides.yaml").write_text(["- a=1\n- [", "{a: 1}", "- 5\n- '`rm -rf ~`'"][i % 3])
        (run / ".hydra" / "hydra.yaml").write_text(
            ["hydra: 1", "- 2", "hydra: {runtime: {config_sources: [3]}}"][i % 3]
        )
        (run / "metrics.csv").write_text(["", "step,epoch,name,value\nx,0,loss,nan\n", "step,name\n1,loss\n"][i % 3])
        (run / "pictures").mkdir()
        (run / "pictures" / "step-x.png").write_bytes(b"\x89PNG")
    (tmp_path / "5" / "predictions.csv").write_bytes(b"\xff")
    assert main([str(tmp_path), "--html", "--no-figures", "--metric", metric]) == 0
    page = Page((tmp_path / "report.html").read_text())
    assert not page.all("u") and not page.all("i") and [a for a, _ in page.all("script")] == [{}]
    assert any("'`rm -rf ~`'" in text for _, text in page.all("code"))
