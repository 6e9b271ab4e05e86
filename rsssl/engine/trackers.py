"""What shows a training beside `metrics.csv`: TensorBoard, Weights & Biases, MLflow; each imported where it is used."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from rsssl.engine.files import write_atomic
from rsssl.engine.tracking import Numbers, Tracker
from rsssl.errors import UserError

log = logging.getLogger(__name__)
SQLITE = "sqlite:///"
PAUSE = 60  # seconds that a service that has failed is left alone
MOST = 6000  # letters of a parameter that MLflow takes


class TensorBoard(Tracker):
    """Event files in `<folder>/tensorboard`."""

    def begin(self, folder: Path, step: int, before: Mapping[int, Numbers]) -> None:
        self._writer: Any = None
        try:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        except ImportError:
            log.warning("TensorBoard is not installed: pip install tensorboard, or type tracker=csv")

    def send(self, step: int, values: Numbers) -> None:
        for name, value in values.items() if self._writer else ():
            self._writer.add_scalar(name, value, step)

    def show(self, step: int, name: str, pixels: Any) -> None:
        if self._writer:
            self._writer.add_image(name, pixels, step, dataformats="HWC")

    def end(self, finished: bool) -> None:
        if self._writer:
            self._writer.close()


class WandB(Tracker):
    """Weights & Biases, https://docs.wandb.ai. Offline the run lies in `<folder>/wandb`, for `wandb sync`.

    wandb cannot go on with an offline run, keeps back what was logged last, and `wandb sync` puts a second run of one
    name in place of the first. So a resumed training writes its run anew, with the numbers and pictures up to there.
    Online the server says how far it is, and gets what it lacks.

    Args:
        mode: "offline", or "online" (after `wandb login`).
        project: in which runs stand beside each other.
        settings: of `wandb.Settings`.
    """

    needs: ClassVar[str] = "wandb"

    def __init__(self, mode: str, project: str, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.mode, self.project, self.settings = mode, project, dict(settings)

    def begin(self, folder: Path, step: int, before: Mapping[int, Numbers]) -> None:
        if self.mode != "online":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it would use the network
            shutil.rmtree(folder / "wandb", ignore_errors=True)
        import wandb

        try:
            self._run = wandb.init(
                id=self._run_id(folder),
                name=self.name,
                project=self.project,
                config=self.config,
                dir=str(folder),
                mode=self.mode,  # type: ignore[arg-type]
                resume="allow" if self.mode == "online" else None,
                settings=wandb.Settings(**self.settings),
            )
        except (wandb.errors.Error, ValueError) as error:
            reason = str(error).splitlines()[0]
            mode = "tracker.mode=offline, or wandb login for tracker.mode=online"
            raise UserError(f"tracker.mode={self.mode}: {reason}: type {mode}") from error
        self._next = self._run.step  # all before is there
        pictures = dict(earlier_pictures(folder, step))
        for at in sorted({*before, *pictures}):
            self.send(at, before.get(at, {}))
            if at in pictures:
                self.show(at, "pictures", str(pictures[at]))
        if self.mode == "online":
            log.info("wandb: %s", self._run.url)
        else:
            log.info("wandb: to send the run to the server type wandb sync %s", Path(self._run.dir).parent)

    def _run_id(self, folder: Path) -> str:
        """The name under which the server knows this training, for as long as its folder is there."""
        if (known := read_id(folder, self.needs)) is None:
            known = write_id(folder, self.needs, uuid.uuid4().hex)
        return known

    def send(self, step: int, values: Numbers) -> None:
        if step >= self._next:
            self._run.log(values, step=step)

    def show(self, step: int, name: str, pixels: Any) -> None:
        import wandb

        if step >= self._next:
            self._run.log({name: wandb.Image(pixels)}, step=step)

    def end(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class MLflow(Tracker):
    """MLflow, https://mlflow.org: `mlflow ui --backend-store-uri URI` shows the runs.

    Args:
        uri: of the tracking server, or sqlite:///FILE. (MLflow's folders of files are no longer developed.)
        experiment: in which runs stand beside each other.
    """

    needs: ClassVar[str] = "mlflow"

    def __init__(self, uri: str, experiment: str) -> None:
        super().__init__()
        self.uri, self.experiment = uri, experiment
        if uri.startswith(SQLITE):
            self.uri = SQLITE + str(Path(uri.removeprefix(SQLITE)).expanduser().absolute())
        self._pending, self._again = list[Any](), 0.0  # numbers that are to be sent; not before that time
        self.shown = re.sub("//[^/]*@", "//", self.uri)  # without a password

    def begin(self, folder: Path, step: int, before: Mapping[int, Numbers]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would use the network
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # of a server that is gone, with longer waits
        logging.getLogger("alembic").setLevel(logging.WARNING)  # a line for each change that tables ever had
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        try:
            self._client = MlflowClient(self.uri)
            known = read_id(folder, self.needs)
            if known is None or not self._there(known):
                known = write_id(folder, self.needs, self._new_run())
            self._id = known
            names = self._client.get_run(known).data.metrics
            self._last = {n: max(m.step for m in self._client.get_metric_history(known, n)) for n in names}
            self._client.update_run(known, "RUNNING")
        except (MlflowException, ImportError) as error:
            install = "pip install 'rsssl[mlflow]'" if isinstance(error, ImportError) else "another tracker.uri="
            reason = str(error).splitlines()[0]
            raise UserError(f"tracker.uri={self.shown}: {reason}: type {install}, or tracker=csv") from error
        log.info("MLflow: to see the run type mlflow ui --backend-store-uri %s (pip install mlflow)", self.shown)
        for at in sorted(before):
            self.send(at, before[at])
        for _, file in earlier_pictures(folder, step):
            self._client.log_artifact(self._id, str(file), "pictures")

    def _there(self, run_id: str) -> bool:
        """Whether the service knows a run: it may be another one than before."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True

    def _new_run(self) -> str:
        """The id of a run in the experiment, which is made where there is none, with the configuration."""
        from mlflow.entities import Param

        known = self._client.get_experiment_by_name(self.experiment)
        if known is None:
            local = self.uri.startswith(SQLITE)
            files = Path(self.uri.removeprefix(SQLITE)).with_suffix("").as_uri() if local else None
            number = self._client.create_experiment(self.experiment, files)
        run_id = self._client.create_run(known.experiment_id if known else number, run_name=self.name).info.run_id
        parameters = [Param(key, str(value)[:MOST]) for key, value in flat(self.config)]
        for start in range(0, len(parameters), 100):  # at a time, not more
            self._client.log_batch(run_id, params=parameters[start : start + 100])
        return str(run_id)

    def send(self, step: int, values: Numbers) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        for name, value in values.items():
            key = re.sub(r"[^\w\-. /:]", "_", name)
            if step > self._last.get(key, -1):
                self._last[key] = step
                self._pending.append(Metric(key, value, now, step))
        if self._asked(lambda: self._client.log_batch(self._id, metrics=self._pending[:1000])):
            del self._pending[:1000]

    def show(self, step: int, name: str, pixels: Any) -> None:
        self._asked(lambda: self._client.log_image(self._id, pixels, f"{name}/step-{step:07d}.png"))

    def end(self, finished: bool) -> None:
        self._again = 0.0
        self.send(0, {})
        self._asked(lambda: self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED"))

    def _asked(self, request: Callable[[], object]) -> bool:
        """Whether the service has done it: a training neither ends with its tracker, nor waits for it at each step."""
        from mlflow.exceptions import MlflowException

        if time.monotonic() < self._again:
            return False
        try:
            request()
        except MlflowException as error:
            self._again = time.monotonic() + PAUSE
            log.warning("MLflow at %s: %s", self.shown, str(error).splitlines()[0])
            return False
        return True


def read_id(folder: Path, service: str) -> str | None:
    """The name under which a service knows the training of a folder; None before it does."""
    file = folder / f".{service}-id"  # hidden: no result follows from it
    return file.read_text() if file.is_file() else None


def write_id(folder: Path, service: str, name: str) -> str:
    """Keeps it there."""
    write_atomic(folder / f".{service}-id", name.encode())
    return name


def earlier_pictures(folder: Path, step: int) -> list[tuple[int, Path]]:
    """The pictures in a training's folder up to that step, with their steps, in order."""
    files = [(int(file.stem.removeprefix("step-")), file) for file in folder.glob("pictures/step-*.png")]
    return sorted((at, file) for at, file in files if at <= step)


def flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all that a configuration holds."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
