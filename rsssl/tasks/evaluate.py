"""`task=evaluate`: weights that exist, evaluated from `ts` labels per class on the fixed test set, baselines beside."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsssl.checks import positive, train_scale
from rsssl.engine.run import Run
from rsssl.errors import UserError
from rsssl.tasks.pretrain import Pretrain

if TYPE_CHECKING:
    from rsssl.evaluation.features import Weights
    from rsssl.evaluation.job import Job
    from rsssl.models.preprocess import Preprocess
    from rsssl.networks.starts import Start

log = logging.getLogger(__name__)
# What a classifier's file says of how it was made and how good it is.
NOTED = (
    *("dataset", "ssl", "start", "backbone", "evaluate", "ts", "seed", "protocol", "n_train", "n_drawn", "n_test"),
    *("oa", "aa", "kappa", "split", "per_class", "baselines", "tta", "versions", "config_hash", "split_hash"),
    "finished",
)


@dataclass
class FinetuneKeys:
    """The keys `finetune.*`, of `evaluate=finetune`, `selftrain` and `scratch`.

    Args:
        epochs: passes over the images.
        steps: in place of whole epochs.
        batch_size: images in a batch.
        lr: peak learning rate of the head.
        backbone_lr_scale: what the backbone's is times that, when it was pre-trained.
        augment: the name of an augmentation policy.
    """

    epochs: int
    steps: int | None
    batch_size: int
    lr: float
    backbone_lr_scale: float
    augment: str


@dataclass
class Evaluate(Pretrain):
    """Trains a classifier with `ts` labels per class and tests it. Its keys are these, and those of `task=pretrain`.

    Args:
        evaluate: the classifier.
        finetune: see `FinetuneKeys`.
        ts: labels per class, a fraction of the pool, or "all".
        seed: draws the labelled images and the classifier.
        tta: average over the eight flips and quarter turns of the test images.
        baselines: evaluate the start, a random network and the image statistics too.
        image_size: pixels at which the network sees images; None: as it was trained.
        checkpoint: weights that exist.
    """

    evaluate: dict[str, Any]
    finetune: FinetuneKeys
    ts: Any
    seed: int
    tta: bool
    baselines: bool
    image_size: int | None
    checkpoint: str | None

    def check(self) -> None:
        """Refuses impossible values, before any data is read."""
        train_scale(self.ts)
        keys = self.finetune
        positive(
            finetune__epochs=keys.epochs,
            finetune__steps=keys.steps,
            finetune__batch_size=keys.batch_size,
            finetune__lr=keys.lr,
        )
        positive(image_size=self.image_size)
        super().check()

    def check_method(self) -> None:
        """An evaluation needs weights, of a checkpoint or as the backbone starts."""
        if not self.checkpoint and self.ssl.get("_target_") is not None:
            raise UserError(
                "task=evaluate needs weights: type checkpoint=DIR, ssl=none for the backbone as it starts, or "
                "task=pipeline"
            )

    def run(self, run: Run) -> dict[str, Any]:
        """Evaluates, and pre-trains first where a subclass allows it and the store has nothing.

        Returns:
            The results, as they stand in results.json.
        """
        from hydra.utils import instantiate

        from rsssl.engine.ranks import rank
        from rsssl.evaluation.frozen import random_split, shown
        from rsssl.evaluation.predictions import FILE, write_predictions
        from rsssl.networks.baselines import baselines
        from rsssl.networks.weights import begun_from

        evaluator = instantiate(self.evaluate, _convert_="all")
        self._check_protocol(evaluator, run)
        job = self._job(evaluator, run)
        scratch = evaluator.trains_network and evaluator.start == "random"
        weights = self._weights(job, scratch, run)
        begin = time.monotonic()
        figures, head, network, trust = self._fit(job, evaluator, weights, run)
        seconds, predictions = time.monotonic() - begin, figures.pop("predictions", None)
        start = None if scratch else begun_from(weights, instantiate(self.start, _convert_="all"))
        beside = baselines(self, job, evaluator, weights, start, run) if self.baselines else {}
        too_good = {} if evaluator.trains_network else random_split(job, evaluator, weights, train_scale(self.ts))
        if rank() > 0:
            return {}
        results = self._results(job, weights, figures, beside, run) | {"evaluation_seconds": seconds} | too_good
        results["data"] = self._data(job, evaluator, weights)
        results["ssl"] = "none" if scratch else self.method_name(run)
        results["start"] = "random" if scratch else self.start_name(weights, start, run)
        if predictions is not None:
            sure, predicted = (values.numpy() for values in predictions)
            results["predictions"] = write_predictions(run.record(FILE), job.data, job.test, predicted, sure)
        preprocess = weights.preprocess if evaluator.trains_network else shown(evaluator, weights.preprocess)
        self._write(results, head, preprocess, weights, network, trust, run)
        return results | {"run_folder": str(run.folder)}

    def _job(self, evaluator: Any, run: Run) -> Job:
        """The images and their split, and those that are labelled."""
        import numpy as np

        from rsssl.data.prepared import load, need_labels
        from rsssl.data.split import labelled_subset
        from rsssl.evaluation.job import Job
        from rsssl.networks.checkpoints import find_checkpoint

        device, store = run.device, run.store
        if self.checkpoint:
            find_checkpoint(self.checkpoint, store)  # a wrong path is told before any data is read
        scale = train_scale(self.ts)
        data = load(self.dataset, store, run.workers, self.protocol, self.pack.tiles, scale)
        need_labels(data)
        self._check_size(data.pack.card.n_bands)
        # Drawn before any training, so that too few labels are found out first.
        pack = data.pack
        train = labelled_subset(pack.labels, pack.paths, data.split.pool, scale, self.seed, pack.card.classes)
        job = Job(data, store, device, train, np.asarray(data.split.test), self.seed, self.protocol, self.tta)
        if job.crossed and evaluator.trains_network:
            raise UserError(
                f"evaluate={run.options['evaluate']} needs images to test on: type dataset.test_fraction=0.2 or "
                "dataset.test=FILE"
            )
        return job

    def _weights(self, job: Job, scratch: bool, run: Run) -> Weights:
        """The weights that are evaluated: random ones from scratch, else those that the command asks for."""
        from rsssl.networks.starts import Start
        from rsssl.networks.weights import pretrained_or_train, untrained
        from rsssl.report.summary import labelled

        asked = "a random network" if scratch else self.weights_asked(self.checkpoint, run)
        on = "" if run.options["evaluate"] == "statistics" else f" on {asked}"
        labels = labelled(len(job.train), job.n_drawn)
        how = f"evaluate={run.options['evaluate']} from {labels} with a label (ts={self.ts})"
        log.info(f"{how}{on}; results in {run.folder}")
        if scratch:
            weights = untrained(self, Start(), job.data, run)
        else:
            weights = pretrained_or_train(self, self.checkpoint, job.data, run)
        if self.image_size:
            weights = replace(weights, preprocess=weights.preprocess.at(self.image_size))
        return weights

    def _write(
        self,
        results: dict[str, Any],
        head: Any,
        preprocess: Preprocess,
        weights: Weights,
        network: Any,
        trust: Any,
        run: Run,
    ) -> None:
        """Puts the classifier, the configuration and, last, the results into the run folder, and prints them."""
        from rsssl.engine.files import write_json
        from rsssl.engine.ranks import alone
        from rsssl.networks.files import CLASSIFIER, write_classifier
        from rsssl.networks.weights import stored_file
        from rsssl.report.summary import print_results

        with alone():  # the other ranks have ended
            backbone = network if network is not None else stored_file(weights, run.store)
        if isinstance(backbone, Path):
            results["data"]["weights"] = str(backbone.parent)
        notes = {k: results[k] for k in NOTED} | {"pretrain": weights.record, "colours": self.dataset.class_colours()}
        write_classifier(run.record(CLASSIFIER), head, preprocess, notes, backbone, trust)
        run.save_config()
        write_json(run.record("results.json"), results)
        print_results(results, run.record("results.json"))

    def _check_size(self, bands: int) -> None:
        if self.image_size:
            from rsssl.networks.training import refuse_too_large

            refuse_too_large(self.image_size, bands, "image_size")

    def _check_protocol(self, evaluator: Any, run: Run) -> None:
        if self.protocol == "paper" and not (evaluator.trains_network or evaluator.paper_head):
            raise UserError(
                f"protocol=paper chooses an epoch, which evaluate={run.options['evaluate']} does not have: type "
                "evaluate=linear (the paper's layer), evaluate=finetune or evaluate=scratch, or protocol=clean"
            )

    def _fit(self, job: Job, evaluator: Any, weights: Weights, run: Run) -> tuple[dict[str, Any], Any, Any, Any]:
        """The figures; on rank 0 the head, the backbone where it was trained with it, and what it does not know."""
        from hydra.utils import instantiate

        from rsssl.evaluation.finetune import train_network
        from rsssl.evaluation.frozen import frozen, soft_labels
        from rsssl.evaluation.network_fit import Finetuning

        if not evaluator.trains_network:
            figures, head, trust = frozen(job, evaluator, weights, ahead=True)
            return figures, head, None, trust
        keys, adapted = self.finetune, None if self.protocol == "paper" else evaluator.rank  # the paper trains all
        how = Finetuning(
            views=instantiate(run.option("augment", keys.augment), _convert_="all"),
            optimizer=self.optimizer,
            schedule=self.schedule,
            epochs=keys.epochs,
            steps=keys.steps,
            batch_size=keys.batch_size,
            lr=keys.lr,
            backbone_lr=keys.lr * (1.0 if evaluator.start == "random" else keys.backbone_lr_scale),
            rank=adapted,
            title=run.options["evaluate"],
        )
        more = None
        if evaluator.pool_images:
            auto = instantiate(run.option("evaluate", "auto"), _convert_="all")
            more = soft_labels(job, auto, weights, evaluator.pool_images)
        linear = instantiate(run.option("evaluate", "linear"), _convert_="all") if adapted else None
        return *train_network(job, weights, how, evaluator.held_out, linear, more), None

    def _results(
        self, job: Job, weights: Weights, figures: dict[str, Any], baselines: dict[str, Any], run: Run
    ) -> dict[str, Any]:
        from rsssl.networks.weights import network_name
        from rsssl.report.versions import versions

        data, card = job.data, job.data.pack.card
        return {
            "task": run.options["task"],
            "dataset": card.name,
            "ssl": None,
            "start": None,
            "backbone": network_name(weights, min(card.size)),
            "evaluate": run.options["evaluate"],
            "ts": train_scale(self.ts),
            "seed": self.seed,
            "protocol": self.protocol,
            "tta": self.tta,
            "split": job.split,
            "n_classes": job.n_classes,
            "n_train": len(job.train),
            "n_drawn": job.n_drawn,
            "n_test": len(job.test),
            **figures,
            "baselines": baselines,
            "pretrain": weights.record,
            "evaluation_seconds": None,
            "versions": versions(),
            "device": str(run.device),
            "config_hash": run.config_hash,
            "split_hash": data.split.hash,
            "finished": time.time(),
        }

    def _data(self, job: Job, evaluator: Any, weights: Weights) -> dict[str, Any]:
        """Which images they were, and where the store keeps them and what the classifier saw of them: for reports."""
        from rsssl.evaluation.features import feature_bank

        pack, features = job.data.pack, None
        if not evaluator.trains_network:  # a network that is trained has features of its own, which nobody keeps
            features = str(feature_bank(job.store, pack, weights, job.device).folder)
        where = {"root": pack.root, "fingerprint": pack.fingerprint}
        return where | {"pack": str(pack.folder), "features": features}

    def method_name(self, run: Run) -> str:
        """What the results call the signal that the backbone was trained by."""
        if self.checkpoint:
            return f"checkpoint {Path(self.checkpoint).name}"
        return run.options["ssl"]

    def start_name(self, weights: Weights, start: Start | None, run: Run) -> str:
        """What the results call that which the backbone was before any training."""
        if weights.record is None or start:
            return run.options["start"]
        return "another start" if weights.start else "random"
