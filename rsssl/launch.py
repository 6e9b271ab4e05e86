"""How a job is started and kept to itself: by a sweep's launcher, on several processes, and alone in its run folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rsssl.engine.cores import cores
from rsssl.engine.files import locked
from rsssl.engine.stop import SENT
from rsssl.errors import UserError

OURS = {*SENT} - {signal.SIGTERM}  # SLURM sends them to every process of a job; torchrun would die of them
KILL_WAIT = 30.0  # seconds that SLURM leaves a job between SIGTERM and its end


@dataclass(frozen=True)
class Launch:
    """How Hydra has started this job: read from Hydra's state once.

    Args:
        folder: the job's output folder (hydra.run.dir, or its place in the sweep).
        options: the chosen option of each group by its name.
        overrides: of this job, as they were typed.
        config_dirs: what --config-dir gave.
        sweep_dir: the folder of the sweep, of a job that was launched.
        launched: whether one of Hydra's launchers, of another process or another machine, has started this process.
        keeps_folder: whether the folder is this job's own; some tasks leave their record beside what they make.
    """

    folder: Path
    options: Mapping[str, str]
    overrides: list[str]
    config_dirs: list[str]
    sweep_dir: str
    launched: bool
    keeps_folder: bool

    @classmethod
    def of_hydra(cls) -> Launch:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        settings = HydraConfig.get()
        basic = str(settings.launcher._target_).endswith(".BasicLauncher")
        launched = settings.mode == RunMode.MULTIRUN and not basic
        sources = settings.runtime.config_sources
        return cls(
            folder=Path(settings.runtime.output_dir),
            options={str(k): str(v) for k, v in settings.runtime.choices.items()},
            overrides=list(settings.overrides.task),
            config_dirs=[s.path.removeprefix("file://") for s in sources if s.provider == "command-line"],
            sweep_dir=str(settings.sweep.dir) if launched else "",
            launched=launched,
            keeps_folder=settings.output_subdir is not None,
        )


def add_to_path(folders: list[str]) -> None:
    """A user's own method is a Python file beside their YAML, or in the folder they work in.

    Last on the path: a file of theirs that is called like a package must not take its place.
    """
    found = [str(Path(folder).resolve()) for folder in [*folders, "."]]
    sys.path += [folder for folder in found if folder not in sys.path]


def after(signum: int, before: Any, launch: Launch) -> None:
    """Ends a job that a signal has stopped, as its launcher wants it (`before`, its handler). Returns when the job is
    to go on.

    submitit puts the job back into the queue on a signal of its own, and ignores SIGTERM. That one SLURM sends first,
    or alone before it takes the machine away and puts the job back itself: a job that has ended by then would not come
    back.
    """
    if callable(before):
        before(signum, None)
        if launch.launched:
            text = f"rsssl: waiting for the launcher's own signal, or the end; going on in {KILL_WAIT:.0f} s"
            print(text, file=sys.stderr, flush=True)
            time.sleep(KILL_WAIT)
            return
    sys.exit(128 + signum)


def under_torchrun(processes: int, launch: Launch) -> None:
    """This job's command again, on that many processes of this machine; ends with its exit code when that is not 0.

    A signal is passed on as SIGTERM, which torchrun hands to its processes, and what a launcher does on it (submitit
    puts the job back into the queue) is done afterwards.

    Raises:
        UserError: in a launcher's process, when they have failed.
    """
    folder = str(launch.folder).replace("\\", "\\\\").replace("'", "\\'")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "rsssl.run", *launch.overrides, f"hydra.run.dir='{folder}'"]
    command += [part for config_dir in launch.config_dirs for part in ("--config-dir", config_dir)]
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // processes))
    env = os.environ | {"OMP_NUM_THREADS": threads}
    received: list[int] = []

    def pass_on(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        child.send_signal(signal.SIGTERM)

    before = {number: signal.getsignal(number) for number in SENT}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, OURS) if OURS else set()  # what is started inherits it
    child = subprocess.Popen(command, env=env)
    for number in SENT:
        signal.signal(number, pass_on)
    if OURS:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        code = child.wait()
    except KeyboardInterrupt:  # the terminal has sent it to the processes too
        code = child.wait()
        received.append(signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received and code:
        signum = next((s for s in received if s != signal.SIGTERM), received[0])  # a launcher's own signal counts
        after(signum, before.get(signal.Signals(signum)), launch)
        return under_torchrun(processes, launch)
    if code and launch.launched:
        raise UserError(
            f"the {processes} processes of {launch.folder} ended with exit code {code}: read what they said, above "
            f"or in {launch.sweep_dir}/.submitit/*/*.err, and type the same command again"
        )
    if code:
        sys.exit(code)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """A lock on a run folder; the system takes it away from a process that has died.

    Raises:
        UserError: when another process has it.
    """
    owner = folder / ".owner"
    who = owner.read_text() if owner.is_file() else "another process"
    busy = (
        f"{folder} is the run folder of {who}, which is still at work: wait for it, or type hydra.run.dir=DIR with "
        f"another "
        "folder"
    )
    with locked(folder / ".lock", busy):
        try:
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}")
            yield
        finally:
            owner.unlink(missing_ok=True)
