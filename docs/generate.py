"""Writes the manual's reference, docs/reference/*.md, from the YAML files of conf/ and docstrings of what they name.

    python docs/generate.py

tests/test_docs.py fails when a page is not what this writes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from described import (
    CONF,
    arguments,
    cell,
    comments_of,
    leaves,
    meaning,
    names,
    option,
    resolve,
    returned,
    shown,
    table,
)
from omegaconf import OmegaConf

NOTE = "<!-- Written by python docs/generate.py from conf/ and the docstrings of rsssl/: change those, not this. -->"
GROUPS = {  # in the order of the page
    "dataset": "The images. See [Your own tiles](../tiles.md) and [From QGIS to a map](../scenes.md).",
    "start": "What the network is before it sees your imagery. See [Which start?](../starts.md).",
    "backbone": "The network. An option is a short name for one; `backbone.name=` takes any timm model.",
    "ssl": "What the network learns from without labels. See [Which signal?](../signals.md).",
    "augment": "How views of an image are made. See [Which signal?](../signals.md#augmentation).",
    "optimizer": "Of the pre-training, and of classifiers that train a network.",
    "schedule": "Of the learning rate, over all steps.",
    "evaluate": "The classifier. See [Few labels](../few_labels.md).",
    "tracker": "Where the numbers of a training go. It never changes a result.",
    "hydra/launcher": "Where the jobs of a sweep run. See [Sweeps and clusters](../sweeps.md).",
    "experiment": "Settings of several groups at once. What is typed beside one wins.",
}
TASKS = ("pipeline", "pack", "pretrain", "evaluate", "suggest", "predict", "map", "accuracy", "export")
TASKS += ("replay", "store")
DECLARED = {  # the class, or the function, whose docstring explains the keys below a name
    "pretrain": "rsssl.networks.recipe.PretrainKeys",
    "finetune": "rsssl.tasks.evaluate.FinetuneKeys",
    "dataset": "rsssl.data.dataset.Dataset",
    "backbone": "rsssl.models.backbone.build_backbone",
}
USUAL = {  # of many options with one class, the one whose defaults are shown
    "rsssl.networks.starts.Tagged": "imagenet",
    "rsssl.networks.starts.Filed": "file",
    "rsssl.models.backbone.build_backbone": "efficientnet_lite0",
}
WHOLE = ("packages", "form", "settings")  # groups of keys that are one value here
SAID = {  # what neither a docstring nor a comment says: default, meaning
    "paths.data": ("`data`, or `RSSSL_DATA`", "the folder below which published datasets are looked for"),
    "paths.store": ("`~/.cache/rsssl`, or `RSSSL_STORE`", "where packed images, networks and features are kept"),
    "hydra.run.dir": ("`runs/DATE/TIME-TASK-DATASET`", "the run folder of a single job"),
    "ssl.teacher": ("`null`", "a run folder, a folder of the store or its name there, or a file of weights"),
    "hydra.launcher.name": ("`rsssl`", "of the jobs in the queue"),
    "hydra.launcher.pre_dispatch": ("`all`", "joblib's: how many jobs are handed over at once"),
    "hydra.sweep.dir": ("`multirun/DATE/TIME`", "the folder of a sweep, with a run folder for each job"),
}
INTRODUCTION = """\
# Configuration

A command is a list of `group=option` and `key=value`. An option is a YAML file that sets the keys of its group, and now
and then some of another one. What you type wins.

```shell
rsssl-run --cfg job dataset=folder dataset.root=my_tiles ssl=simclr
```

prints the whole configuration of a command and runs nothing. Lists go into quotes: `'bands=[4,3,2]'`. A key that does
not exist stops the command, and the nearest one is named. The keys of each task, among them those of `pretrain.` and
`finetune.`, stand in [Tasks](tasks.md).

## Keys of all tasks
"""
TASKS_INTRODUCTION = """\
# Tasks

`task=NAME` says what a command does; without it, it is `task=pipeline`. A key of another task is refused, and the
message names the task that has it. The keys that all tasks share, and the options of each group, stand in
[Configuration](configuration.md).
"""
OPERATIONS = """\
An operation's keys are typed with its name in the policy: `'augment.operations.crop.area=[0.2,0.8]'`, and in the small
views of multi-crop `augment.local.operations.crop.area=...`.
"""


def keys_table(values: Mapping[str, Any], prefix: str, said: Mapping[str, str], comments: Mapping[str, str]) -> str:
    """A row for each key: its name, its default, what it means."""
    rows = []
    for key, value in leaves(values, stop=WHOLE):
        default, text = SAID.get(f"{prefix}{key}", (shown(value), meaning(key, said, comments)))
        rows.append((f"`{prefix}{key}`", default, text))
    return table(("key", "default", "meaning"), rows)


def options_table(group: str) -> str:
    """A row for each option."""
    rows = [(f"`{name}`", cell(option(group, name).about), option(group, name).brings) for name in names(group)]
    head = ("option", "what it is", "brings") if any(row[2] for row in rows) else ("option", "what it is")
    return table(head, [row[: len(head)] for row in rows])


def by_class(group: str) -> Iterator[str]:
    """The keys of each class that the options name."""
    targets: dict[str, list[str]] = {}
    for name in names(group):
        if target := option(group, name).target:
            targets.setdefault(target, []).append(name)
    for target, named in targets.items():
        usual = USUAL.get(target, named[0])
        if [*leaves(option(group, usual).own)]:
            few = len(named) < 4
            yield f"### {group}={', '.join(named) if few else usual}\n"
            yield several(group, named, target) if 1 < len(named) < 4 else of_one(group, usual, target)
            if not few:
                yield f"The same keys have {', '.join(f'`{name}`' for name in named if name != usual)}.\n"


def of_one(group: str, name: str, target: str) -> str:
    described = option(group, name)
    return keys_table(described.own, f"{group}.", arguments(resolve(target)), described.comments)


def several(group: str, named: Sequence[str], target: str) -> str:
    """The keys of options of one class, with the default of each option."""
    found = {name: dict(leaves(option(group, name).own, stop=WHOLE)) for name in named}
    comments = {k: v for name in named for k, v in option(group, name).comments.items()}
    said, rows = arguments(resolve(target)), []
    for key in dict.fromkeys(key for values in found.values() for key in values):
        defaults = [shown(values[key]) if key in values else "" for values in found.values()]
        rows.append((f"`{group}.{key}`", *defaults, meaning(key, said, comments)))
    return table(("key", *(f"`{name}`" for name in named), "meaning"), rows)


def datasets() -> Iterator[str]:
    """The options of `dataset`, and the keys of each kind."""
    yield options_table("dataset")
    pack, folder, scene = option("task", "pack"), option("dataset", "folder"), option("dataset", "scene")
    made = option("dataset", "synthetic")
    usual = folder.own | pack.values["dataset"]
    said = arguments(resolve(DECLARED["dataset"]))
    yield "### dataset=folder, and all published datasets\n"
    shown_here = {k: v for k, v in usual.items() if k != "generate"}
    yield keys_table(shown_here, "dataset.", said, pack.comments)
    yield "### dataset=scene\n\nThe keys above, but for `root`, and:\n"
    more = {k: v for k, v in scene.own.items() if k not in folder.own or k == "nodata"}
    yield keys_table(more, "dataset.", arguments(resolve(str(scene.target))), scene.comments)
    yield "### dataset=synthetic\n"
    said = arguments(resolve("rsssl.data.synthetic.ensure"))
    yield keys_table(made.own["generate"], "dataset.generate.", said, made.comments)


def augmentations() -> Iterator[str]:
    """The policies, and the keys of the operations that they are made of."""
    classes: dict[str, None] = {}
    rows = []
    for name in names("augment"):
        described = option("augment", name)
        operations = [*operations_of(described.own)]
        classes |= dict.fromkeys(target for _, target in operations)
        used = ", ".join(dict.fromkeys(f"`{key}` ({target.split('.')[-1]})" for key, target in operations))
        rows.append((f"`{name}`", cell(described.about), used))
    yield table(("option", "what it is", "operations"), rows)
    yield OPERATIONS
    for target in (*classes, "rsssl.augment.Local"):
        cls = resolve(target)
        said = arguments(cls)
        rows = [
            (f"`{key}`", "" if p.default is p.empty else shown(p.default), cell(said.get(key, "")).rstrip("."))
            for key, p in inspect.signature(cls).parameters.items()
        ]
        yield f"### {cls.__name__}\n"
        yield table(("key", "where a YAML leaves it out", "meaning"), rows)


def operations_of(node: Any) -> Iterator[tuple[str, str]]:
    """The operations of a policy: their names in it, and their classes."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else []:
        if isinstance(value, dict) and "_target_" in value and "operations" not in value:
            yield str(key), value["_target_"]
        else:
            yield from operations_of(value)


def launchers() -> Iterator[str]:
    for name in names("hydra/launcher"):
        described = option("hydra/launcher", name)
        yield f"### hydra/launcher={name}\n\n{cell(described.about)}.\n"
        yield keys_table(described.values, "hydra.launcher.", {}, described.comments)


def experiments() -> Iterator[str]:
    rows = []
    for name in names("experiment"):
        described = option("experiment", name)
        rows.append((f"`{name}`", cell(described.about), *(f"`{c}`" for c in described.commands[:1])))
    yield table(("option", "what it is", "example"), rows)


def configuration() -> str:
    """The page of all groups."""
    values: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))  # type: ignore[assignment]
    comments = comments_of((CONF / "config.yaml").read_text())
    keys = {k: v for k, v in values.items() if k not in ("defaults", "hydra")}
    shared = keys | {"hydra.run.dir": "", "hydra.sweep.dir": ""}
    rows = [(f"`{k}`", *SAID.get(k, (shown(v), meaning(k, {}, comments)))) for k, v in leaves(shared)]
    parts = [NOTE, "", INTRODUCTION, table(("key", "default", "meaning"), rows)]
    special = {"dataset": datasets, "augment": augmentations, "hydra/launcher": launchers, "experiment": experiments}
    for group, about in GROUPS.items():
        parts += [f"## {group}\n", about + "\n"]
        parts += special[group]() if group in special else [options_table(group), *by_class(group)]
    return "\n".join(parts)


def task_keys(name: str) -> str:
    """The keys that a task has beyond those of the tasks that it is made of."""
    described = option("task", name)
    said, rows = arguments(resolve(described.values["task"]["_target_"])), []
    for key, value in leaves(described.values):
        top = key.split(".")[0]
        if (name, top) == ("pack", "dataset"):
            continue
        own = arguments(resolve(DECLARED[top])) if top in DECLARED and "." in key else said
        rows.append((f"`{key}`", shown(value), meaning(key, own, described.comments)))
    return table(("key", "default", "meaning"), rows) if rows else ""


def task(name: str) -> Iterator[str]:
    """The section of a task."""
    described = option("task", name)
    cls = resolve(described.values["task"]["_target_"])
    made_of = re.findall(r"^  - (pack|pretrain|evaluate|pipeline)$", (CONF / "task" / f"{name}.yaml").read_text(), re.M)
    groups = [chosen.split("=")[0] for chosen in described.chooses if chosen.split("=")[0] in GROUPS]
    yield f"## {name}\n\n{cell(described.about)}.\n"
    if described.commands:
        yield "```text\n" + "\n".join(described.commands) + "\n```\n"
    if groups:
        rows = [(f"[`{g}`](configuration.md#{g})", f"`{c}`") for g, c in zip(groups, described.chooses, strict=True)]
        yield table(("group", "by itself"), rows)
    if name == "pack":
        yield "All keys below `dataset.` stand in [Configuration](configuration.md#dataset).\n"
    keys = task_keys(name)
    if made_of:
        yield f"Its keys are those of [`task={made_of[0]}`](#{made_of[0]}){', and:' if keys else '.'}\n"
    yield keys
    if said := returned(cls.run):
        yield f"In Python it returns: {said}\n"


def tasks() -> str:
    """The page of all tasks."""
    rows = [(f"[`{name}`](#{name})", cell(option("task", name).about)) for name in TASKS]
    sections = [part for name in TASKS for part in task(name) if part]
    return "\n".join([NOTE, "", TASKS_INTRODUCTION, table(("task", "what it does"), rows), *sections])


PAGES = {"configuration.md": configuration, "tasks.md": tasks}


def main() -> None:
    for name, page in PAGES.items():
        (Path(__file__).parent / "reference" / name).write_text(page())


if __name__ == "__main__":
    main()
