"""rsssl-report on made-up runs: every number is computed again from the labels with scikit-learn and numpy."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rsssl.report import figures, tables
from rsssl.report.command import main
from rsssl.report.results import find, read
from tests.report.made_up import PRETRAIN, markdown_table, scores, write_run


@pytest.fixture
def sweep(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """3 train scales x 3 seeds of one method with both baselines; the folders' names sort otherwise than ts."""
    runs = []
    for i, (ts, accuracy) in enumerate([(100, 0.8), (5, 0.4), (20, 0.6)]):
        for seed in range(3):
            number = 3 * i + seed
            baselines = {"random_init": scores(0.2, number), "image_statistics": scores(0.3, 50 + number)}
            changes = scores(accuracy, 100 + number) | {"ts": ts, "seed": seed, "n_train": 3 * ts}
            runs.append(write_run(tmp_path / "runs" / str(number), **changes, baselines=baselines))
    return tmp_path / "runs", runs


@pytest.mark.parametrize("metric", ["oa", "aa", "kappa"])
def test_cells_are_mean_and_sample_std_over_seeds(sweep: tuple[Path, list[dict]], metric: str) -> None:
    folder, runs = sweep
    assert main([str(folder), "--metric", metric, "--no-figures"]) == 0
    table = markdown_table(folder)
    assert list(table) == ["simclr", "image statistics", "random init"]
    assert [h for h in table["simclr"] if h.startswith("ts=")] == ["ts=5", "ts=20", "ts=100"]
    for ts in (5, 20, 100):
        at_ts = [run for run in runs if run["ts"] == ts]
        for name, entries in {
            "simclr": at_ts,
            "random init": [run["baselines"]["random_init"] for run in at_ts],
            "image statistics": [run["baselines"]["image_statistics"] for run in at_ts],
        }.items():
            values = 100 * np.array([e[metric] for e in entries])
            text = f"{values.mean():.1f} ± {values.std(ddof=1):.1f} (3)"
            assert table[name][f"ts={ts}"] == (f"**{text}**" if name == "simclr" else text)
    assert table["simclr"]["Pre-training"] == "21.5 min"
    assert table["random init"]["Pre-training"] == "—"


def test_caption_says_what_was_measured(sweep: tuple[Path, list[dict]], capsys: pytest.CaptureFixture) -> None:
    folder, _ = sweep
    main([str(folder), "--no-figures"])
    printed = " ".join(capsys.readouterr().out.split())
    for expected in ("Overall accuracy", "over 3 seeds", "the test set chose nothing", "3 classes, 120 test images"):
        assert expected in printed
        assert expected in (folder / "report.md").read_text()
        assert expected in (folder / "report.tex").read_text()
    write_run(folder / "p", protocol="paper")
    main([str(folder), "--no-figures"])
    assert "the epoch was chosen on test images" in (folder / "report.md").read_text()


def test_csv_files_hold_every_number(sweep: tuple[Path, list[dict]]) -> None:
    folder, runs = sweep
    main([str(folder), "--no-figures"])
    lines = list(csv.DictReader(io.StringIO((folder / "report.csv").read_text())))
    assert len(lines) == 9 * 3 * 3  # runs x (own and two baselines) x metrics
    for run in runs:
        which = ("simclr", str(run["ts"]), str(run["seed"]))
        one = [x for x in lines if (x["method"], x["ts"], x["seed"]) == which]
        assert {x["metric"]: float(x["value"]) for x in one} == {m: run[m] for m in ("oa", "aa", "kappa")}
    for line in csv.DictReader(io.StringIO((folder / "report_summary.csv").read_text())):
        values = [
            float(x["value"]) for x in lines if all(x[k] == line[k] for k in ("method", "ts", "metric", "evaluate"))
        ]
        assert int(line["n"]) == len(values) == 3
        np.testing.assert_allclose([float(line["mean"]), float(line["std"])], [np.mean(values), np.std(values, ddof=1)])


def test_one_seed_has_no_std(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    main([str(tmp_path), "--no-figures"])
    assert markdown_table(tmp_path)["simclr"]["ts=5"] == f"**{100 * run['oa']:.1f} ± — (1)**"


def test_columns_increase_and_one_is_not_hundred_percent(tmp_path: Path) -> None:
    for i, ts in enumerate(["all", 1.0, 0.1, 20, 5, 1]):
        write_run(tmp_path / str(i), ts=ts)
    main([str(tmp_path), "--no-figures"])
    headings = list(markdown_table(tmp_path)["simclr"])
    assert headings[1:7] == ["ts=1", "ts=5", "ts=20", "ts=0.1", "ts=1.0", "ts=all"]


def test_rows_are_told_apart_by_what_differs_only(tmp_path: Path) -> None:
    write_run(tmp_path / "a", pretrain=PRETRAIN)
    write_run(tmp_path / "b", pretrain=PRETRAIN | {"dataset": "nwpu_resisc45", "artifact": "b" * 64})
    write_run(tmp_path / "c", ssl="jigsaw", pretrain=PRETRAIN | {"epochs": 40, "artifact": "c" * 64})
    write_run(tmp_path / "d", ssl="marta", pretrain=PRETRAIN | {"artifact": "d" * 64})
    write_run(tmp_path / "e", ssl="marta", pretrain=PRETRAIN | {"artifact": "e" * 64})
    write_run(tmp_path / "f", ssl="none", pretrain=None)
    write_run(tmp_path / "g", ssl="byol", pretrain=PRETRAIN)
    write_run(tmp_path / "h", ssl="byol", pretrain=PRETRAIN | {"images": 6000, "epochs": 40, "artifact": "h" * 64})
    main([str(tmp_path), "--no-figures"])
    assert set(markdown_table(tmp_path)) == {
        "simclr (on aid)",
        "simclr (on nwpu_resisc45)",
        "jigsaw",
        "marta (dddddddd)",
        "marta (eeeeeeee)",
        "none",
        "byol (600 images, 10 epochs)",
        "byol (6,000 images, 40 epochs)",
    }


def test_best_is_per_dataset_and_protocol(tmp_path: Path) -> None:
    for name, (dataset, protocol, oa) in {
        "weak": ("aid", "clean", 0.5),
        "strong": ("aid", "clean", 0.7),
        "peeking": ("aid", "paper", 0.9),
        "elsewhere": ("ucmerced", "clean", 0.4),
    }.items():
        write_run(tmp_path / name, ssl=name, dataset=dataset, protocol=protocol, **(scores(0.5, 1) | {"oa": oa}))
    main([str(tmp_path), "--no-figures"])
    bold = {name: row["ts=5"].startswith("**") for name, row in markdown_table(tmp_path).items()}
    assert bold == {"weak": False, "strong": True, "peeking": True, "elsewhere": True}


def test_newest_of_a_repeated_run_counts(tmp_path: Path) -> None:
    write_run(tmp_path / "a", finished=200.0, **(scores(0.5, 1) | {"oa": 0.75}))
    write_run(tmp_path / "z", finished=100.0, **(scores(0.5, 1) | {"oa": 0.25}))
    main([str(tmp_path), str(tmp_path / "a"), "--no-figures"])  # the same file met twice is no repetition
    assert markdown_table(tmp_path)["simclr"]["ts=5"] == "**75.0 ± — (1)**"
    report = (tmp_path / "report.md").read_text()
    assert "1 result repeated" in report
    assert "other settings" not in report
    write_run(tmp_path / "z", finished=100.0, config_hash="other")
    main([str(tmp_path), "--no-figures"])
    assert "with other settings" in (tmp_path / "report.md").read_text()


def test_equal_baselines_of_two_methods_are_one_row_without_a_note(tmp_path: Path) -> None:
    baselines = {"random_init": scores(0.2, 3)}
    write_run(tmp_path / "a", ssl="simclr", baselines=baselines)
    write_run(tmp_path / "b", ssl="jigsaw", baselines=baselines, evaluate="finetune")
    main([str(tmp_path), "--no-figures"])
    assert "repeated" not in (tmp_path / "report.md").read_text()
    text = (tmp_path / "report.md").read_text()
    assert len(re.findall(r"random init", text)) == 1  # judged by the linear probe beside a fine-tuned network too
    assert re.search(r"random init \| linear", text)


def test_different_splits_and_seeds_are_named(tmp_path: Path) -> None:
    write_run(tmp_path / "a", split_hash="1" * 16)
    write_run(tmp_path / "b", ssl="jigsaw", split_hash="2" * 16, seed=1)
    main([str(tmp_path), "--no-figures"])
    report = (tmp_path / "report.md").read_text()
    assert "not comparable" in report
    assert "11111111: simclr; 22222222: jigsaw" in report
    assert "different seeds" in report


def broken(text: str | None = None, **changes: Any) -> tuple[str | None, dict[str, Any]]:
    return text, changes


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (broken('{"oa": 0.5'), "is not JSON"),
        (broken("[1, 2]"), "holds no JSON object"),
        (broken('{"oa": 0.5, "ts": 5}'), "lacks dataset, ssl"),
        (broken('{"task": "pretrain"}'), "task=pretrain, which has no scores"),
        (broken(ts=0), "ts=0"),
        (broken(ts=1.5), "ts=1.5"),
        (broken(oa=71.0), "oa=71.0, outside 0..1"),
        (broken(seed="0"), "seed='0'"),
        (broken(confusion=[[1, 2]]), "not 3 x 3 counts"),
        (broken(n_classes=4), "n_classes=4"),
    ],
)
def test_bad_files_are_skipped(tmp_path: Path, case: tuple, expected: str, capsys: pytest.CaptureFixture) -> None:
    text, changes = case
    write_run(tmp_path / "good")
    write_run(tmp_path / "bad", **(scores(0.5, 1) | changes))
    if text is not None:
        (tmp_path / "bad" / "results.json").write_text(text)
    assert main([str(tmp_path), "--no-figures"]) == 0
    for output in (" ".join(capsys.readouterr().out.split()), (tmp_path / "report.md").read_text()):
        assert str(tmp_path / "bad" / "results.json") in output
        assert expected in output.replace("\\", "")
    assert list(markdown_table(tmp_path)) == ["simclr"]


def test_bad_baseline_is_left_out_alone(tmp_path: Path) -> None:
    write_run(tmp_path / "a", baselines={"random_init": {"oa": 0.2}, "image_statistics": scores(0.3, 1)})
    main([str(tmp_path), "--no-figures"])
    assert list(markdown_table(tmp_path)) == ["simclr", "image statistics"]
    assert "random_init lacks aa, kappa; left out" in (tmp_path / "report.md").read_text()


def test_nothing_found_says_what_to_type(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "0" / ".hydra").mkdir(parents=True)
    assert main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "no results" in error
    assert str(tmp_path / "0") in error  # the run that never finished
    assert "hydra.sweep.dir=runs/NAME" in error.splitlines()[-1], "the folder asked about may hold images"
    assert main([str(tmp_path / "absent")]) == 2
    assert "does not exist: type" in capsys.readouterr().err
    for arguments in ([], [str(tmp_path), "--metric", "f1"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2


def test_out_folder(sweep: tuple[Path, list[dict]], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, _ = sweep
    out = tmp_path / "new" / "folder"
    assert main([str(folder), "--out", str(out), "--no-figures"]) == 0
    assert {p.name for p in out.iterdir()} == {"report.md", "report.csv", "report_summary.csv", "report.tex"}
    assert not (folder / "report.md").exists()
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "report.tex")
    (tmp_path / "file").write_text("")
    assert main([str(folder), "--out", str(tmp_path / "file" / "x"), "--no-figures"]) == 2
    assert "type --out DIR" in capsys.readouterr().err


def test_latex_escapes_and_balances(tmp_path: Path) -> None:
    write_run(tmp_path / "a", ssl="50%_of {a}&b$c#d~e^f\\g", dataset="[x]*")
    write_run(tmp_path / "b", ssl="simclr", dataset="other")
    main([str(tmp_path), "--no-figures"])
    text = (tmp_path / "report.tex").read_text()
    escaped = r"50\%\_of \{a\}\&b\$c\#d\textasciitilde{}e\textasciicircum{}f\textbackslash{}g"
    assert escaped in text
    assert r"{[}x]{*}" in text  # a bracket or star after \\ would be read as its argument
    body = re.sub(r"\\[\\%_&$#{}]", "", text.split("\n", 1)[1])  # what is left has a meaning for LaTeX
    assert body.count("{") == body.count("}")
    assert body.count("$") % 2 == 0
    assert not set(body) & set("#~^±—")
    columns = re.search(r"\{@\{\}([lr]+)@\{\}\}", text)
    assert columns is not None
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert len(rows) == 3
    assert all(len(re.findall(r"(?<!\\)&", row)) == len(columns[1]) - 1 for row in rows)


def test_markdown_survives_pipes_in_names(tmp_path: Path) -> None:
    write_run(tmp_path / "a", ssl="a|b")
    main([str(tmp_path), "--no-figures"])
    assert "a\\|b" in markdown_table(tmp_path)


def has_colour(image: Image.Image, colour: str) -> bool:
    rgb = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return bool((np.asarray(image.convert("RGB")) == rgb).all(2).sum() > 50)


def test_figures(sweep: tuple[Path, list[dict]], capsys: pytest.CaptureFixture) -> None:
    folder, _ = sweep
    write_run(folder / "odd", dataset="my data/$x$", ts="all", ssl="jigsaw")
    assert main([str(folder)]) == 0
    names = ["label_efficiency.png", "confusion_eurosat_rgb.png", "confusion_my_data_x_.png"]
    assert [p.name for p in map(Path, capsys.readouterr().out.split()) if p.suffix == ".png"] == names
    for name in names:
        with Image.open(folder / name) as image:
            assert min(image.size) > 400
            assert name in (folder / "report.md").read_text()
            if name == "label_efficiency.png":
                shown = [c for c in figures.PALETTE if has_colour(image, c)]
                assert shown == list(figures.PALETTE[:2])  # a colour for each method ...
                assert has_colour(image, figures.GREYS[0][0])  # ... and grey for baselines


def test_confusion_is_the_best_methods_mean_over_seeds(sweep: tuple[Path, list[dict]]) -> None:
    folder, runs = sweep
    write_run(folder / "weak", ssl="weak", ts=100, n_train=300, **scores(0.3, 9))
    write_run(folder / "few", ssl="few", ts=5, **scores(1.0, 9))
    results = [r for path in find([folder])[0] for r in read(path)[0]]
    chosen = figures.best_at_largest(tables.build(results, "oa"), "eurosat_rgb")
    assert {(r.row.method, r.ts) for r in chosen} == {("simclr", "100")}
    expected = np.zeros((3, 3))
    for run in runs:
        if run["ts"] == 100:
            for i, row in enumerate(run["confusion"]):
                expected[i] += [100 * count / sum(row) / 3 for count in row]
    np.testing.assert_allclose(figures.mean_confusion(chosen), expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=12), st.floats(0.1, 9))
def test_line_names_do_not_overlap(wanted: list[float], gap: float) -> None:
    placed = figures.spread(wanted, gap)
    assert np.diff(np.sort(placed)).min(initial=gap) >= gap - 1e-6
    assert np.mean(placed) == pytest.approx(np.mean(wanted), abs=1e-6)
    order = np.argsort(wanted, kind="stable")
    assert (np.diff(np.asarray(placed)[order]) > 0).all()
    if np.diff(np.sort(wanted)).min(initial=gap) >= gap:
        assert placed == pytest.approx(wanted)


def test_imports_neither_torch_nor_pyplot(sweep: tuple[Path, list[dict]]) -> None:
    code = (
        "import sys; from rsssl.report.command import main\n"
        "light = not {'numpy', 'rich', 'matplotlib'} & set(sys.modules)\n"
        f"main([{str(sweep[0])!r}])\n"
        "print(light, {'torch', 'matplotlib.pyplot'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "True set()"
    assert run.stderr == ""


def test_piped_output_is_whole_in_any_encoding(sweep: tuple[Path, list[dict]]) -> None:
    folder, _ = sweep
    for i in range(12):
        write_run(folder / f"wide{i}", ts=200 + i)
    command = [sys.executable, "-m", "rsssl.report.command", str(folder), "--no-figures"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "40"}
    run = subprocess.run(command, capture_output=True, check=True, env=environment)
    header = next(line for line in run.stdout.decode("ascii").splitlines() if line.startswith("Method"))
    assert header.split()[1:] == [f"ts={ts}" for ts in (5, 20, 100, *range(200, 212))] + ["Pre-training"]
    assert b"+/-" in run.stdout


@pytest.mark.parametrize("later", ["auto", "linear"])
def test_a_run_of_its_own_counts_and_not_what_another_found_as_a_part(tmp_path: Path, later: str) -> None:
    part = {"oa": 0.1, "aa": 0.1, "kappa": 0.0}
    write_run(tmp_path / "a", evaluate="auto", parts={"linear": part}, finished=1e9 + 10 * (later == "auto"))
    own = write_run(tmp_path / "b", evaluate="linear", finished=1e9 + 5, **scores(0.9, 7))
    for seed in (1, 2):  # of these there is the part alone
        write_run(tmp_path / str(seed), evaluate="auto", seed=seed, parts={"linear": part})
    assert main([str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "repeated" not in text
    mean = 100 * np.mean([own["oa"], 0.1, 0.1])
    assert f"{mean:.1f}" in text
    assert (tmp_path / "label_efficiency.png").is_file()


def test_the_split_and_what_a_random_one_would_have_said_stand_in_the_caption(tmp_path: Path) -> None:
    write_run(tmp_path / "a", split="470 m apart", random_split={"oa": 0.99, "aa": 0.9, "kappa": 0.9}, **scores(0.6, 1))
    write_run(tmp_path / "b", seed=1, split="470 m apart", random_split={"oa": 0.97}, **scores(0.6, 2))
    assert main([str(tmp_path), "--no-figures"]) == 0
    text = " ".join((tmp_path / "report.md").read_text().split())
    assert "split 470 m apart." in text and "would have shown 98.0 on average where it shows" in text
