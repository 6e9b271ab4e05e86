"""Composition with errors a newcomer can act on: checks the command line before Hydra runs the job.

Hydra's own messages for a misspelt key are exact but do not say what was meant. Here the overrides are composed once
(0.1 s, no torch); when that fails, the offending override is found and the nearest valid name suggested.
"""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, ListConfig, OmegaConf

from rsssl.errors import UserError, nearest
from rsssl.groups import GROUPS, group_options
from rsssl.schema import WITHOUT_DATASET, Config, check, check_needed

CONFIG_MODULE = "rsssl.conf"
ROOT = "config"
# Which of Hydra's plugins a launcher needs; our own two and those that the plugins bring.
LAUNCHERS = {
    "joblib": "JoblibLauncher",
    "slurm": "SlurmLauncher",
    "submitit_slurm": "SlurmLauncher",
    "submitit_local": "LocalLauncher",
}


def register_schema() -> None:
    """Makes the typed root known to Hydra under the name `schema`, which conf/config.yaml starts from.

    The joblib plugin's own config becomes `joblib_plugin`, which conf/hydra/launcher/joblib.yaml starts from: Hydra warns of two
    with one name.
    """
    ConfigStore.instance().store(name="schema", node=Config)
    Plugins.instance()  # they store their configs
    launchers = ConfigStore.instance().repo["hydra"]["launcher"]
    if "joblib.yaml" in launchers:
        launchers["joblib_plugin.yaml"] = launchers.pop("joblib.yaml")


class Composer:
    """Hydra's composition over the package's configs and, first, the user's own folder of them."""

    def __init__(self, config_dir: str | Path | None = None) -> None:
        self.config_dir = config_dir
        register_schema()
        GlobalHydra.instance().clear()
        self._context = initialize_config_module(CONFIG_MODULE, version_base="1.3")
        self._search = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []

    def __enter__(self) -> Composer:
        self._context.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._context.__exit__(*exc)

    def compose(self, overrides: list[str], config_name: str = ROOT) -> DictConfig:
        return compose(config_name, [*self._search, *overrides])

    def options(self, group: str) -> list[str]:
        return group_options(group, self.config_dir)


def leaf_keys(cfg: Any, prefix: str = "") -> list[str]:
    """All dotted keys of a config, inner nodes included."""
    keys: list[str] = []
    if isinstance(cfg, DictConfig):
        for name in cfg:
            keys.append(f"{prefix}{name!s}")
            keys += leaf_keys(cfg._get_node(name), f"{prefix}{name!s}.")
    return keys


def typed(override: Override) -> str:
    """The override as it was typed."""
    return override.input_line or ""


def expand(overrides: list[Override]) -> list[list[str]]:
    """The lines to check for a sweep: every value of every swept key once, the others at their first value."""
    choices = [
        [f"{o.get_key_element()}={v!s}" for v in o.sweep_string_iterator()] if o.is_sweep_override() else [typed(o)]
        for o in overrides
    ]
    first = [c[0] for c in choices]
    lines = [first]
    for i, values in enumerate(choices):
        lines += [[*first[:i], v, *first[i + 1 :]] for v in itertools.islice(values, 1, None)]
    return lines


def composed(composer: Composer, overrides: list[str]) -> DictConfig:
    """Composes and checks one job's overrides.

    Raises:
        UserError: naming the key or option that is wrong, the nearest valid one, and what to type.
    """
    try:
        cfg = composer.compose(overrides)
    except HydraException as error:
        raise UserError(explain(composer, overrides, error)) from None
    check_types(composer, overrides, cfg)
    check(cfg)
    check_named(composer, cfg)
    return cfg


def check_named(composer: Composer, cfg: DictConfig) -> None:
    """The options that a key names (`pretrain.dataset`, `finetune.augment`) exist, and their bands match the dataset's."""
    named = cfg.pretrain.dataset
    names = [named] if isinstance(named, str) else list(named or [])
    for key, group, values in (
        ("pretrain.dataset", "dataset", names),
        ("finetune.augment", "augment", [cfg.finetune.augment]),
    ):
        known = composer.options(group)
        for name in values:
            if name not in known:
                meant = nearest(str(name), known) or known[0]
                raise UserError(
                    f"{key}={name} is unknown; there are {', '.join(known)}. Did you mean this? Type {key}={meant}"
                )
    ours = cfg.dataset.select or cfg.dataset.bands
    for name in names:
        other = composer.compose([f"dataset={name}"]).dataset
        theirs = other.select or other.bands
        if ours and theirs and len(ours) != len(theirs):
            raise UserError(
                f"pretrain.dataset={name} has {len(theirs)} bands and dataset {cfg.dataset.name} has {len(ours)}, so the weights "
                f"of one do not fit the other: type pretrain.dataset=null, or datasets with the same bands"
            )


def precheck(overrides: list[str], config_dir: str | None, multirun: bool, data: bool = False) -> None:
    """Checks a whole command line, sweeps included, before anything else happens; with `data`, that the folders are there."""
    with Composer(config_dir) as composer:
        try:
            parsed = OverridesParser.create().parse_overrides(overrides)
        except HydraException as error:
            raise UserError(
                f"{error}\nAn override is typed key=value, for example ts=5 or dataset.root=/data"
            ) from None
        check_launcher(composer, parsed, multirun, data)
        for line in expand(parsed) if multirun else [overrides]:
            cfg = composed(composer, line)
            if data:
                check_needed(cfg)
                locate(cfg)


def check_launcher(composer: Composer, overrides: list[Override], multirun: bool, start: bool) -> None:
    """The launcher that is asked for exists and is installed; when it is to `start`, it has a sweep, and SLURM, to launch."""
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
        known = sorted({*stored, *composer.options("hydra/launcher")} - {"joblib_plugin"})
        if name not in known:
            meant = nearest(name, known) or "joblib"
            raise UserError(
                f"hydra/launcher={name} is unknown; there are {', '.join(known)}. Did you mean this? Type hydra/launcher={meant}"
            )
        if start and not multirun:
            typed_all = " ".join(typed(o) for o in overrides)
            raise UserError(f"hydra/launcher={name} starts the jobs of a sweep: type rsssl-run --multirun {typed_all}")
        if start and LAUNCHERS.get(name) == "SlurmLauncher" and not shutil.which("srun"):
            raise UserError(
                f"hydra/launcher={name} needs SLURM, and there is no srun here: type this on a login node of the cluster, "
                "or type hydra/launcher=joblib"
            )


def locate(cfg: DictConfig) -> None:
    """Raises UserError when the folder that the task reads is missing: said now, not after torch has been loaded."""
    if cfg.task._target_ in WITHOUT_DATASET:
        return
    from rsssl.data.dataset import Dataset

    fields = OmegaConf.to_container(cfg.dataset, resolve=True)
    assert isinstance(fields, dict)
    Dataset(**{str(k): v for k, v in fields.items() if k != "_target_"}).located()


def explain(composer: Composer, overrides: list[str], error: HydraException) -> str:
    """The sentence for a failed composition: which override, what is wrong with it, what was probably meant."""
    known = leaf_keys(composer.compose([]))
    for parsed in OverridesParser.create().parse_overrides(overrides):
        key, value = parsed.key_or_group, str(parsed.get_value_string())
        if key.startswith("hydra"):
            continue
        if key in GROUPS and value not in ("null", ""):
            options = composer.options(key)
            if value not in options and not value.startswith("["):
                meant = nearest(value, options) or options[0]
                return (
                    f"{key}={value} is unknown; {key} has {', '.join(options)}. Did you mean this? Type {key}={meant}"
                )
            continue
        chosen = [o for o in overrides if "." not in o.split("=")[0] and o.split("=")[0] in GROUPS]
        try:
            names = leaf_keys(composer.compose([*chosen, typed(parsed)]))
        except HydraException as one:
            cause = one.__cause__
            if (
                "could not be converted" in str(cause)
                or "Invalid type" in str(cause)
                or "is not supported" in str(cause)
            ):
                reason = str(cause).splitlines()[0]
                return f"{parsed.input_line}: {reason}. Type rsssl-run --cfg job to see the keys with their values"
            if "Ambiguous value" in str(one):
                if key == "bands":
                    return f"{parsed.input_line} is not a list: type 'bands=[{parsed.get_value_string()}]'"
                return f"{parsed.input_line} holds several values: type rsssl-run --multirun {parsed.input_line}"
            try:
                names = leaf_keys(composer.compose(chosen))
            except HydraException:
                names = known
            if key not in names:
                meant_key = nearest(key, names if "." in key else [*names, *GROUPS])
                guess = f"Did you mean {meant_key}? Type {meant_key}={value}" if meant_key else "Type rsssl-run --help"
                return f"{key} is not a key of the configuration. {guess}"
    return f"{error}\nType rsssl-run --help for the groups and keys"


def check_types(composer: Composer, overrides: list[str], cfg: DictConfig) -> None:
    """In open groups, a value overridden must keep the type that the chosen YAML gives it (an int may become a float)."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    dotted = [o for o in parsed if "." in o.key_or_group and not o.key_or_group.startswith("hydra")]
    if not dotted:
        return
    base = composer.compose([typed(o) for o in parsed if o not in dotted])
    for override in dotted:
        default = OmegaConf.select(base, override.key_or_group)
        value = OmegaConf.select(cfg, override.key_or_group)
        if default is None or value is None or same_kind(default, value):
            continue
        raise UserError(
            f"{override.input_line}: {value!r} is {kind(value)}, but {override.key_or_group} takes {kind(default)}: "
            f"type for example {override.key_or_group}={default}"
        )


def kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    names = {int: "a whole number", float: "a number", str: "text", ListConfig: "a list", DictConfig: "a group of keys"}
    return next((text for type_, text in names.items() if isinstance(value, type_)), type(value).__name__)


def same_kind(default: Any, value: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    return kind(default) == kind(value)
