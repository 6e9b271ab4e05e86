"""What setup.cfg installs is what the repository holds."""

from __future__ import annotations

import configparser
import importlib
import re
from importlib import resources
from pathlib import Path

import yaml

import rsssl

ROOT = Path(__file__).resolve().parents[1]


def _setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_every_package_is_listed() -> None:
    listed = set(_setup()["options"]["packages"].split()) - {"#"}
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in ROOT.glob("rsssl/**/__init__.py")}
    assert listed == found | {"rsssl.conf"}


def test_configs_are_found_as_the_package_rsssl_conf() -> None:
    conf = resources.files("rsssl.conf")
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert conf.joinpath(path.relative_to(ROOT / "conf").as_posix()).read_text() == path.read_text()


def test_console_scripts_exist() -> None:
    scripts = _setup()["options.entry_points"]["console_scripts"].strip().splitlines()
    targets = [line.split("=")[1].strip().split(":") for line in scripts]
    assert [line.split("=")[0].strip() for line in scripts] == ["rsssl-run", "rsssl-report"]
    assert all(callable(getattr(importlib.import_module(module), function)) for module, function in targets)


def test_the_workflow_of_others_calls_what_is_there() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert set(workflow["jobs"]) == {"lint", "tests", "oldest", "docs", "wheel", "audit"}
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    targets = re.findall(r"^make (\w+)$", "\n".join(steps), re.M)
    made = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    assert sorted(targets) == ["docs", "install", "lint", "oldest"] and set(targets) <= set(made)
    tried = workflow["jobs"]["tests"]["strategy"]["matrix"]["python"]
    assert f"python_requires = >={tried[0]}" in (ROOT / "setup.cfg").read_text()


def test_every_package_that_is_needed_has_a_lower_bound() -> None:
    lines = (ROOT / "setup.cfg").read_text().partition("install_requires =\n")[2].partition("\n\n")[0].splitlines()
    assert len(lines) > 10 and [line for line in lines if ">=" not in line] == []


def test_conda_has_the_bounds_of_pip() -> None:
    """And each package that pip would bring, but for the weights, which conda-forge lacks."""
    lines = (ROOT / "setup.cfg").read_text().partition("install_requires =\n")[2].partition("\n\n")[0].split()
    wanted = dict(line.split(">=") for line in lines)
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    names = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
    listed = [line.split(">=") for line in environment if isinstance(line, str) and ">=" in line]
    found = {names.get(name, name): bound for name, bound in listed if name != "gdal"}
    assert found == {name: bound for name, bound in wanted.items() if not name.startswith("efficientnet")}


def test_one_version_everywhere() -> None:
    version = rsssl.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert f"## {version} " in (ROOT / "CHANGELOG.md").read_text()
