"""Which of the datasets that come with rsssl a folder of classes looks like."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import resources

from omegaconf import DictConfig, OmegaConf

from rsssl.groups import group_options


def looks_like(folders: Iterable[str], match: Callable[[str, Sequence[str]], str | None]) -> str | None:
    """The option of `dataset=` most of whose classes are among the folders; None where none has half of them.

    Args:
        folders: names of folders.
        match: the class of those given that a name means, None for none.
    """
    names, shares = list(folders), dict[str, float]()
    for option in group_options("dataset"):
        card = OmegaConf.create(resources.files("rsssl.conf").joinpath(f"dataset/{option}.yaml").read_text())
        classes = card.get("classes") if isinstance(card, DictConfig) else None
        if classes:
            found = {match(name, list(classes)) for name in names} - {None}
            shares[option] = len(found) / max(len(classes), len(names))
    best = max(shares, key=lambda option: shares[option], default=None)
    return best if best and shares[best] >= 0.5 else None
