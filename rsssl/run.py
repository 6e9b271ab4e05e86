"""`rsssl-run`: compose the configuration, check it, instantiate the task, run it. The only reader of the whole config."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from rsssl import __version__
from rsssl.errors import UserError
from rsssl.groups import GROUPS, group_options

HELP = """\
rsssl-run: pre-train a backbone on unlabelled imagery, then classify scenes from a few labels per class.

  rsssl-run                                              the built-in synthetic dataset (add experiment=demo: 2 minutes)
  rsssl-run dataset=folder dataset.root=/my/tiles ts=5   your own imagery, one folder a class, 5 labels per class
  rsssl-run --multirun dataset=aid ssl=simclr ts=5,20 seed=0,1,2     a sweep; the pre-training is done once
  rsssl-report multirun/...                              one table and its figures from any runs

Groups, as group=option:
{groups}

Keys people use, as key=value:
  dataset.root=DIR          where the images lie (one folder a class; class folders may be a subset)
  ts=5                      labels per class; a fraction with ts=0.1; the whole pool with ts=all
  seed=0                    draws the labelled images and the classifier
  pretrain.epochs=100       passes over the unlabelled pool
  pretrain.steps=5000       that many steps instead
  pretrain.images=6000      pre-train on that many images of the pool (null: all)
  pretrain.dataset=NAME     pre-train on another dataset, or on several: [aid,nwpu_resisc45]
  pretrain.batch_size=256   images a step
  pretrain.lr=0.001         peak learning rate (null: the optimizer's own)
  backbone.name=convnext_tiny   any timm model
  checkpoint=DIR            evaluate weights that exist: a run folder, or what task=pretrain printed
  paths.store=DIR           where packed data, pre-trained weights and features are kept (RSSSL_STORE)

Flags: --multirun (-m) sweeps comma-separated values; --cfg job prints the composed configuration;
  --config-dir DIR adds your own YAML files to the groups; --version; --help.
"""

FLAGS_WITH_VALUE = ("--cfg", "-c", "--config-dir", "-cd", "--config-name", "-cn", "--package", "-p", "--info", "-i",
                    "--config-path", "-cp", "--experimental-rerun")  # fmt: skip


def help_text(config_dir: str | None = None) -> str:
    """The help, with the groups and options read from the YAML files."""
    lines = [f"  {group:<10} {', '.join(group_options(group, config_dir))}" for group in GROUPS]
    return HELP.format(groups="\n".join(lines))


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
    overrides, flags = split_arguments(sys.argv[1:])
    if {"--help", "-h"} & set(flags):
        print(help_text(flags.get("--config-dir") or flags.get("-cd")))
        return
    if "--version" in flags:
        print(f"rsssl {__version__}")
        return
    try:
        start(overrides, flags)
    except UserError as error:
        fail(error)


def start(overrides: list[str], flags: dict[str, str]) -> None:
    """Checks the command line, then hands over to Hydra, which calls `job` once for each job of the sweep."""
    multirun = bool({"--multirun", "-m"} & set(flags))
    if multirun and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "--multirun under torchrun would start every job on every process: "
            "type one torchrun command for each value instead, or rsssl-run --multirun without torchrun"
        )
    config_dir = flags.get("--config-dir") or flags.get("-cd")
    if config_dir and not Path(config_dir).is_dir():
        raise UserError(
            f"--config-dir {config_dir} is not a folder: type --config-dir with the folder of your YAML files"
        )
    # A user's own method is a Python file beside their YAML, or in the folder they work in.
    # Last on the path: a file of theirs that is called like a package must not take its place.
    sys.path += [str(Path(folder).resolve()) for folder in (config_dir, ".") if folder]
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")

    import hydra

    from rsssl.compose import CONFIG_MODULE, ROOT, precheck

    if "--info" not in flags and "-i" not in flags and "--config-name" not in flags and "-cn" not in flags:
        precheck(overrides, config_dir, multirun, data="--cfg" not in flags and "-c" not in flags)
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    if int(os.environ.get("RANK", "0")) > 0:  # one rank writes; the others leave no run folder behind
        sys.argv += [
            "hydra.run.dir=.",
            "hydra.output_subdir=null",
            "hydra/job_logging=none",
            "hydra/hydra_logging=none",
        ]
    try:
        hydra.main(version_base="1.3", config_path=f"pkg://{CONFIG_MODULE}", config_name=ROOT)(job)()
    except OSError as error:  # the run folder, mostly: full, or not ours to write
        from rsssl.engine.files import explain_os_error

        raise explain_os_error(error, Path(error.filename or ".")) from error


def job(cfg: Any) -> Any:
    """One job: check once more (a sweep's values arrive here), then run its task."""
    from hydra.errors import InstantiationException
    from hydra.utils import get_method

    from rsssl.schema import check

    try:
        check(cfg)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from rsssl.engine import distributed

            distributed.start()
        return get_method(cfg.task._target_)(cfg)
    except UserError as error:
        fail(error)
    except InstantiationException as error:  # Hydra wraps what a constructor raises
        if isinstance(error.__cause__, UserError):
            fail(error.__cause__)
        raise
    except KeyboardInterrupt:
        print("\nStopped. Type the same command again to go on from the last checkpoint.", file=sys.stderr)
        sys.exit(130)


def fail(error: UserError) -> NoReturn:
    """Prints the message alone, without a stack trace, and ends with exit code 2."""
    logging.getLogger(__name__).debug("user error", exc_info=error)
    print(f"rsssl: {error}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
