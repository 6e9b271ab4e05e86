"""From a folder tree to a list of images with class numbers: one folder is one class."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsssl.errors import UserError, nearest

log = logging.getLogger(__name__)

EXTENSIONS = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".png",
        ".bmp",
        ".webp",
        ".gif",
        ".tif",
        ".tiff",
        ".jp2",
        ".j2k",
        ".img",
        ".vrt",
        ".ntf",
        ".nitf",
        ".bil",
        ".bsq",
        ".pix",
        ".ers",
    }
)


@dataclass(frozen=True)
class Catalog:
    """The images of one dataset, sorted by the bytes of their paths.

    `paths` are POSIX paths relative to `root`; `labels` int64 (N,) index `classes`, -1 for an unlabelled image.
    """

    root: Path
    paths: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: np.ndarray) -> Catalog:
        """The images at `indices` (sorted, so that the order stays that of the paths); the classes stay."""
        kept = np.sort(indices)
        return Catalog(self.root, tuple(self.paths[i] for i in kept), self.labels[kept], self.classes)


def source_listing(catalog: Catalog) -> str:
    """sha256 over every file's path, size and modification time: when it changes, the source was changed."""
    return listing(catalog.root, catalog.paths)


def listing(root: Path, paths: Sequence[str]) -> str:
    """`source_listing` of any paths relative to a folder, of which some may be missing."""
    digest = hashlib.sha256()
    for path in paths:
        name = os.path.join(root, path)
        stat = _stat(os.stat, name) or _stat(os.lstat, name)  # a link may lead nowhere
        known = f"\0{stat.st_size}\0{stat.st_mtime_ns}\n" if stat else "\0missing\n"
        digest.update(os.fsencode(path) + known.encode())
    return digest.hexdigest()


def _stat(look: Callable[[str], os.stat_result], name: str) -> os.stat_result | None:
    try:
        return look(name)
    except OSError:
        return None


def scan(
    root: str | Path,
    classes: Sequence[str] | None = None,
    extensions: frozenset[str] = EXTENSIONS,
    hint: str = "Point dataset.root=FOLDER at a folder that holds one folder of images per class.",
) -> Catalog:
    """List the images under `root`.

    classes: the official names, in order; folders match in any capitalisation and with `_`, `-` or spaces; a subset
      is fine; other folders with images become extra classes, with a warning. None: every folder is a class, sorted.
      []: no classes, every image under `root` is unlabelled.
    Folders that an archive wraps around the classes are followed. Images and no folders: unlabelled.
    Raises UserError when there is nothing to read, or when a class folder holds no image; `hint` ends the message.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise UserError(f"The image folder {root} {what}. {hint}")
    if classes is not None and len(classes) == 0:
        return _build(root, {"": [root]}, [], extensions, hint)
    root = _unwrap(root, classes, extensions)
    folders = _subfolders(root)
    if not folders:
        return _build(root, {"": [root]}, [], extensions, hint)
    loose = sum(1 for entry in os.scandir(root) if _is_image(entry, extensions))
    if loose:
        log.warning("%s: %d images beside the class folders are left out", root, loose)
    if classes is None:
        return _build(root, {f.name: [f] for f in folders}, [f.name for f in folders], extensions, hint)
    return _official(root, folders, classes, extensions, hint)


def _official(
    root: Path, folders: list[Path], classes: Sequence[str], extensions: frozenset[str], hint: str
) -> Catalog:
    by_name: dict[str, list[Path]] = {}
    extra: list[str] = []
    for folder in folders:
        name = _match(folder.name, classes)
        if name is None:
            if next(_images(folder, extensions), None) is None:
                continue  # documentation beside the classes
            name = folder.name
            extra.append(name)
        by_name.setdefault(name, []).append(folder)
    if len(extra) == len(by_name):
        found = ", ".join(f.name for f in folders[:8])
        raise UserError(
            f"No folder in {root} is a class of this dataset (found: {found}; expected e.g. {classes[0]}, "
            f"{classes[-1]}). {hint} For any other tree of class folders use dataset=folder."
        )
    for name in extra:
        close = nearest(name, classes)
        log.warning(
            "%s: folder %r is not an official class%s; it is taken as an extra class",
            root,
            name,
            f" (the nearest is {close})" if close else "",
        )
    for name, same in by_name.items():
        if len(same) > 1:
            raise UserError(
                f"Two folders of {root} are the class {name}: {', '.join(f.name for f in same)}. "
                "Merge them or rename one."
            )
    return _build(root, by_name, [c for c in classes if c in by_name] + extra, extensions, hint)


def _build(
    root: Path, by_name: dict[str, list[Path]], names: list[str], extensions: frozenset[str], hint: str
) -> Catalog:
    found: list[tuple[bytes, int]] = []
    for name, folders in by_name.items():
        label = names.index(name) if names else -1
        for folder in folders:
            before = len(found)
            inside = folder.relative_to(root).as_posix()
            above = "" if inside == "." else inside + "/"
            found += [(os.fsencode(above + path), label) for path in _images(folder, extensions)]
            if names and len(found) == before:
                raise UserError(
                    f"The class folder {folder} holds no image. Put images into it, or remove it: rmdir '{folder}'"
                )
    if not found:
        raise UserError(f"There is no image under {root} (looked for {' '.join(sorted(extensions))}). {hint}")
    found.sort()
    labels = np.array([label for _, label in found], dtype=np.int64)
    return Catalog(root.resolve(), tuple(os.fsdecode(p) for p, _ in found), labels, tuple(names))


def key(name: str) -> str:
    """A class name without capitalisation, underscores, hyphens and spaces."""
    return "".join(c for c in name.lower() if c not in "_- ")


def _match(folder: str, classes: Sequence[str]) -> str | None:
    by_key = {key(c): c for c in classes}
    # RSSCN7 is published with a letter before each name: aGrass, bField, ...
    return by_key.get(key(folder)) or (by_key.get(key(folder)[1:]) if folder[1:2].isupper() else None)


def _unwrap(root: Path, classes: Sequence[str] | None, extensions: frozenset[str]) -> Path:
    """Step through folders that only wrap the class folders (an archive may unpack as UCMerced/Images/)."""
    for _ in range(8):
        folders = _subfolders(root)
        if classes is not None:
            if any(_match(f.name, classes) for f in folders):
                return root
            inside = [f for f in folders if any(_match(g.name, classes) for g in _subfolders(f))]
            folders = inside or folders
        has_images = any(_is_image(entry, extensions) for entry in os.scandir(root))
        if len(folders) != 1 or has_images:
            return root
        only = folders[0]
        if not _subfolders(only) or any(_is_image(entry, extensions) for entry in os.scandir(only)):
            return root  # the one folder is a class itself
        root = only
    return root


def _subfolders(folder: Path) -> list[Path]:
    names = [e.name for e in os.scandir(folder) if _is_folder(e)]
    return [folder / name for name in sorted(names, key=os.fsencode)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))
    except OSError:  # a link to itself
        return False


def _is_image(entry: os.DirEntry[str], extensions: frozenset[str]) -> bool:
    """Links that lead nowhere count: whoever reads them says so."""
    if entry.name.startswith(".") or os.path.splitext(entry.name)[1].lower() not in extensions:
        return False
    try:
        return entry.is_file() or not os.path.exists(entry.path)
    except OSError:
        return True


def _images(
    folder: str | Path, extensions: frozenset[str], above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[str]:
    """POSIX paths, relative to `folder`, of the images in it and below."""
    stat = os.stat(folder)
    if (stat.st_dev, stat.st_ino) in above:
        return  # a symbolic link to a folder that we are inside of
    above |= {(stat.st_dev, stat.st_ino)}
    for entry in os.scandir(folder):
        if _is_image(entry, extensions):
            yield entry.name
        elif _is_folder(entry):
            for path in _images(entry.path, extensions, above):
                yield f"{entry.name}/{path}"
