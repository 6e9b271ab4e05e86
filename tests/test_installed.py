"""The package as others install it, away from its repository, and on a machine without a network."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

import rsssl

REPOSITORY = Path(__file__).resolve().parents[1]
BUILD = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip puts into site-packages: the wheel that the build makes of a copy of the sources, unpacked."""
    pytest.importorskip("setuptools")
    place = tmp_path_factory.mktemp("installed")
    for name in ("rsssl", "conf"):
        shutil.copytree(REPOSITORY / name, place / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, place / "source")
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(place)], cwd=place / "source", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place / "site")
    return place / "site"


def python(installed: Path, cwd: Path, *arguments: str) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "RSSSL"))}
    env |= {"PYTHONPATH": str(installed), "NUMBA_DISABLE_JIT": "1"}  # nothing is rendered here: no need to compile
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_installed_command_finds_its_configs_anywhere(installed: Path, tmp_path: Path) -> None:
    (record,) = installed.glob("rsssl-*.dist-info")
    assert f"Version: {rsssl.__version__}\n" in (record / "METADATA").read_text()
    scripts = configparser.ConfigParser()
    scripts.read(record / "entry_points.txt")
    assert dict(scripts["console_scripts"]) == {
        "rsssl-run": "rsssl.run:main",
        "rsssl-report": "rsssl.report.command:main",
    }
    script = (
        "import sys, rsssl.run as r; assert r.__file__.startswith(sys.argv.pop(1)); sys.argv[0] = 'rsssl-run'; r.main()"
    )
    where = str(installed)
    assert python(installed, tmp_path, "-c", script, where, "--version").strip() == f"rsssl {rsssl.__version__}"
    text = python(installed, tmp_path, "-c", script, where, "dataset=aid", "experiment=published/byol", "--cfg", "job")
    cfg = yaml.safe_load(text)
    assert cfg["ssl"]["_target_"] == "rsssl.methods.byol.BYOL" and cfg["dataset"]["name"] == "aid"
    for folder, pattern in (("conf", "*.yaml"), ("rsssl", "*.py"), ("rsssl", "*.css"), ("rsssl", "*.js")):
        here = {p.relative_to(REPOSITORY / folder): p.read_bytes() for p in (REPOSITORY / folder).rglob(pattern)}
        root = installed / ("rsssl/conf" if folder == "conf" else "rsssl")
        there = {
            p.relative_to(root): p.read_bytes()
            for p in root.rglob(pattern)
            if folder == "conf" or "conf" not in p.parts
        }
        assert here == there, f"{folder}/{pattern} is not what was installed"


IMPORTS = """
import importlib, pkgutil, socket, sys, warnings

class Offline(Exception):
    pass

def refuse(*args, **kwargs):
    print("NETWORK", args)  # whoever swallows the error is seen all the same
    raise Offline(f"the network is asked for: {args}")

def hook(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request"):
        refuse(event, args)

socket.getaddrinfo = socket.create_connection = refuse
sys.addaudithook(hook)
warnings.simplefilter("ignore")
import rsssl
names = [m.name for m in pkgutil.walk_packages(rsssl.__path__, "rsssl.")]
for name in names:
    importlib.import_module(name)
from rsssl.models.backbone import build_backbone
build_backbone("resnet10t", 3)
print(len(names), "torch" in sys.modules, "timm" in sys.modules)
"""


def test_nothing_asks_for_the_network_at_import(installed: Path, tmp_path: Path) -> None:
    """Every module, in one process where a look-up or a connection is an error; and a network with random weights."""
    said = python(installed, tmp_path, "-c", IMPORTS).splitlines()
    n, *heavy = said[-1].split()
    assert "NETWORK" not in "".join(said) and int(n) > 60 and heavy == ["True", "True"]
