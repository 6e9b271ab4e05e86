"""From a folder tree to a list of images with class numbers: one folder is one class."""

from __future__ import annotations

import logging
import os
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rsssl.data.catalog import EXTENSIONS, Catalog
from rsssl.data.class_names import key
from rsssl.data.decoders import POINTERS, RASTERS
from rsssl.data.names import Names
from rsssl.data.official import looks_like
from rsssl.data.readers import Files
from rsssl.data.remote import is_remote
from rsssl.data.tree import Elsewhere, Here, Tree
from rsssl.errors import UserError, nearest

log = logging.getLogger(__name__)


def scan(
    root: str | Path,
    classes: Sequence[str] | None = None,
    hint: str = "Point dataset.root=FOLDER at a folder that holds one folder of images per class.",
) -> Catalog:
    """List the images under a folder.

    Folders that an archive wraps around the classes are followed, and links, but not to a folder that they lie in.
    Where there are images and no folders, the images are unlabelled.

    Args:
        root: the folder, or an address that can be listed, s3://bucket/folder.
        classes: the official names, in order; folders match in any capitalisation and with `_`, `-` or spaces; not
            every class needs a folder; other folders with images become extra classes, with a warning. None: every
            folder is a class, sorted. []: no classes, every image under `root` is unlabelled.
        hint: ends the message of an error.

    Raises:
        UserError: when there is nothing to read, or when a class folder holds no image.
    """
    tree: Tree = Here()
    if is_remote(str(root)):
        root = str(root).rstrip("/")
        tree = Elsewhere(root)
    else:
        root = existing(Path(root).expanduser(), hint)
    if classes is not None and len(classes) == 0:
        return _build(tree, root, {"": [""]}, [], hint)
    root = _unwrap(tree, root, classes)
    folders = tree.folders(root)
    if not folders:
        return _build(tree, root, {"": [""]}, [], hint)
    if loose := tree.loose(root):
        log.warning("%s: %d images beside the class folders are left out", root, loose)
    if classes is None:
        return _build(tree, root, {f: [f] for f in folders}, folders, hint)
    return _official(tree, root, folders, classes, hint)


def existing(root: Path, hint: str) -> str:
    """A folder of this machine; UserError for what is none."""
    if root.is_dir():
        return str(root)
    reason = "is a file, not a folder" if root.exists() else "does not exist"
    if root.exists() and root.suffix.lower() in RASTERS | POINTERS:
        reason += f"; for windows of a scene type dataset=scene dataset.scenes={root}"
    raise UserError(f"The image folder {root} {reason}. {hint}")


def _official(tree: Tree, root: str, folders: list[str], classes: Sequence[str], hint: str) -> Catalog:
    """The catalog of a dataset whose classes have official names."""
    by_name: dict[str, list[str]] = {}
    extra: list[str] = []
    for folder in folders:
        name = _match(folder, classes)
        if name is None:
            if next(tree.images(f"{root}/{folder}", root), None) is None:
                continue  # documentation beside the classes
            name = folder
            extra.append(name)
        by_name.setdefault(name, []).append(folder)
    if 2 * len(extra) > len(by_name):
        names, known = ", ".join(folders[:8]), len(by_name) - len(extra)
        like = looks_like(folders, _match)
        right = f"It looks like dataset={like}. " if like else ""
        raise UserError(
            f"{f'Only {known}' if known else 'No'} folder in {root} is a class of this dataset (found: {names}; "
            f"expected e.g. {classes[0]}, {classes[-1]}). {right}{hint} For any other tree of class folders use "
            "dataset=folder."
        )
    for name in extra:
        close = nearest(name, classes)
        meant = f" (the nearest is {close})" if close else ""
        log.warning("%s: folder %r is not an official class%s; it is taken as an extra class", root, name, meant)
    for name, same in by_name.items():
        if len(same) > 1:
            raise UserError(f"Two folders of {root} are the class {name}: {', '.join(same)}. Merge them or rename one.")
    return _build(tree, root, by_name, [c for c in classes if c in by_name] + extra, hint)


def _build(tree: Tree, root: str, by_name: dict[str, list[str]], names: list[str], hint: str) -> Catalog:
    """The catalog of the images in the folders of each class, "" for the root itself; without `names` they are
    unlabelled."""
    label_of = {folder: names.index(name) if names else -1 for name, folders in by_name.items() for folder in folders}
    labels = array("q")

    def paths() -> Iterator[str]:
        for folder in sorted(label_of, key=lambda name: os.fsencode(name) + b"/"):  # as the bytes of paths
            before = len(labels)
            for path in tree.images(f"{root}/{folder}" if folder else root, root):
                labels.append(label_of[folder])
                yield f"{folder}/{path}" if folder else path
            if names and len(labels) == before:
                raise UserError(
                    f"The class folder {root}/{folder} holds no image. Put images into it, or remove it: rmdir "
                    f"'{root}/{folder}'"
                )

    every = Names.of(paths())
    if not len(every):
        raise UserError(f"There is no image under {root} (looked for {' '.join(sorted(EXTENSIONS))}). {hint}")
    given = tree.states_of(root, list(every)) if isinstance(tree, Elsewhere) else None
    root = root if given is not None else str(Path(root).resolve())
    return Catalog(root, every, np.frombuffer(labels, np.int64), tuple(names), Files(root), given=given)


def rasters_below(folder: Path) -> list[Path]:
    """The rasters in a folder and below, hidden ones and what only names other files left out."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    files = [p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    if pointers := [p for p in files if p.suffix.lower() in POINTERS]:
        text = "%s names other files, and is left out of the rasters in %s (%d such files): one alone can be typed"
        log.warning(text, pointers[0].name, folder, len(pointers))
    return [p for p in files if p.suffix.lower() in EXTENSIONS]


def _match(folder: str, classes: Sequence[str]) -> str | None:
    by_key = {key(c): c for c in classes}
    # RSSCN7 is published with a letter before each name: aGrass, bField, ...
    return by_key.get(key(folder)) or (by_key.get(key(folder)[1:]) if folder[1:2].isupper() else None)


def _unwrap(tree: Tree, root: str, classes: Sequence[str] | None) -> str:
    """Step through folders that only wrap the class folders (an archive may unpack as UCMerced/Images/)."""
    for _ in range(8):
        folders = tree.folders(root)
        if classes is not None:
            if any(_match(f, classes) for f in folders):
                return root
            wrapping = [f for f in folders if any(_match(g, classes) for g in tree.folders(f"{root}/{f}"))]
            folders = wrapping or folders
        if len(folders) != 1 or tree.loose(root):
            return root
        inner = f"{root}/{folders[0]}"
        if not tree.folders(inner) or tree.loose(inner):
            return root  # the one folder is a class itself
        root = inner
    return root
