"""`task=evaluate`: weights that exist, evaluated from `ts` labels per class on the fixed test set, baselines beside."""

from __future__ import annotations

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
    from rsssl.networks.starts import Start

# What a classifier's file says of how it was made and how good it is.
NOTED = (
    *(
        "dataset",
        "ssl",
        "start",
        "backbone",
        "evaluate",
        "ts",
        "seed",
        "protocol",
        "n_train",
        "n_test",
        "oa",
        "aa",
        "kappa",
    ),
    *("per_class", "baselines", "tta", "versions", "config_hash", "split_hash", "finished"),
)


@dataclass
class FinetuneKeys:
    """The keys `finetune.*`, of `evaluate=finetune` and `evaluate=scratch`.

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

        from rsssl.data.prepared import load, need_labels
        from rsssl.data.split import labelled_subset
        from rsssl.engine.files import write_json
        from rsssl.engine.ranks import alone, rank
        from rsssl.evaluation.job import Job
        from rsssl.networks.checkpoints import find_checkpoint
        from rsssl.networks.files import CLASSIFIER, write_classifier
        from rsssl.networks.starts import Start
        from rsssl.networks.weights import begun_from, pretrained_or_train, stored_file, untrained

        device, store = run.device, run.store
        if self.checkpoint:
            find_checkpoint(self.checkpoint, store)  # a wrong path is told before any data is read
        data = load(self.dataset, store, run.workers, self.protocol)
        need_labels(data)
        # Drawn before any training, so that too few labels are found out first.
        pack, scale = data.pack, train_scale(self.ts)
        train = labelled_subset(pack.labels, pack.paths, data.split.pool, scale, self.seed)
        job = Job(data, store, device, train, data.split.test, self.seed, self.protocol, self.tta)
        evaluator = instantiate(self.evaluate, _convert_="all")
        scratch = evaluator.trains_network and evaluator.start == "random"
        weights = (
            untrained(self, Start(), data, run) if scratch else pretrained_or_train(self, self.checkpoint, data, run)
        )
        if self.image_size:
            weights = replace(weights, preprocess=weights.preprocess.at(self.image_size))
        begin = time.monotonic()
        figures, head, network = self._fit(job, evaluator, weights, run)
        seconds = time.monotonic() - begin
        start = None if scratch else begun_from(weights, instantiate(self.start, _convert_="all"))
        baselines = self._baselines(job, evaluator, weights, start, run) if self.baselines else {}
        if rank() > 0:
            return {}
        results = self._results(job, weights, figures, baselines, run) | {"evaluation_seconds": seconds}
        results["ssl"] = "none" if scratch else self.method_name(run)
        results["start"] = "random" if scratch else self.start_name(weights, start, run)
        with alone():  # the other ranks have ended
            backbone = network if network is not None else stored_file(weights, store)
        notes = {k: results[k] for k in NOTED} | {"pretrain": weights.record}
        write_classifier(run.record(CLASSIFIER), head, weights.preprocess, notes, backbone)
        run.save_config()
        write_json(run.record("results.json"), results)
        print_results(results, run.record("results.json"))
        return results | {"run_folder": str(run.folder)}

    def _fit(self, job: Job, evaluator: Any, weights: Weights, run: Run) -> tuple[dict[str, Any], Any, Any]:
        """The figures; on rank 0 the head, and the backbone where it was trained with it."""
        from hydra.utils import instantiate

        from rsssl.evaluation.finetune import Finetuning, train_network
        from rsssl.evaluation.frozen import frozen, soft_labels

        if not evaluator.trains_network:
            return *frozen(job, evaluator, weights, ahead=True), None
        keys = self.finetune
        how = Finetuning(
            views=instantiate(run.option("augment", keys.augment), _convert_="all"),
            optimizer=self.optimizer,
            schedule=self.schedule,
            epochs=keys.epochs,
            steps=keys.steps,
            batch_size=keys.batch_size,
            lr=keys.lr,
            backbone_lr=keys.lr * (1.0 if evaluator.start == "random" else keys.backbone_lr_scale),
            title=run.options["evaluate"],
        )
        if not evaluator.pool_images:
            return train_network(job, weights, how)
        auto = instantiate(run.option("evaluate", "auto"), _convert_="all")
        return train_network(job, weights, how, soft_labels(job, auto, weights, evaluator.pool_images))

    def _baselines(self, job: Job, evaluator: Any, weights: Weights, start: Start | None, run: Run) -> dict[str, Any]:
        """The start as it is, a random network and the image statistics under the same probe; the linear one beside a
        network trained whole, and beside a probe that looks at the whole pool, which would take as long again."""
        from hydra.utils import instantiate

        from rsssl.evaluation.frozen import frozen, statistics
        from rsssl.networks.starts import Start
        from rsssl.networks.weights import untrained

        judged = {}
        if evaluator.trains_network or evaluator.pool_images:
            evaluator = instantiate(run.option("evaluate", "linear"), _convert_="all")
            judged = {"evaluate": "linear"}
        figures = {}
        if start:
            begun = untrained(self, start, job.data, run, like=weights)
            figures["frozen_start"] = frozen(job, evaluator, begun)[0]
        random = untrained(self, Start(), job.data, run, like=weights)
        figures["random_init"] = frozen(job, evaluator, random)[0]
        figures["image_statistics"] = statistics(job, evaluator)
        return {name: found | judged for name, found in figures.items()}

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
            "n_classes": job.n_classes,
            "n_train": len(job.train),
            "n_test": len(data.split.test),
            **figures,
            "baselines": baselines,
            "pretrain": weights.record,
            "evaluation_seconds": None,
            "versions": versions(),
            "config_hash": run.config_hash,
            "split_hash": data.split.hash,
            "finished": time.time(),
        }

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


def print_results(results: dict[str, Any], file: Path) -> None:
    """The run's few lines on the terminal; tables over runs are rsssl-report's."""
    from rsssl.report.results import method_of

    rows = [(f"{method_of(results['ssl'], results['start'])} + {results['evaluate']}", results)]
    if "linear" in results.get("parts", {}):
        rows.append((f"{method_of(results['ssl'], results['start'])} + linear", results["parts"]["linear"]))
    for name, values in results["baselines"].items():
        probe = f" + {values['evaluate']}" if "evaluate" in values else ""
        rows.append((f"{name.replace('_', ' ')}{probe}", values))
    width = max(len(name) for name, _ in rows)
    scale = results["ts"] if isinstance(results["ts"], str | float) else f"{results['ts']} labels per class"
    print(
        f"\n{results['dataset']}, {results['backbone']}, {scale} ({results['n_train']} images), seed "
        f"{results['seed']}, tested on {results['n_test']} images, protocol {results['protocol']}"
    )
    for name, values in rows:
        oa, aa, kappa = 100 * values["oa"], 100 * values["aa"], values["kappa"]
        print(f"  {name:<{width}}  OA {oa:5.1f}  AA {aa:5.1f}  kappa {kappa:.3f}")
    if "calibration" in results:
        trust = results["calibration"]
        error, chance = (f"{100 * trust[key]:.1f}" for key in ("ece", "chance"))
        before = f"{100 * trust['before']['ece']:.1f} uncalibrated; " if "before" in trust else ""
        print(
            f"  probabilities are off by {error} points on average ({before}perfect ones would seem off by {chance} "
            "on so few test images)"
        )
    for further in results.get("outlook", []):
        print(
            f"  with {further['labels_per_class']:.0f} labels per class it would be {100 * further['low']:.0f} to "
            f"{100 * further['high']:.0f} % (nine times in ten)"
        )
    print(f"  {file}")
