"""Which of Hydra's launchers and folders a command may ask for, checked before anything starts."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher

from rsssl.errors import UserError, nearest

# Which of Hydra's plugins a launcher needs; our own two and those that the plugins bring.
LAUNCHERS = {
    "joblib": "JoblibLauncher",
    "slurm": "SlurmLauncher",
    "submitit_slurm": "SlurmLauncher",
    "submitit_local": "LocalLauncher",
}


def check_folders(overrides: list[Override]) -> None:
    """A run folder that is typed can be made."""
    for override in overrides:
        key, value = override.key_or_group, override.value()
        if key not in ("hydra.run.dir", "hydra.sweep.dir") or override.is_sweep_override():
            continue
        if not isinstance(value, str | int | float) or value in ("", "???"):
            raise UserError(f"{override.input_line} is not a folder: type {key}=runs/mine")
        for path in (Path(str(value)), *Path(str(value)).parents):
            if path.exists() and not path.is_dir():
                raise UserError(f"{override.input_line}: {path} is a file: type {key}= with another folder")


def check_launcher(overrides: list[Override], ours: Sequence[str], multirun: bool, start: bool) -> None:
    """The launcher that is asked for exists and is installed; when it is to `start`, it has a sweep, and SLURM, to
    launch."""
    for override in overrides:
        name = override.value()
        if override.key_or_group != "hydra/launcher" or not isinstance(name, str):
            continue
        installed = {plugin.__name__ for plugin in Plugins.instance().discover(Launcher)}
        if LAUNCHERS.get(name, "BasicLauncher") not in installed:
            raise UserError(
                f"hydra/launcher={name} needs a package that is not installed: type pip install 'rsssl[sweep]'"
            )
        stored = GlobalHydra.instance().config_loader().get_group_options("hydra/launcher")
        known = sorted({*stored, *ours} - {"joblib_plugin"})
        if name not in known:
            meant = nearest(name, known) or "joblib"
            raise UserError(
                f"hydra/launcher={name} is unknown; there are {', '.join(known)}. Did you mean this? Type "
                f"hydra/launcher={meant}"
            )
        if start and not multirun:
            line = " ".join(o.input_line or "" for o in overrides)
            raise UserError(f"hydra/launcher={name} starts the jobs of a sweep: type rsssl-run --multirun {line}")
        if start and LAUNCHERS.get(name) == "SlurmLauncher" and not shutil.which("srun"):
            raise UserError(
                f"hydra/launcher={name} needs SLURM, and there is no srun here: type this on a login node of the "
                f"cluster, "
                "or type hydra/launcher=joblib"
            )
