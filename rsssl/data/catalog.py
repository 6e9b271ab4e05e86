"""From a folder tree to a list of images with class numbers: one folder is one class."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsssl.data.decoders import PICTURES, POINTERS, RASTERS
from rsssl.data.official import looks_like
from rsssl.data.raster import Raster, read
from rsssl.errors import UserError, nearest

log = logging.getLogger(__name__)

EXTENSIONS = PICTURES | RASTERS.keys()


@dataclass(frozen=True)
class Catalog:
    """The N images of one dataset, sorted by the bytes of their paths.

    Args:
        root: the folder.
        paths: POSIX paths relative to it.
        labels: int64 (N,), numbers of classes, -1 for an unlabelled image.
        classes: their names.
    """

    root: Path
    paths: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, i: int, bands: int | None = None) -> Raster:
        """Image number i; see `rsssl.data.raster.read`."""
        return read(self.root / self.paths[i], bands)

    def listing(self) -> str:
        """sha256 over every file's path, size and modification time, as they were when first asked for.

        When it changes, the source was changed. Other content of the same size and time is not noticed: that would take
        reading all files, nearly as long as packing them.
        """
        return _digest(self._states)

    def changed(self) -> list[str]:
        """The paths of files that are not what they were when `listing` was first asked for."""
        now = _states(self.root, self.paths)
        return [path for path, before, after in zip(self.paths, self._states, now, strict=True) if before != after]

    def refuse_changed(self) -> None:
        """Raises UserError for files that changed while they were packed: nobody knows which content was read."""
        if changed := self.changed():
            first, more = self.root / changed[0], f" and {len(changed) - 1} more" if changed[1:] else ""
            raise UserError(f"{first}{more} changed while the images were packed: type the same command again")

    @functools.cached_property
    def _states(self) -> list[bytes]:
        return _states(self.root, self.paths)


def listing(root: Path, paths: Sequence[str]) -> str:
    """`Catalog.listing` of any paths, of which some may be missing.

    Args:
        root: the folder.
        paths: relative to it.
    """
    return _digest(_states(root, paths))


def _digest(states: list[bytes]) -> str:
    return hashlib.sha256(b"".join(states)).hexdigest()


def _states(root: Path, paths: Sequence[str]) -> list[bytes]:
    return [os.fsencode(path) + _state(os.path.join(root, path)) for path in paths]


def _state(name: str) -> bytes:
    try:
        stat = os.stat(name)
    except OSError:
        try:
            stat = os.lstat(name)  # a link that leads nowhere
        except OSError:
            return b"\0missing\n"
    return b"\0%d\0%d\n" % (stat.st_size, stat.st_mtime_ns)


def scan(
    root: str | Path,
    classes: Sequence[str] | None = None,
    hint: str = "Point dataset.root=FOLDER at a folder that holds one folder of images per class.",
) -> Catalog:
    """List the images under a folder.

    Folders that an archive wraps around the classes are followed, and links, but not to a folder that they lie in.
    Where there are images and no folders, the images are unlabelled.

    Args:
        root: the folder.
        classes: the official names, in order; folders match in any capitalisation and with `_`, `-` or spaces; not
            every class needs a folder; other folders with images become extra classes, with a warning. None: every
            folder is a class, sorted. []: no classes, every image under `root` is unlabelled.
        hint: ends the message of an error.

    Raises:
        UserError: when there is nothing to read, or when a class folder holds no image.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        reason = "is a file, not a folder" if root.exists() else "does not exist"
        if root.exists() and root.suffix.lower() in RASTERS | POINTERS:
            reason += f"; for windows of a scene type dataset=scene dataset.scenes={root}"
        raise UserError(f"The image folder {root} {reason}. {hint}")
    if classes is not None and len(classes) == 0:
        return _build(root, {"": [root]}, [], hint)
    root = _unwrap(root, classes)
    folders = _subfolders(root)
    if not folders:
        return _build(root, {"": [root]}, [], hint)
    if loose := sum(map(_is_image, os.scandir(root))):
        log.warning("%s: %d images beside the class folders are left out", root, loose)
    if classes is None:
        return _build(root, {f.name: [f] for f in folders}, [f.name for f in folders], hint)
    return _official(root, folders, classes, hint)


def _official(root: Path, folders: list[Path], classes: Sequence[str], hint: str) -> Catalog:
    """The catalog of a dataset whose classes have official names."""
    by_name: dict[str, list[Path]] = {}
    extra: list[str] = []
    for folder in folders:
        name = _match(folder.name, classes)
        if name is None:
            if next(_images(folder, _lineage(root)), None) is None:
                continue  # documentation beside the classes
            name = folder.name
            extra.append(name)
        by_name.setdefault(name, []).append(folder)
    if 2 * len(extra) > len(by_name):
        names, known = ", ".join(f.name for f in folders[:8]), len(by_name) - len(extra)
        like = looks_like([f.name for f in folders], _match)
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
            raise UserError(
                f"Two folders of {root} are the class {name}: {', '.join(f.name for f in same)}. "
                "Merge them or rename one."
            )
    return _build(root, by_name, [c for c in classes if c in by_name] + extra, hint)


def _build(root: Path, by_name: dict[str, list[Path]], names: list[str], hint: str) -> Catalog:
    """The catalog of the images in the folders of each class; without `names` they are unlabelled."""
    images: list[tuple[bytes, int]] = []
    for name, folders in by_name.items():
        label = names.index(name) if names else -1
        for folder in folders:
            prefix, above = "", frozenset[Path]()
            if folder != root:
                prefix, above = folder.relative_to(root).as_posix() + "/", _lineage(root)
            inside = [(os.fsencode(prefix + path), label) for path in _images(folder, above)]
            if names and not inside:
                raise UserError(
                    f"The class folder {folder} holds no image. Put images into it, or remove it: rmdir '{folder}'"
                )
            images += inside
    if not images:
        raise UserError(f"There is no image under {root} (looked for {' '.join(sorted(EXTENSIONS))}). {hint}")
    images.sort()
    labels = np.array([label for _, label in images], dtype=np.int64)
    return Catalog(root.resolve(), tuple(os.fsdecode(p) for p, _ in images), labels, tuple(names))


def rasters_below(folder: Path) -> list[Path]:
    """The rasters in a folder and below, hidden ones and what only names other files left out."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    files = [p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    if pointers := [p for p in files if p.suffix.lower() in POINTERS]:
        text = "%s names other files, and is left out of the rasters in %s (%d such files): one alone can be typed"
        log.warning(text, pointers[0].name, folder, len(pointers))
    return [p for p in files if p.suffix.lower() in EXTENSIONS]


def key(name: str) -> str:
    """A class name without capitalisation, underscores, hyphens and spaces."""
    return "".join(c for c in name.lower() if c not in "_- ")


def _match(folder: str, classes: Sequence[str]) -> str | None:
    by_key = {key(c): c for c in classes}
    # RSSCN7 is published with a letter before each name: aGrass, bField, ...
    return by_key.get(key(folder)) or (by_key.get(key(folder)[1:]) if folder[1:2].isupper() else None)


def _unwrap(root: Path, classes: Sequence[str] | None) -> Path:
    """Step through folders that only wrap the class folders (an archive may unpack as UCMerced/Images/)."""
    for _ in range(8):
        folders = _subfolders(root)
        if classes is not None:
            if any(_match(f.name, classes) for f in folders):
                return root
            wrapping = [f for f in folders if any(_match(g.name, classes) for g in _subfolders(f))]
            folders = wrapping or folders
        if len(folders) != 1 or _holds_images(root):
            return root
        if not _subfolders(folders[0]) or _holds_images(folders[0]):
            return root  # the one folder is a class itself
        root = folders[0]
    return root


def _subfolders(folder: Path) -> list[Path]:
    names = [e.name for e in os.scandir(folder) if _is_folder(e)]
    return [folder / name for name in sorted(names, key=os.fsencode)]


def _holds_images(folder: Path) -> bool:
    return any(map(_is_image, os.scandir(folder)))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))
    except OSError:  # a link to itself
        return False


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Whether it is named like an image. A link that leads nowhere is one, and a pipe, and what only names other files:
    reading it gives an error that names it.
    """
    suffix = os.path.splitext(entry.name)[1].lower()
    if entry.name.startswith(".") or (suffix not in EXTENSIONS and suffix not in POINTERS):
        return False
    try:
        return not entry.is_dir()
    except OSError:
        return True


def _lineage(folder: str | Path) -> frozenset[Path]:
    """A folder and those that it lies in, without links."""
    real = Path(folder).resolve()
    return frozenset((real, *real.parents))


def _images(folder: str | Path, above: frozenset[Path] = frozenset()) -> Iterator[str]:
    """POSIX paths, relative to `folder`, of the images in it and below; none where it is one of those `above`, to which
    a link led back.
    """
    if Path(folder).resolve() in above:
        return
    above |= _lineage(folder)
    for entry in os.scandir(folder):
        if _is_image(entry):
            yield entry.name
        elif _is_folder(entry):
            for path in _images(entry.path, above):
                yield f"{entry.name}/{path}"
