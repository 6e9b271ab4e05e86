"""The command line: what composes, what is refused, how fast, and that the suggestion is the right one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rsssl.compose import Composer, composed, precheck
from rsssl.engine import tracking
from rsssl.errors import UserError, hydra_text
from rsssl.explain import parsed
from rsssl.groups import GROUPS
from rsssl.run import help_text, split_arguments

REPOSITORY = Path(__file__).resolve().parents[1]
EVERY = [
    (g, p.relative_to(REPOSITORY / "conf" / g).with_suffix("").as_posix())
    for g in GROUPS
    for p in sorted((REPOSITORY / "conf" / g).rglob("*.yaml"))
]


@pytest.mark.parametrize(("group", "option"), EVERY, ids=[f"{g}={o}" for g, o in EVERY])
def test_every_option_composes_and_its_file_is_short(group: str, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda package: "installed")
    more = {"dataset": ["dataset.root=somewhere"], "task": ["ssl=none"] if option in ("evaluate",) else []}
    with Composer() as composer:
        composed(composer, [f"{group}={option}", *more.get(group, [])])
    text = (REPOSITORY / "conf" / group / f"{option}.yaml").read_text()
    assert text.startswith("#"), "the first line says what the file is"
    assert len(text.splitlines()) <= (24 if group in ("experiment", "start", "task") else 20)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("datset=aid", "Type dataset=aid"),
        ("dataset=aidd", "Type dataset=aid"),
        ("dataset.rot=/data", "Type dataset.root=/data"),
        ("pretrain.epoch=3", "Type pretrain.epochs=3"),
        ("ssl.varience=20", "Type ssl.variance=20"),
        ("ssl=simclrr", "Type ssl=simclr"),
        ("optimizer=adamW2", "Type optimizer=adamw"),
        ("pretrain.epochs=many", "pretrain.epochs=many"),
        ("ssl.variance=hot", "a number"),
        ("ssl.views=2.5", "a whole number"),
        ("tta=perhaps", "tta=perhaps"),
        ("ts=0", "ts=5"),
        ("ts=1.5", "ts=0.1"),
        ("ts=5,20", "--multirun ts=5,20"),
        ("protocol=dirty", "protocol=clean"),
        ("compile=fast", "compile=default"),
        ("pretrain.batch_size=0", "pretrain.batch_size=1"),
        ("dataset.on_error=ignore", "dataset.on_error=skip"),
        ("dataset.test_fraction=1.5", "dataset.test_fraction=0.2"),
        ("pretrain.progressive=[[0.8]]", "pretrain.progressive='[[0.8,0.5]]'"),
        ("pretrain.progressive=[[0.8,0.5],[0.5,1]]", "shares must rise"),
        ("pretrain.dataset=nwpu", "nwpu_resisc45"),
        ("finetune.augment=d5", "d4"),
        ("experiment=paper/simclrr", "paper/simclr"),
        # Options that are no names, and groups and keys that are left out.
        ("evaluate=5", "Type evaluate=auto"),
        ("evaluate=[null]", "Did you mean this? Type evaluate="),
        ("ssl=0", "ssl has barlow_twins"),
        ("tracker=true", "Type tracker=csv"),
        ("dataset=[0,inf]", "Type dataset="),
        ("~task=0.2", "task cannot be left out: type task="),
        ("~backbone.name", "backbone.name= cannot be left out: type backbone="),
        ("~backbone.depths", "backbone.depths= cannot be left out: type backbone="),
        ("~backbone.checkpointing", "backbone.checkpointing= cannot be left out: type backbone="),
        ("~optimizer.lr", "optimizer.lr= cannot be left out: type optimizer=adamw"),
        ("task._target_=false", "names no class"),
        ("task._target_=os.system", "write @dataclass above the class"),
        # Values that nothing could be made of.
        ("pretrain.lr=???", "type pretrain.lr=null"),
        ("pretrain.lr=${nope}", "type pretrain.lr="),
        ("pretrain.lr=nan", "type pretrain.lr=null"),
        ("seed=99999999999999999999999", "type seed=0"),
        ("seed=-1", "type seed=0"),
        ("ssl.views=null", "type for example ssl.views=4"),
        ("ssl.hidden=0", "type for example ssl.hidden=1"),
        ("optimizer.betas=[a,b]", "type for example optimizer.betas=[0.9,0.999]"),
        ("backbone.kwargs=5", "a group of keys"),
        ("pretrain=5", "a group of keys"),
        ("pretrain.dataset=0.5", "type pretrain.dataset=NAME"),
        ("pretrain.root=1", "type pretrain.root=NAME"),
        ("pretrain.images=1", "type pretrain.images=1000"),
        ("dataset.valid_range=5", "type for example dataset.valid_range=[0,10000]"),
        ("dataset.valid_range=[0,inf]", "not a number to compute with"),
        ("dataset.valid_range=[[0,1],[3,2]]", "type for example dataset.valid_range=[0,10000]"),
        ("workers=2.5", "type for example workers=2"),
        ("device=meta", "type device=auto"),
        # Text that reads as a number, which is another text then: 2024.10 and 2024.1 are two folders.
        (
            "dataset.root=2024.10",
            "was read as a number, 2024.1: put it between quotes, type 'dataset.root=\"2024.10\"'",
        ),
        ("dataset.root=2024_10", "type 'dataset.root=\"2024_10\"'"),
        ("dataset.root=1e5", "type 'dataset.root=\"1e5\"'"),
        ("dataset.root=true", "was read as true or false, True"),
        ("dataset.root=nan", "text between quotes"),
        ("dataset.classes=[roads, 1.50]", "type 'dataset.classes=[roads,\"1.50\"]'"),
        ("hydra.run.dir=2024.10", "type 'hydra.run.dir=\"2024.10\"'"),
        ("compile=true", "type compile=default"),
    ],
)
def test_a_wrong_override_is_refused_with_what_was_meant(override: str, expected: str) -> None:
    with Composer() as composer, pytest.raises(UserError) as error:
        composed(composer, [override])
    assert expected in str(error.value)
    assert override.split("=")[0].split(".")[-1] in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["dataset.gsd=0.6"],  # its default is a whole number, its field takes any
        ["dataset.nodata=nan"],
        ["evaluate=finetune", "evaluate.rank=null"],  # the class takes it, the default is a number
        ["evaluate=linear", "evaluate.default_strength=0.5"],
        ["schedule=polyline", "schedule.points=[[0,1],[0.3,0.7],[1,0]]"],
        ["augment.operations.crop=null"],
        ["~augment.operations.crop"],
        ["hydra.run.dir=2020"],
        ["dataset.root=2024"],
        ["dataset.root=0.5"],
        ["dataset.root='2024.10'", "dataset.classes=[roads,'1.50']", "hydra.run.dir='2024.10'"],
    ],
)
def test_a_value_that_only_looks_wrong_composes(overrides: list[str]) -> None:
    precheck(overrides, None, multirun=False, start=False)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["hydra.run.dir=setup.cfg/run"], "setup.cfg is a file"),
        (["hydra.sweep.dir=[]"], "type hydra.sweep.dir=runs/mine"),
    ],
)
def test_a_run_folder_that_cannot_be_made_is_refused(
    overrides: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(UserError, match=expected):
        precheck(overrides, None, multirun=False, start=False)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["~device"], "type device=auto"),
        (["+backbone.kwargs.depth=1", "~dataset.generate.bands=folder"], "~dataset.generate.bands=folder: Could not"),
        (["backbone.pretrained=true"], "type start=imagenet"),
        (["start=file", "start.file=2024.10"], "start.file: a name was read as 2024.1: put it between quotes"),
        (["ssl=distil", "ssl.teacher=2024.10"], "ssl.teacher: a name was read as 2024.1: put it between quotes"),
        (["task=suggest", "suggest.labelled=1.50"], "type 'suggest.labelled=\"1.50\"'"),
        (["task=pack", "dataset=scene", "dataset.scenes=[2024.10,b.tif]"], "dataset.scenes: a name was read as 2024.1"),
        (["task=store", "remove=3e26412"], "or text between quotes: 'remove=\"TEXT\"'"),
        (["task=store", "keep=[1.50,pack]"], "keep: a name was read as 1.5"),
        (["backbone.weights=x.pth"], "type start=file start.file=x.pth"),
        (["dataset=eurosat_ms", "dataset.select=[B04,B99]"], "B99"),
        (["dataset=eurosat_ms", "pretrain.dataset=eurosat_rgb"], "bands"),
        (["backbone.name=swin_tiny_patch4_window7_224", "pretrain.progressive=[[0.5,0.5]]"], "pretrain.progressive=[]"),
    ],
)
def test_an_impossible_pair_is_refused(overrides: list[str], expected: str) -> None:
    with Composer() as composer, pytest.raises(UserError, match=expected.replace("[", r"\[")):
        composed(composer, overrides)


def test_every_value_of_a_sweep_is_checked_before_the_first_job() -> None:
    precheck(["ts=5,20", "seed=0,1,2"], None, multirun=True, start=False)
    with pytest.raises(UserError, match="ts=0"):
        precheck(["ts=5,20,0", "seed=0,1"], None, multirun=True, start=False)
    with pytest.raises(UserError, match="dataset=aid"):
        precheck(["dataset=synthetic,aidd"], None, multirun=True, start=False)
    with pytest.raises(UserError, match=r"2024\.10 was read as a number, 2024\.1"):
        precheck(["dataset.root=2023.1,2024.10"], None, multirun=True, start=False)
    precheck(["dataset.root='2023.1','2024.10'", "pretrain.lr=1e-3,1e-4"], None, multirun=True, start=False)


def test_a_users_own_folder_of_configs_joins_the_groups(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "augment").mkdir()
    own = {"_target_": "rsssl.data.dataset.Dataset", "name": "mine", "root": str(tmp_path), "bands": ["pan"]}
    (tmp_path / "dataset" / "mine.yaml").write_text(yaml.safe_dump(own))
    (tmp_path / "augment" / "mine.yaml").write_text((REPOSITORY / "conf/augment/d4.yaml").read_text())
    with Composer(tmp_path) as composer:
        cfg = composed(composer, ["dataset=mine", "augment=mine", "ssl=simclr"])
        assert cfg.dataset.bands == ["pan"]
        with pytest.raises(UserError, match="Type dataset=mine"):
            composed(composer, ["dataset=mien"])


def test_text_in_a_yaml_that_reads_as_a_number_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    for name, root in (("mine", "2024.10"), ("yours", "'2024.10'")):
        lines = ["_target_: rsssl.data.dataset.Dataset", f"name: {name}", f"root: {root}"]
        (tmp_path / "dataset" / f"{name}.yaml").write_text("\n".join(lines))
    with Composer(tmp_path) as composer:
        assert composed(composer, ["dataset=yours"]).dataset.root == "2024.10"
        composed(composer, ["dataset=mine", "dataset.root=0.5"])
        with pytest.raises(UserError, match=r"dataset\.root takes text.* in the YAML file .* 2024\.1: put it between"):
            composed(composer, ["dataset=mine"])


@pytest.mark.parametrize(
    "text",
    ["2024", "2024.10", "2024_10", "1e5", ".5", "5.", "-0", "007", "+1", "NaN", "true", "null", "inf", ".", "1.2.3"],
)
def test_a_text_of_python_is_the_same_text_to_hydra(text: str) -> None:
    (override,) = parsed([f"dataset.root={hydra_text(text)}"])
    assert str(override.value()) == text
    (override,) = parsed([f"dataset.classes=[{hydra_text(text)}]"])
    assert [str(one) for one in override.value()] == [text]


def test_a_class_named_by_its_room_is_answered_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "ssl").mkdir()
    (tmp_path / "ssl" / "mine.yaml").write_text("_target_: rsssl.methods.SimCLR\nviews: 2\n")
    with (
        Composer(tmp_path) as composer,
        pytest.raises(UserError, match=r"type _target_: rsssl\.methods\.simclr\.SimCLR"),
    ):
        composed(composer, ["ssl=mine"])


def test_arguments_are_told_from_flags() -> None:
    overrides, flags = split_arguments(["-m", "ts=5,20", "--config-dir", "my", "--cfg=job", "seed=0"])
    assert overrides == ["ts=5,20", "seed=0"]
    assert flags == {"-m": "", "--config-dir": "my", "--cfg": "job"}


def test_the_help_names_every_group_and_option() -> None:
    text = help_text()
    for group, option in EVERY:
        assert option in text, f"{group}={option}"


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "rsssl.run", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--cfg", "job"], ["--version"], ["datset=aid"], ["dataset=aid", "ts=-1"]]
)
def test_light_commands_do_not_import_torch(arguments: list[str], tmp_path: Path) -> None:
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == (2 if arguments[0].startswith("d") else 0), done.stderr[-2000:]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "rsssl.run" in done.stderr or "rsssl" in imported
    assert not {"torch", "numpy", "timm", "torchvision", "PIL"} & imported
    if arguments == ["--cfg", "job"]:
        assert yaml.safe_load(done.stdout)["dataset"]["name"] == "synthetic"


def test_nothing_typed_shows_the_short_help_and_a_reader_may_leave(tmp_path: Path) -> None:
    done = command(cwd=tmp_path)
    assert done.returncode == 0 and "task=map" in done.stdout and "Type rsssl-run --help" in done.stdout
    assert len(done.stdout.splitlines()) < 15 and list(tmp_path.iterdir()) == []
    shell = f"{sys.executable} -m rsssl.run --help | (exec <&-; sleep 1)"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    gone = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=environment, check=False)
    assert gone.stderr == ""


def test_multirun_under_torchrun_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = command("--multirun", "ts=5,20", cwd=tmp_path)
    assert done.returncode == 2 and "without torchrun" in done.stderr


def test_a_composer_inside_another_leaves_it_as_it_was() -> None:
    with Composer() as outer:
        with Composer() as inner:
            assert inner.compose(["ts=5"]).ts == 5
        assert outer.compose(["ts=20"]).ts == 20
