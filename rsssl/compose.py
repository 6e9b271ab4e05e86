"""Composition with errors a newcomer can act on: checks the command line before Hydra runs the job.

Hydra's own messages for a misspelt key are exact but do not say what was meant. Here the overrides are composed once
(0.2 s, no torch), the task is built from them and checked; when that fails, the override at fault is found, and the
nearest valid name, or the task that has the key, is suggested.
"""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rsssl.checks import check, check_shared, check_there
from rsssl.errors import UserError, nearest
from rsssl.explain import check_options, chosen_task, explain, parsed, text_of
from rsssl.groups import GROUPS, group_options
from rsssl.launchers import check_folders, check_launcher
from rsssl.objects import dataset_of, plain, task_of
from rsssl.own import check_composed, chosen_files, refuse_known_names, task_class
from rsssl.texts import check_typed, check_written
from rsssl.values import check_values, undeclared

CONFIG_MODULE = "rsssl.conf"
ROOT = "config"


def register() -> None:
    """Makes known to Hydra what our configs use of code: their resolvers, and the joblib launcher's config.

    The joblib plugin's own config becomes `joblib_plugin`, which conf/hydra/launcher/joblib.yaml starts from: Hydra
    warns of two configs with one name.
    """
    if not OmegaConf.has_resolver("rsssl.unique"):
        OmegaConf.register_new_resolver("rsssl.unique", unique, use_cache=True)
        OmegaConf.register_new_resolver("rsssl.unless", unless)
    Plugins.instance()  # they store their configs
    launchers = ConfigStore.instance().repo["hydra"]["launcher"]
    if "joblib.yaml" in launchers:
        launchers["joblib_plugin.yaml"] = launchers.pop("joblib.yaml")


@cache
def unique(folder: str) -> str:
    """The folder, made now, or with a number behind its name when another command has made it in the same second."""
    folder = folder.removesuffix("-None")  # of a task without a dataset
    for number in itertools.count(1):
        name = folder if number == 1 else f"{folder}-{number}"
        try:
            Path(name).mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError:
            pass  # told by what writes there
        return name
    raise AssertionError("counting has no end")


def unless(default: Any, *others: Any) -> Any:
    """A default that gives way, to None, where another key has a value: what was typed wins over what was not."""
    return default if all(other is None for other in others) else None


class Composer:
    """Hydra's composition over the package's configs and, first, the user's own folder of them."""

    def __init__(self, config_dir: str | Path | None = None) -> None:
        self.config_dir = config_dir
        if config_dir:
            refuse_known_names(Path(config_dir))
        register()
        self._before = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        self._context = initialize_config_module(CONFIG_MODULE, version_base="1.3")
        self._defaults: dict[tuple[str, ...], DictConfig] = {}
        self._search = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []

    def __enter__(self) -> Composer:
        self._context.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._context.__exit__(*exc)
        GlobalHydra.instance().hydra = self._before  # of a composer that this one was opened in

    def compose(self, overrides: list[str], hydra: bool = False) -> DictConfig:
        """The configuration of these overrides, with Hydra's own node if asked for.

        Raises:
            HydraException, OmegaConfBaseException: it does not compose.
        """
        try:
            return compose(ROOT, [*self._search, *overrides], return_hydra_config=hydra)
        except (AttributeError, LookupError, TypeError, ValueError) as error:  # Hydra's own slips over odd values
            if isinstance(error, HydraException | OmegaConfBaseException):
                raise
            raise HydraException(str(error)) from error

    def defaults(self, overrides: list[str]) -> DictConfig:
        """The configuration of the options that these overrides choose, without the values that they give."""
        line = tuple(o.input_line or "" for o in parsed(overrides) if is_option(o))
        if line not in self._defaults:
            self._defaults[line] = self.compose([*line])
        return self._defaults[line]

    def build(self, overrides: list[str], needed: bool = False) -> tuple[DictConfig, Any]:
        """The configuration of these overrides, its files and values looked at, and the task.

        Args:
            overrides: as they were typed.
            needed: refuse a task that lacks a key that it needs, too.

        Raises:
            UserError: for a file, a class or a value that is wrong.
            HydraException, OmegaConfBaseException: it does not compose, or a value is of another type.
        """
        name, files = chosen_task(overrides), chosen_files(overrides, self.config_dir)
        cfg = self.compose(overrides)
        check_composed(files, cfg, name)
        defaults = cfg if all(map(is_option, parsed(overrides))) else self.defaults(overrides)
        check_values(cfg, defaults, [*undeclared(task_class(cfg))])
        return cfg, task_of(cfg, name, partial=not needed)

    def options(self, group: str) -> list[str]:
        return group_options(group, self.config_dir)


def is_option(override: Override) -> bool:
    """Whether an override chooses an option, and gives no value."""
    return override.key_or_group in GROUPS or bool(override.package)


def option(group: str, name: str, shared: dict[str, Any]) -> Any:
    """What `group=name` composes to, as a dict; for a dataset, the `Dataset`. Hydra has to be initialised.

    Args:
        group: of the configuration.
        name: of the option.
        shared: nodes of the root that it may refer to, as this run has them.
    """
    cfg = compose(ROOT, [f"{group}={name}"])
    for key, node in shared.items():
        cfg[key] = node
    if group != "dataset":
        return plain(cfg[group])
    dataset = dataset_of(cfg[group])
    check_written(plain(cfg[group]), dataset, f"dataset={name}: ")
    return dataset


def expand(overrides: list[Override]) -> list[list[str]]:
    """The lines to check for a sweep: every value of every swept key once, the others at their first value."""
    choices = [
        [f"{o.get_key_element()}={v}" for v in values_of(o)] if o.is_sweep_override() else [o.input_line or ""]
        for o in overrides
    ]
    first = [c[0] for c in choices]
    lines = [first]
    for i, values in enumerate(choices):
        lines += [[*first[:i], v, *first[i + 1 :]] for v in itertools.islice(values, 1, None)]
    return lines


def values_of(override: Override) -> list[str]:
    """The values of a sweep, as they were typed where a comma does no more than part them."""
    values = [*map(str, override.sweep_string_iterator())]
    parts, sweep = text_of(override).split(","), override.value()
    simple = isinstance(sweep, ChoiceSweep) and sweep.simple_form and len(parts) == len(values)
    return parts if simple else values


def composed(composer: Composer, overrides: list[str], needed: bool = False) -> DictConfig:
    """Composes and checks one job's overrides.

    Args:
        composer: in which Hydra is initialised.
        overrides: as they were typed.
        needed: refuse a task that lacks a key that it needs, too.

    Raises:
        UserError: naming the key or option that is wrong, the nearest valid one, and what to type.
    """
    check_options(composer, overrides)
    try:
        cfg, task = composer.build(overrides, needed)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(composer, overrides, error)) from None
    check_shared(cfg.device, cfg.workers, cfg.processes, cfg.timeout)
    check(task)
    check_texts(overrides, cfg, task)
    check_named(composer, cfg)
    if needed:
        check_there(task, cfg.paths.store)
    return cfg


def check_texts(overrides: list[str], cfg: DictConfig, task: Any) -> None:
    """Nothing that is text was read as a number, neither on the command line nor in a YAML file."""
    read, given, name = parsed(overrides), plain(cfg), chosen_task(overrides)
    check_typed(read, name, task)
    written = given | (given.get(name) if isinstance(given.get(name), dict) and not hasattr(task, name) else {})
    typed = [o.key_or_group.removeprefix(f"{name}.") for o in read]
    check_written(written, task, "", typed)


def check_named(composer: Composer, cfg: DictConfig) -> None:
    """The options that a key names (`pretrain.dataset`, `finetune.augment`) exist, and their bands match the
    dataset's."""
    named = OmegaConf.select(cfg, "pretrain.dataset")
    names = [named] if isinstance(named, str) else list(named or [])
    augment = OmegaConf.select(cfg, "finetune.augment")
    for key, group, values in (
        ("pretrain.dataset", "dataset", names),
        ("finetune.augment", "augment", [augment] if augment else []),
    ):
        known = composer.options(group)
        for name in values:
            if name not in known:
                meant = nearest(str(name), known) or known[0]
                raise UserError(
                    f"{key}={name} is unknown; there are {', '.join(known)}. Did you mean this? Type {key}={meant}"
                )
    chosen_files([f"dataset={name}" for name in names], composer.config_dir)
    for name in names:
        ours, other = cfg.dataset.select or cfg.dataset.bands, composer.compose([f"dataset={name}"]).dataset
        theirs = other.select or other.bands
        if ours and theirs and len(ours) != len(theirs):
            raise UserError(
                f"pretrain.dataset={name} has {len(theirs)} bands and dataset {cfg.dataset.name} has {len(ours)}, so "
                f"the "
                "weights of one do not fit the other: type pretrain.dataset=null, or datasets with the same bands"
            )


def precheck(overrides: list[str], config_dir: str | None, multirun: bool, start: bool) -> None:
    """Checks a whole command line, sweeps included, before anything else happens.

    Args:
        overrides: as they were typed.
        config_dir: the user's own folder of configs.
        multirun: whether commas separate the values of a sweep.
        start: whether jobs are to start: then the keys that are needed, and the folders of images, have to be there.
    """
    with Composer(config_dir) as composer:
        check_line(composer, overrides, multirun, start)


def check_line(composer: Composer, overrides: list[str], multirun: bool, start: bool) -> None:
    """The same, in a composer that there is."""
    read = parsed(overrides)
    check_folders(read)
    check_launcher(read, composer.options("hydra/launcher"), multirun, start)
    for line in expand(read) if multirun else [overrides]:
        cfg = composed(composer, line, needed=start)
        if start and "dataset" in cfg:
            dataset_of(cfg.dataset).located()  # a missing folder is told now, not after torch has been loaded
