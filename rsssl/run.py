"""`rsssl-run`: compose the configuration, check it, build the task, run it. The only reader of the command line and of
Hydra."""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
import traceback
import types
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

from rsssl import __version__
from rsssl.engine.cores import let_threads_sleep
from rsssl.engine.ranks import launched_by_torchrun, rank, world_size
from rsssl.errors import UserError
from rsssl.groups import GROUPS, group_options

SHORT = """\
rsssl-run: pre-train a backbone on unlabelled imagery, then classify or map scenes from a few labels per class.

  rsssl-run task=map dataset=scene dataset.scenes=scene.tif dataset.labels=polygons.gpkg dataset.field=class out=map.tif
                                                         a map of your scene from labels drawn in QGIS
  rsssl-run dataset=folder dataset.root=/my/tiles ts=5   your own tiles, one folder a class, 5 labels per class
  rsssl-run --multirun dataset=aid ssl=simclr ts=5,20 seed=0,1,2     a sweep; the pre-training is done once
  rsssl-run --multirun experiment=demo ts=5,20 seed=0,1,2            built-in imagery: a first look, five minutes
  rsssl-report multirun/...                              one table and its figures from any runs
"""
HELP = """\

Groups, as group=option:
{groups}

Keys people use, as key=value:
  dataset.root=DIR          where the images lie (one folder a class; class folders may be a subset)
  ts=5                      labels per class; a fraction with ts=0.1; the whole pool with ts=all
  seed=0                    draws the labelled images and the classifier
  pretrain.minutes=20       a budget: as many steps as it buys here (null: 4 on CPUs, 60 on accelerators)
  pretrain.epochs=100       passes over the unlabelled pool instead
  pretrain.steps=5000       that many steps instead
  pretrain.images=6000      pre-train on that many images of the pool (null: all)
  pretrain.dataset=NAME     pre-train on another dataset, or on several: [aid,nwpu_resisc45]
  pretrain.batch_size=256   images a step
  pretrain.lr=0.001         peak learning rate (null: the optimizer's own)
  backbone.name=convnext_tiny   any timm model
  start=random              what the backbone is before: imagenet, random, file (start.file=FILE), dinov2, ...
  checkpoint=DIR            evaluate weights that exist: a run folder, or what task=pretrain printed
  scene=FILE out=MAP.tif    with task=map checkpoint=DIR: the scene as a class map; bands=[4,3,2] names its bands
  map.stride=16             pixels between windows; also map.window, map.fast, map.confidence, map.probabilities
  values=cast|moments       take a scene of another type or range; scene_nodata=255: a value that means "nothing here"
  images=DIR out=FILE.csv   with task=predict checkpoint=DIR: a row for each image
  class_map=MAP.tif reference=FILE field=class   with task=accuracy: points, polygons or a raster
  out=FOLDER export.onnx=true   with task=export; also export.preprocessing, export.program
  suggest.n=50 suggest.by=typicality|coverage|margin   with task=suggest; suggest.labelled=FILE.csv
  processes=4               that many processes (one for each accelerator) train together, by torchrun
  hydra/launcher=joblib     with --multirun: jobs side by side; =slurm: in a queue (pip install 'rsssl[sweep]')
  pretrain.resume=DIR       go on from another training's checkpoint: more epochs, a lower learning rate
  paths.store=DIR           where packed data, pre-trained weights and features are kept (RSSSL_STORE)

Flags: --multirun (-m) sweeps comma-separated values; --cfg job prints the composed configuration;
  --config-dir DIR adds your own YAML files to the groups; --version; --help.
"""

log = logging.getLogger(__name__)
AGAIN = "Type the same command again to go on from the last checkpoint."
FLAGS_WITH_VALUE = (
    "--cfg",
    "-c",
    "--config-dir",
    "-cd",
    "--config-name",
    "-cn",
    "--package",
    "-p",
    "--info",
    "-i",
    "--config-path",
    "-cp",
    "--experimental-rerun",
)


FLAGS = (
    *FLAGS_WITH_VALUE,
    *("--multirun", "-m", "--run", "-r", "--resolve", "--hydra-help", "--shell-completion", "-sc"),
)


def help_text(config_dir: str | None = None) -> str:
    """The help, with the groups and options read from the YAML files."""
    lines = [f"  {group:<10} {', '.join(group_options(group, config_dir))}" for group in GROUPS]
    return SHORT + HELP.format(groups="\n".join(lines))


def show(text: str) -> None:
    """Prints a text; quietly ends where its reader has seen enough, as `head` has."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends


def split_arguments(argv: list[str]) -> tuple[list[str], dict[str, str]]:
    """Overrides, and flags with their values, of a command line (Hydra's flags)."""
    overrides: list[str] = []
    flags: dict[str, str] = {}
    rest = iter(argv)
    for word in rest:
        if word.startswith("-"):
            name, _, value = word.partition("=")
            flags[name] = value or (next(rest, "") if name in FLAGS_WITH_VALUE else "")
        else:
            overrides.append(word)
    return overrides, flags


def main() -> None:
    """Entry point of `rsssl-run` and of `python -m rsssl.run`."""
    let_threads_sleep()
    overrides, flags = split_arguments(sys.argv[1:])
    if {"--help", "-h"} & set(flags):
        return show(help_text(flags.get("--config-dir") or flags.get("-cd")))
    if not sys.argv[1:]:  # nothing was asked for, and a training of minutes is no answer to that
        return show(f"{SHORT}\nType rsssl-run --help for all groups, keys and flags.")
    if "--version" in flags:
        print(f"rsssl {__version__}")
        return
    try:
        start(overrides, flags)
    except UserError as error:
        fail(error)
    except KeyboardInterrupt:  # while a launcher's processes are at work
        print(f"\nStopped. {AGAIN}", file=sys.stderr)
        sys.exit(130)


def start(overrides: list[str], flags: dict[str, str]) -> None:
    """Checks the command line, then hands over to Hydra, which calls `job` once for each job of the sweep."""
    multirun = bool({"--multirun", "-m"} & set(flags))
    if multirun and world_size() > 1:
        raise UserError(
            "--multirun under torchrun would start every job on every process: type it without torchrun, and with "
            "processes=, which runs each job under a torchrun of its own: rsssl-run --multirun "
            f"processes={world_size()} {' '.join(overrides)}"
        )
    if unknown := [name for name in flags if name not in FLAGS]:
        name = unknown[0].lstrip("-")
        value = flags[unknown[0]] or next((word for word in overrides if "=" not in word), "VALUE")
        raise UserError(f"{unknown[0]} is not a flag: type {name}={value}, or rsssl-run --help for the keys there are")
    config_dir = flags.get("--config-dir", flags.get("-cd"))
    if config_dir is not None and not (config_dir and Path(config_dir).is_dir()):
        raise UserError(
            f"--config-dir {config_dir} is not a folder: type --config-dir with the folder of your YAML files"
        )
    from rsssl.launch import add_to_path

    add_to_path([config_dir] if config_dir else [])
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")

    import hydra
    from hydra.errors import HydraException, InstantiationException
    from omegaconf.errors import OmegaConfBaseException

    from rsssl.compose import CONFIG_MODULE, ROOT, precheck
    from rsssl.run import job  # under this name in a launcher's processes too, not as part of __main__

    if not {"--info", "-i", "--config-name", "-cn"} & set(flags):
        precheck(overrides, config_dir, multirun, start=not {"--cfg", "-c"} & set(flags))
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    # One rank writes; the others leave no run folder behind. Flags last: Hydra takes no overrides on both sides of one.
    quiet = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")
    typed = [f"{name}={value}" if value else name for name, value in flags.items()]
    sys.argv[1:] = [*overrides, *(quiet if rank() > 0 else ()), *typed]
    try:
        hydra.main(version_base="1.3", config_path=f"pkg://{CONFIG_MODULE}", config_name=ROOT)(job)()
    except HydraException as error:  # of what precheck does not look at: --config-name, a plug-in's keys
        if isinstance(error, InstantiationException):
            raise
        raise UserError(f"{error}\nType rsssl-run --help for the groups, keys and flags") from error
    except OSError as error:
        raise of_the_system(error) from error
    except OmegaConfBaseException as error:  # in a value of Hydra's own, which it looks at last
        if not str(error.full_key).startswith("hydra."):
            raise
        reason = str(error.msg).splitlines()[0]
        raise UserError(f"{error.full_key}: {reason}: type {error.full_key}= with a plain value") from error
    except RuntimeError as error:  # a job that ended without a word: killed, or out of memory
        if not type(error).__module__.startswith("submitit."):
            raise
        raise UserError(f"{error}\n{AGAIN}") from error


def of_the_system(error: OSError) -> Exception:
    """What the system says of a file, as a sentence; an error of no file, and no full disk, unchanged."""
    from rsssl.engine.files import explain_os_error

    if error.filename is None or error.errno in (errno.ENOSPC, errno.EDQUOT):
        return explain_os_error(error, Path(error.filename or "."))
    path = Path(os.fsdecode(error.filename2 or error.filename))  # the second: of a rename, the one that was meant
    if os.path.exists(path) and not os.access(path, os.R_OK):
        return UserError(f"{path} cannot be read ({error.strerror}): type chmod u+r '{path}', or another name")
    explained = explain_os_error(error, path)
    return explained if isinstance(explained, UserError) else UserError(f"{path}: {error.strerror}: type another name")


def job(cfg: Any) -> Any:
    """One job, in this process or in one that a launcher has started, from where an error has to travel to the
    sweep."""
    from rsssl.launch import Launch, add_to_path

    let_threads_sleep()
    launch = Launch.of_hydra()
    if launch.launched:
        add_to_path(launch.config_dirs)
        try:
            return run_job(cfg, launch)
        except UserError as error:
            log.error("%s", error)  # now, and in the job's own log; the sweep says it in the end
            raise
        except Exception:  # as text: some cannot be pickled, and none keeps its stack trace
            raise RuntimeError(traceback.format_exc()) from None
    try:
        return run_job(cfg, launch)
    except UserError as error:
        fail(error)
    except KeyboardInterrupt:
        print(f"\nStopped. {AGAIN}", file=sys.stderr)
        sys.exit(130)


def run_job(cfg: Any, launch: Any) -> Any:
    """Builds the task and runs it, alone in its run folder; a request to stop ends it with the signal's exit code."""
    from rsssl.engine.stop import Stopped
    from rsssl.jobs import prepared, started
    from rsssl.launch import after, alone_in, under_torchrun

    task, run = prepared(cfg, launch.options, launch.folder, launch.overrides)
    if cfg.processes > 1 and not launched_by_torchrun() and launch.options["task"] != "replay":
        return under_torchrun(cfg.processes, launch)
    if world_size() > 1:
        from rsssl.engine import distributed

        distributed.start(cfg.device)
    while True:
        try:
            with alone_in(run.folder) if rank() == 0 and launch.keeps_folder else nullcontext():
                result = started(task, run)
            if world_size() > 1:
                distributed.leave()
            return result
        except Stopped as error:
            stopped = error.with_traceback(None)  # whose frames hold the network
        if rank() == 0:
            saved = "A checkpoint is written." if stopped.saved else "What this command had done so far is lost."
            again = "" if stopped.before or not stopped.saved else f" {AGAIN}"  # a launcher starts it again itself
            print(f"rsssl: {stopped}. {saved}{again}", file=sys.stderr, flush=True)
        after(stopped.signum, stopped.before, launch)


def fail(error: UserError) -> NoReturn:
    """Prints the message alone, without a stack trace, and ends with exit code 2."""
    log.debug("user error", exc_info=error)
    if rank() > 0:
        time.sleep(2)  # rank 0 has most often met the same error: torchrun then ends this one before it says it too
    print(f"rsssl{f' (rank {rank()})' if rank() > 0 else ''}: {error}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    if launched_by_torchrun():
        os._exit(2)  # the other ranks may wait for this one: no clean-up that waits for them
    sys.exit(2)


class Callable(types.ModuleType):
    """This module, which has the name of the function `rsssl.run`, can be called as it."""

    def __call__(self, overrides: Any = (), config_dir: Any = None) -> Any:
        from rsssl.api import run

        return run(overrides, config_dir)


sys.modules[__name__].__class__ = Callable

if __name__ == "__main__":
    main()
