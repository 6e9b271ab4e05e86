"""What the house knows of the job that it does: made once, where the command line is read, and handed down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsssl.engine.files import explain_os_error
from rsssl.engine.store import Store, digest

if TYPE_CHECKING:
    import torch

# What cannot change a result is not part of the configuration's hash.
NOT_IN_THE_HASH = ("paths", "tracker", "pack", "device", "compile", "distributed", "workers", "processes", "timeout")


@dataclass(frozen=True)
class Run:
    """One job's surroundings.

    Args:
        folder: where its records go; made when something is written there.
        store: where packed data, pre-trained weights and features are kept.
        options: the chosen option of each group by its name, {"ssl": "simclr", ...}.
        config: the resolved configuration, for records.
        option: (group, name) -> the object's configuration that `group=name` composes to, and for a dataset the
            `Dataset`.
        device_name: auto, cpu, cuda or cuda:N.
        workers: processes that decode images, threads that read them; None for as many as there are cores.
        timeout: seconds without progress after which a rank ends, when there are several.
        typed: the overrides as they were typed, for records.
    """

    folder: Path
    store: Store
    options: Mapping[str, str]
    config: dict[str, Any] = field(repr=False)
    option: Callable[[str, str], Any] = field(repr=False)
    device_name: str = "auto"
    workers: int | None = None
    timeout: float = 600.0
    typed: tuple[str, ...] = ()

    @cached_property
    def device(self) -> torch.device:
        """Where networks compute.

        Raises:
            UserError: when there is no such device.
        """
        from rsssl.engine.device import pick_device

        return pick_device(self.device_name)

    @property
    def config_hash(self) -> str:
        """Of everything in the configuration that can change a result."""
        return digest(self.deciding)

    @property
    def deciding(self) -> dict[str, Any]:
        """Of the configuration, what can change a result."""
        return {k: v for k, v in self.config.items() if k not in NOT_IN_THE_HASH}

    def record(self, name: str) -> Path:
        """A file of that name in the run folder, which is made.

        Raises:
            UserError: when the folder cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain_os_error(error, self.folder) from error
        return self.folder / name

    def save_config(self, folder: Path | None = None) -> None:
        """Writes the resolved configuration as YAML into the run folder, or another one."""
        from omegaconf import OmegaConf

        from rsssl.engine.files import write_atomic

        file = folder / "config.yaml" if folder else self.record("config.yaml")
        write_atomic(file, OmegaConf.to_yaml(OmegaConf.create(self.config)).encode())
