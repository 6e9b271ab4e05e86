"""Mistakes in a user's own YAML and Python files are told before anything is read, with the file and what to write."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from rsssl.compose import Composer, composed
from rsssl.errors import UserError
from rsssl.networks.training import make_method

METHOD = """
from rsssl.methods.base import Method

class Mine(Method):
    pass

class Other:
    pass
"""
TASK = """
from dataclasses import dataclass

@dataclass
class Count:
    folder: str
    at_least: int

    def run(self, run):
        return {}

class NoTask:
    pass
"""
HEADER = "# @package _global_\n"
COUNT = HEADER + "task: {_target_: own_task.Count}\nfolder: ???\nat_least: 1\n"


@pytest.fixture
def my(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of own files, known to Python as --config-dir makes it known."""
    for name, text in (("own_method", METHOD), ("own_task", TASK), ("own_syntax", "x = 1\ndef f(:\n")):
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "own_import.py").write_text("import sys\nimport no_such_thing\n")
    (tmp_path / "own_name.py").write_text("import sys\n\nfrom rsssl.batch import Bach\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def said(my: Path, override: str, text: str | bytes | None, *more: str) -> str:
    """What is said of an option whose file in my/ holds that text."""
    group, _, name = override.partition("=")
    if text is not None:
        (my / group).mkdir(exist_ok=True)
        file = my / group / f"{name}.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as error, Composer(my) as composer:
        composed(composer, [override, *more])
    return str(error.value).replace(f"{my}/", "")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("own_method.Mnie", "own_method.py has no Mnie: write _target_: own_method.Mine"),
        ("own_mehod.Mine", "there is no Python file own_mehod.py"),
        ("own_mehod.Mine", "write _target_: own_method.Mine"),
        ("Mine", "there is no Python file Mine.py"),
        ("own_method.Other", "is not a method: type from rsssl.methods.base import Method into its file"),
        ("own_syntax.Mine", "own_syntax.py, line 2: SyntaxError"),
        ("own_import.Mine", "own_import.py, line 2: ModuleNotFoundError: No module named 'no_such_thing'"),
        ("own_import.Mine", "type pip install no_such_thing"),
        ("own_name.Mine", "own_name.py, line 3: ImportError: cannot import name 'Bach'"),
        ("rsssl.methods.simclr.SimCRL", "type _target_: rsssl.methods.simclr.SimCLR"),
        ("rsssl.methods.SimCLR", "type _target_: rsssl.methods.simclr.SimCLR"),
        ("rsssl.mehods.simclr.SimCLR", "type _target_: rsssl.methods.simclr.SimCLR"),
    ],
)
def test_a_target_that_is_none_is_answered_with_the_nearest(my: Path, target: str, expected: str) -> None:
    message = said(my, "ssl=mine", f"_target_: {target}\nviews: 2\n")
    assert expected in message and (target in message or ".py, line" in message)


def test_a_target_deep_in_a_policy_is_looked_at_and_a_class_method_is_one(my: Path) -> None:
    crop = "_target_: rsssl.augment.Views\noperations: {{crop: {{_target_: {}}}}}\n"
    message = said(my, "augment=mine", crop.format("rsssl.augment.RandomAreaCorp"))
    assert message.startswith("augment.operations.crop._target_=") and message.endswith(".RandomAreaCrop")
    (my / "augment" / "mine.yaml").write_text(crop.format("own_method.Other.mro"))
    with Composer(my) as composer:
        composed(composer, ["augment=mine"])


@pytest.mark.parametrize(
    ("override", "text", "expected"),
    [
        ("ssl=mine", "_target_: x\nscale: [1.0\n", "ssl/mine.yaml, line 2, is not YAML"),
        ("ssl=mine", "_target_: x\n  scale: 1.0\n", "ssl/mine.yaml, line 2, is not YAML"),
        ("ssl=mine", b"caf\xe9: 1\n", "ssl/mine.yaml is not YAML in UTF-8"),
        ("ssl=mine", "- views\n", "ssl/mine.yaml holds a list and no keys: write key: value lines"),
        ("ssl=mine", "views: 2\n", "ssl/mine.yaml names no class: write _target_: my_file.MyClass into it"),
        ("ssl=mine", "", "ssl/mine.yaml names no class"),
        ("ssl=mine", HEADER + "_target_: own_method.Mine\n", "into it below ssl:, or leave its first line out"),
        ("ssl=mine", "ssl: {_target_: own_method.Mine}\n", "write # @package _global_ as the first"),
        ("ssl=mine", f"# mine\n{HEADER}ssl: {{}}\n", "write # @package _global_ as the first"),
        ("schedule=mine", "warmup: 2\n", "schedule/mine.yaml names no class"),
        (
            "dataset=mine",
            "name: a\nclasess: [b]\n",
            "clasess is not a key of a dataset. Did you mean this? Write class",
        ),
        ("dataset=mine", "root: a\n", "write name: mine into it"),
        ("task=mine", COUNT.removeprefix(HEADER), "write # @package _global_ as the first"),
        ("task=mine", HEADER + "folder: ???\n", "write task: {_target_: my_file.MyClass} into it"),
        ("task=mine", COUNT.replace("at_least: 1\n", ""), "task/mine.yaml has no at_least, a field of own_task.Count"),
        ("task=mine", COUNT + "at_most: 3\n", "at_most is not a field of own_task.Count: write at_most: and its type"),
        ("task=mine", COUNT + "mine: {most: 3}\n", "most is not a field of own_task.Count"),
        ("task=mine", COUNT.replace("Count", "NoTask"), "own_task.NoTask is not a task: write @dataclass above"),
        ("experiment=mine", "ts: 5\n", "write # @package _global_ as the first"),
    ],
)
def test_a_wrong_file_is_named_with_what_to_write(my: Path, override: str, text: str | bytes, expected: str) -> None:
    message = said(my, override, text)
    assert expected in message and message.startswith(f"{override.replace('=', '/')}.yaml")


def test_files_that_are_not_typed_are_looked_at_too(my: Path) -> None:
    """Those that a typed one starts from, and those that a key names."""
    wrong = "name: a\nclasess: [b]\n"
    (my / "augment").mkdir()
    (my / "augment" / "broken.yaml").write_text("a: [\n")
    start = HEADER + "defaults:\n  - override /augment: broken\nssl: {_target_: own_method.Mine, views: 2}\n"
    assert said(my, "ssl=mine", start).startswith("augment/broken.yaml, line 1,")
    said(my, "dataset=mine", wrong)
    assert said(my, "pretrain.dataset=mine", None).startswith("dataset/mine.yaml: clasess")


def test_right_files_compose(my: Path) -> None:
    """A task without `check`, its keys in a group of its name, and files that start from ours."""
    files = {
        "task/mine.yaml": COUNT,
        "task/other.yaml": HEADER
        + "task: {_target_: own_task.Count}\nother: {folder: '???', at_least: 1}\ndevice: cpu\n",
        "dataset/mine.yaml": "defaults: [folder]\nsize: 8\n",
        "ssl/mine.yaml": "defaults: [simclr]\nviews: 3\n",
    }
    for name, text in files.items():
        (my / name).parent.mkdir(exist_ok=True)
        (my / name).write_text(text)
    with Composer(my) as composer:
        assert composed(composer, ["task=mine"]).at_least == 1
        assert composed(composer, ["task=other", "other.at_least=3"]).other.at_least == 3
        cfg = composed(composer, ["dataset=mine", "ssl=mine"])
        assert cfg.dataset.size == 8 and cfg.ssl.views == 3
        for task, key in (("mine", "folder"), ("other", "other.folder")):
            with pytest.raises(UserError, match=f"task={task} needs {key}=: type for example {key}=VALUE"):
                composed(composer, [f"task={task}"], needed=True)


@pytest.mark.parametrize("name", ["nan", "2024", "true"])
def test_a_name_that_hydra_reads_as_a_value_is_typed_in_quotes(my: Path, name: str) -> None:
    text = "_target_: own_method.Mine\nviews: 2\n"
    assert said(my, f"ssl={name}", text).endswith(f"""give the file another name, or type ssl='"{name}"'""")
    with Composer(my) as composer:
        assert composed(composer, [f'ssl="{name}"']).ssl.views == 2


def test_a_number_that_names_nothing_is_refused(my: Path) -> None:
    assert said(my, "ssl=7", None).startswith("ssl=7 is unknown")
    assert said(my, "ssl=null", None).endswith("Type ssl=none")


def test_a_file_called_like_a_built_in_one_is_refused(my: Path) -> None:
    message = said(my, "ssl=simclr", "_target_: own_method.Mine\nviews: 2\n")
    assert message.startswith("ssl/simclr.yaml has the name of the built-in ssl=simclr")
    assert message.endswith("call it something else, for example simclr_mine.yaml, and type ssl=simclr_mine")


def test_a_broken_task_does_not_hide_what_was_mistyped(my: Path) -> None:
    (my / "task").mkdir()
    (my / "task" / "broken.yaml").write_text("a: [\n")
    assert said(my, "scene=scene.tif", None).startswith("scene= belongs to task=map")


class Early(nn.Module):
    """Sets a module before it has been made one."""

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone


class Late(nn.Module):
    """Is a module, but no method."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()


@pytest.mark.parametrize("cls", [Early, Late])
def test_a_class_that_did_not_become_a_method_says_how_it_does(cls: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "own_classes", sys.modules[__name__])
    with pytest.raises(UserError, match=rf"{cls.__name__}\(Method\), and begin its __init__ with super\(\).__init__\("):
        make_method({"_target_": f"own_classes.{cls.__name__}"}, torch.nn.Identity())
