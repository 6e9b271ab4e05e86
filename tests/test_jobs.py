"""What goes wrong while a job runs is a sentence where the user can put it right, and a stack trace where not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

import rsssl.run
from rsssl.errors import UserError
from rsssl.jobs import started
from rsssl.networks.training import FEATURES, refuse_too_large

ADAMW = {"_target_": "rsssl.optim.AdamW", "_convert_": "all", "lr": 1e-3, "weight_decay": 0.0, "betas": [0.9, 0.999]}


class Job:
    """A task that does this."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work

    def run(self, run: Any) -> Any:
        return self.work()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"betas": [1]}, "AdamW: .*: type other values for its keys"),
        ({"betas": [2.0, 0.5]}, "Invalid beta parameter"),
        ({"foo": 3}, "unexpected keyword argument 'foo': write its arguments into the YAML"),
    ],
)
def test_values_that_a_constructor_does_not_take_are_told(changes: dict[str, Any], expected: str) -> None:
    params = [torch.nn.Parameter(torch.zeros(1))]
    with pytest.raises(UserError, match=expected):
        started(Job(lambda: instantiate(ADAMW | {"eps": 1e-8} | changes, params=params)), None)  # type: ignore[arg-type]


def test_an_error_in_a_users_own_constructor_keeps_its_stack_trace() -> None:
    node = {"_target_": "fractions.Fraction", "_args_": [1, 0]}
    with pytest.raises(InstantiationException) as error:
        started(Job(lambda: instantiate(node)), None)  # type: ignore[arg-type]
    assert isinstance(error.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("make", [np.empty, torch.empty])
def test_memory_that_is_not_there_is_told(make: Callable[[int], Any]) -> None:
    with pytest.raises(UserError, match=r"there is not enough memory \(.*type smaller numbers for sizes"):
        started(Job(lambda: make(1 << 58)), None)  # type: ignore[arg-type]


def test_another_error_is_no_users_error() -> None:
    with pytest.raises(RuntimeError, match="broken"):
        started(Job(lambda: exec("raise RuntimeError('broken')")), None)  # type: ignore[arg-type]


def test_an_image_that_does_not_fit_into_memory_is_refused_before_it_is_made() -> None:
    refuse_too_large(224, 13, "image_size")
    with pytest.raises(
        UserError, match=rf"takes {4 * 1e12 * (3 + FEATURES) / 1e9:,.1f} GB.*type for example image_size="
    ):
        refuse_too_large(1_000_000, 3, "image_size")


def test_what_the_system_says_of_a_file_names_the_one_that_was_meant(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for work, name in (
        (lambda: os.replace(tmp_path / "file", tmp_path / "folder"), "folder: Is a directory"),
        (lambda: (tmp_path / "file").mkdir(), "file: File exists"),
        (lambda: (tmp_path / ("x" * 300)).read_text(), "x: File name too long"),
        (lambda: (tmp_path / "file" / "x").read_text(), "x cannot be written (Not a directory)"),
    ):
        with pytest.raises(OSError) as error:
            work()  # type: ignore[no-untyped-call]
        said = rsssl.run.of_the_system(error.value)  # type: ignore[attr-defined]
        assert isinstance(said, UserError) and name in str(said) and "type " in str(said)


@pytest.mark.skipif(os.geteuid() == 0, reason="this user may read anything")
def test_a_file_that_cannot_be_read_is_not_said_to_be_unwritable(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("")
    (tmp_path / "secret").chmod(0)
    with pytest.raises(PermissionError) as error:
        (tmp_path / "secret").read_text()
    assert "secret cannot be read" in str(rsssl.run.of_the_system(error.value))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--foo"], "--foo is not a flag: type foo=VALUE, or rsssl-run --help"),
        (["-0.5"], "-0.5 is not a flag"),
        (["--multi", "ts=1,2"], "--multi is not a flag"),
        (["--config-name=nope"], "Type rsssl-run --help for the groups, keys and flags"),
    ],
)
def test_flags_that_are_none_are_told(
    arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refused(*arguments)
