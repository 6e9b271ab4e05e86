"""The manual says what is: its commands run, its keys exist, its links lead somewhere, its reference is what stands."""

from __future__ import annotations

import configparser
import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import yaml

from rsssl.compose import Composer, check_line
from rsssl.groups import GROUPS, group_options
from rsssl.report.command import main as report

pytest.importorskip("osgeo")
HERE = Path(__file__).parent
SHRUNK = """
import rsssl, rsssl.api
from documents import shrunk
in_full = rsssl.api.run
rsssl.api.run = lambda overrides=(), config_dir=None: in_full(shrunk(list(overrides)), config_dir)
"""
ELSEWHERE = ("apt-get", "python3", "pip", "uv", "mamba", "docker", "make", "tensorboard")  # commands that are not ours
OF_PYTHON = ("adapt",)  # keys of the Python API alone


@pytest.fixture(scope="module")
def imagery(documents: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imagery")
    documents.make_imagery(folder)
    return folder


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    """One for all lines: it keeps what it has composed."""
    with Composer() as made:
        yield made


def pages() -> list[Path]:
    return sorted([*(HERE.parent / "docs").rglob("*.md"), HERE.parent / "README.md"])


def name(page: Path) -> str:
    return page.relative_to(HERE.parent).as_posix()


@pytest.mark.parametrize("page", pages(), ids=name)
def test_the_commands_of_a_page(
    page: Path,
    documents: Any,
    composer: Composer,
    imagery: Path,
    pack_of_tiles: Path,
    tmp_path: Path,
    workshop: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In their order, in one folder: those that `run_for_real` chooses; the others, and those that are marked as too
    long or as not run, are composed and checked."""
    for entry in imagery.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    documents.files_of(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    job = {"env": {"RSSSL_STORE": str(imagery / "store")}, "warm": ["simclr", str(pack_of_tiles)]}
    chosen = documents.run_for_real()
    shown = [block for block in documents.blocks_of(page) if not block.title]
    blocks = [block for block in shown if block.language in ("shell", "console", "python")]
    for is_python, some in groupby(blocks, lambda block: block.language == "python"):
        listed = list(some)
        if is_python:
            code = SHRUNK + "".join(block.text for block in listed)
            assert "Traceback" not in workshop.run(tmp_path, code=code, **job)
            continue
        for block in listed:
            for words in block.commands:
                if not block.note and (page, tuple(words)) in chosen:
                    runs(words, documents, composer, tmp_path, workshop, job)
                else:
                    checks(words, documents, composer)


def runs(
    words: list[str], documents: Any, composer: Composer, folder: Path, workshop: Any, job: dict[str, Any]
) -> None:
    """Runs a command made small; what it was to write is there."""
    if words[0] == "rsssl-report":
        assert report(words[1:]) == 0
        return
    overrides = documents.overrides_of(words)
    if overrides is None:
        checks(words, documents, composer)
        return
    text = workshop.run(folder, *documents.shrunk(overrides), **job)
    assert "Traceback" not in text
    for word in overrides:
        key, _, value = word.partition("=")
        assert key not in ("out", "hydra.run.dir", "hydra.sweep.dir") or (folder / value).exists(), word


def checks(words: list[str], documents: Any, composer: Composer) -> None:
    """A command that is not run: the configuration composes, the make target, extra or file exists."""
    overrides = documents.overrides_of(words)
    if overrides is not None:
        typed = [word for word in overrides if not word.startswith("-")]
        config_dir = overrides[overrides.index("--config-dir") + 1] if "--config-dir" in overrides else None
        typed = [word for word in typed if word != config_dir]
        with nullcontext(composer) if config_dir is None else Composer(config_dir) as used:
            check_line(used, typed, "--multirun" in overrides, start=False)
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (documents.ROOT / "Makefile").read_text(), re.M), words
    elif words[0] == "python":
        assert (documents.ROOT / words[1]).is_file(), words
    else:
        assert words[0] in (*ELSEWHERE, "rsssl-report"), f"{words}: mark the block, or teach tests/test_docs.py"
    for extra in re.findall(r"rsssl\[(\w+)\]|\.\[(\w+)\]", " ".join(words)):
        setup = configparser.ConfigParser()
        setup.read(documents.ROOT / "setup.cfg")
        assert "".join(extra) in setup["options.extras_require"], words


def test_the_table_of_results_json_has_every_key(documents: Any, imagery: Path, tmp_path: Path, workshop: Any) -> None:
    words = ["dataset=folder", f"dataset.root={imagery / 'my_tiles'}", "ts=5", "evaluate=auto", "hydra.run.dir=run"]
    workshop.run(tmp_path, *documents.shrunk(words), env={"RSSSL_STORE": str(imagery / "store")})
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    section = (HERE.parent / "docs" / "results.md").read_text().split("## `results.json`\n")[1].split("\nBeside it")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.M)
    described = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert described == {*results, "random_split"}  # this one only where images are divided on the ground


def test_the_reference_is_what_the_generator_writes(documents: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE.parent / "docs"))
    import generate

    for file, page in generate.PAGES.items():
        written = (documents.ROOT / "docs" / "reference" / file).read_text()
        assert written == page(), f"docs/reference/{file} is stale: type python docs/generate.py"
        rows = rows_of_keys(written)
        assert len(rows) > 50 and [row for row in rows if row.endswith(("|  |", "`` |"))] == []


def rows_of_keys(text: str) -> list[str]:
    """Of the reference's tables of keys."""
    tables = re.findall(r"^\| key \|.* meaning \|\n.*\n((?:\|.*\n)+)", text, re.M)
    return [row for rows in tables for row in rows.splitlines()]


def known_keys() -> set[str]:
    """Those that the reference has, and the groups."""
    text = "".join(page.read_text() for page in (HERE.parent / "docs" / "reference").glob("*.md"))
    return {*(row.split("`")[1] for row in rows_of_keys(text)), *GROUPS, "hydra/launcher"}


@pytest.mark.parametrize("page", [p for p in pages() if "reference" not in p.parts], ids=name)
def test_keys_and_options_in_the_text_exist(page: Path) -> None:
    """`key=value` in a sentence or a table: the key stands in the reference, and a group has the option."""
    known, plain = known_keys(), re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    for code in re.findall(r"`([^`\n]+)`", plain):
        for word in code.replace("'", "").split():
            found = re.fullmatch(r"([a-z_]+(?:[./][a-z_0-9]+)*)=(\S*)", word)
            if not found or found[1] in OF_PYTHON or "(" in code or found[2].startswith("{"):
                continue
            key, value = found.groups()
            assert key in known or re.match(r"augment\.(local\.)?operations\.|hydra\.launcher", key), f"{code}: {key}"
            if key in GROUPS:
                options = [o for o in value.split(",") if not re.fullmatch(r"[A-Z]*|.*\.\.\.|mine", o)]
                assert {*options} <= {*group_options(key)}, code


@pytest.mark.parametrize("page", pages(), ids=name)
def test_links_and_names_of_files_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            assert re.fullmatch(r"https://[\w.-]+\.\w+(/[\w.%/#?=&~-]*)?", target), target
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.is_file(), f"{target} is not there"
        if anchor:
            assert anchor in anchors(linked), f"{target}: there is no such heading"
    for file in re.findall(r"`((?:experiments|conf|rsssl|tests|docs)/[\w/.]*)`", text):
        assert (HERE.parent / file).exists() or "GROUP" in file, f"{file} is not there"


def anchors(page: Path) -> set[str]:
    """Of its headings, as Python-Markdown makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in re.findall(r"^#+ (.*)$", text, re.M))
    return {re.sub(r"[-\s]+", "-", heading) for heading in plain}


def test_every_page_is_in_the_navigation_and_short() -> None:
    settings = yaml.safe_load((HERE.parent / "mkdocs.yml").read_text())
    named = re.findall(r"[\w/-]+\.md", str(settings["nav"]))
    docs = HERE.parent / "docs"
    assert sorted(named) == sorted(p.relative_to(docs).as_posix() for p in docs.rglob("*.md"))
    assert settings["theme"]["font"] is False and "google" not in str(settings).lower()
    for page in docs.glob("*.md"):
        assert len(page.read_text().splitlines()) <= 260, f"{page.name} is long: divide it"
