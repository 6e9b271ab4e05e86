"""The few-label evaluation: `ts` labels per class in, overall accuracy on the fixed test set out, baselines beside."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from rsssl import rng
from rsssl.data.loader import Pool, PoolBatches, Source
from rsssl.data.prepared import Data, load, need_labels
from rsssl.data.split import labelled_subset
from rsssl.engine.distributed import broadcast
from rsssl.engine.files import write_json
from rsssl.engine.loop import on_device, pick_device
from rsssl.engine.ranks import alone, rank
from rsssl.engine.store import Store
from rsssl.errors import UserError
from rsssl.evaluation.features import Extractor, FeatureBank
from rsssl.evaluation.finetune import Classifier, predict, train_classifier
from rsssl.evaluation.knn import KNN
from rsssl.evaluation.metrics import confusion, scores
from rsssl.evaluation.paper_head import PaperHead
from rsssl.evaluation.probe import LinearProbe
from rsssl.evaluation.statistics import image_statistics
from rsssl.networks.classifier import CLASSIFIER, LinearHead, Trained, head_of
from rsssl.optim import parameter_groups
from rsssl.schema import train_scale
from rsssl.tasks.common import config_hash, group_name, option, plain, run_folder, save_config, versions
from rsssl.tasks.names import from_scratch, is_network, method_name, network_name
from rsssl.tasks.weights import Weights, find_checkpoint, kept, resolve, untrained

log = logging.getLogger(__name__)
FEATURES_VERSION = 2  # raised when a change of the code changes the features of the same weights and images
SYMMETRIES = 8
# What a classifier's file says of how it was made and how good it is.
NOTED = (
    "dataset",
    "ssl",
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
    "per_class",
    "baselines",
    "tta",
    "versions",
    "config_hash",
    "split_hash",
    "finished",
)


@dataclass(frozen=True)
class Job:
    """One evaluation: the labelled rows and the test rows of a pack, and how scores are turned into numbers."""

    cfg: DictConfig
    data: Data
    store: Store
    device: torch.device
    train: np.ndarray
    test: np.ndarray

    @property
    def n_classes(self) -> int:
        return len(self.data.pack.card.classes)

    def labels(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(self.data.pack.labels[rows])

    def selection_half(self) -> np.ndarray:
        """protocol=paper only: the half of the test images (by position) on which the published code chooses its epoch."""
        return np.sort(
            rng.permutation(rng.fold("paper selection", self.data.split.hash), len(self.test))[: len(self.test) // 2]
        )

    def numbers(self, predicted: Tensor) -> dict[str, Any]:
        """The metrics of one prediction (n_test,) as they stand in results.json."""
        matrix = confusion(self.data.pack.labels[self.test], predicted.numpy(), self.n_classes)
        found = scores(matrix)
        recalls = {
            c: None if np.isnan(r) else float(r)
            for c, r in zip(self.data.pack.card.classes, found["per_class"], strict=True)
        }
        return {
            "oa": float(found["oa"]),
            "aa": float(found["aa"]),
            "kappa": float(found["kappa"]),
            "per_class": recalls,
            "confusion": matrix.tolist(),
        }


def frozen(job: Job, weights: Weights) -> tuple[dict[str, Any], Trained | None]:
    """A probe on the frozen features of `weights`: its numbers, and on rank 0 what was trained."""
    banks = [feature_bank(job, weights, s) for s in range(SYMMETRIES if job.cfg.tta else 1)]
    found, classifier = probe(job, banks)
    if rank() > 0:
        return found, None
    return found, Trained(head_of(classifier), job.data.pack.card, weights.size, weights.mean, weights.std)


@torch.no_grad()
def averaged(classifier: Any, views: list[Tensor]) -> Tensor:
    """Features (n, D) of each symmetry -> class probabilities (n, K), averaged as the kept classifier does with tta=true."""
    if isinstance(classifier, KNN):  # its scores are its head's votes, and the ranks divide the work
        return torch.stack([classifier.scores(features) for features in views]).mean(0)
    head = head_of(classifier)
    return torch.stack([head(features) for features in views]).mean(0)


def statistics(job: Job) -> dict[str, Any]:
    """The same probe on nothing but each band's mean, standard deviation, minimum and maximum."""
    pack = job.data.pack
    inputs = {"version": FEATURES_VERSION, "weights": "image statistics", "pixels": pack.fingerprint}

    def extract(rows: np.ndarray) -> Tensor:
        return torch.from_numpy(image_statistics(pack.images[rows], pack.card))

    return probe(
        job, [FeatureBank(job.store.folder("features", inputs), len(pack.images), extract, "image statistics")]
    )[0]


def feature_bank(job: Job, weights: Weights, symmetry: int) -> FeatureBank:
    pack = job.data.pack
    inputs = {
        "version": FEATURES_VERSION,
        "weights": weights.hash,
        "pixels": pack.fingerprint,
        "size": weights.size,
        "precision": "bf16" if job.device.type == "cuda" else "fp32",
        "low": pack.card.low,
        "high": pack.card.high,
        "mean": weights.mean,
        "std": weights.std,
        "symmetry": symmetry,
    }
    extract = Extractor(weights.build, pack, weights.size, weights.mean, weights.std, job.device, symmetry)
    return FeatureBank(job.store.folder("features", inputs), len(pack.images), extract)


def probe(job: Job, banks: list[FeatureBank]) -> tuple[dict[str, Any], Any]:
    """Fits the classifier on the labelled features and tests it: its numbers, and itself on rank 0.

    Probabilities are averaged over the banks' symmetries.
    """
    classifier = make_probe(job.cfg)
    x, y = banks[0].get(job.train), job.labels(job.train)
    tests = [bank.get(job.test) for bank in banks]
    if rank() > 0 and not isinstance(classifier, KNN):  # which alone is divided among the ranks
        return {}, None
    if job.cfg.protocol == "paper" and isinstance(classifier, LinearProbe):
        return paper_probe(job, x, y, tests)
    classifier.fit(x, y, job.n_classes, job.cfg.seed)
    scored = averaged(classifier, tests) if len(tests) > 1 else classifier.scores(tests[0])
    return job.numbers(scored.argmax(1)) | {"details": classifier.details}, classifier


def make_probe(cfg: DictConfig) -> Any:
    """The evaluation's classifier; beside a network trained whole, the baselines take the linear probe."""
    return LinearProbe() if is_network(cfg) else instantiate(cfg.evaluate, _convert_="all")


def paper_probe(job: Job, x: Tensor, y: Tensor, tests: list[Tensor]) -> tuple[dict[str, Any], PaperHead]:
    """The paper's way: the linear layer's epoch is the best on half of the test images, which are then reported too."""
    half = job.selection_half()
    truth = job.labels(job.test)
    best: tuple[float, int, Tensor, tuple[Tensor, Tensor]] | None = None
    head = PaperHead()
    for epoch, state in enumerate(head.fit_epochs(x, y, job.n_classes, job.cfg.seed), 1):
        found = torch.stack([head.load(*state).scores(t).softmax(1) for t in tests]).mean(0).argmax(1)
        chosen_on = float((found[half] == truth[half]).float().mean())
        if best is None or chosen_on > best[0]:
            best = (chosen_on, epoch, found, state)
    assert best is not None
    details = {"solver": "adam", "epoch": best[1], "epoch_chosen_on_test_images": True}
    return job.numbers(best[2]) | {"details": details}, head.load(*best[3])


def network(job: Job, weights: Weights) -> tuple[dict[str, Any], Trained]:
    """The whole network trained with the labelled images (`evaluate=finetune`, `evaluate=scratch`): its numbers, and itself."""
    cfg, data = job.cfg, job.data
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.fold("classifier", cfg.seed) % 2**63)
        model = on_device(Classifier(weights.build(), job.n_classes), job.device)
    slow = 1.0 if from_scratch(cfg) else cfg.finetune.backbone_lr_scale
    groups = [g | {"lr": cfg.finetune.lr * slow} for g in parameter_groups(model.backbone)] + parameter_groups(
        model.head
    )
    optimizer = instantiate(cfg.optimizer, lr=cfg.finetune.lr, params=groups, _convert_="all")
    pool = Pool([Source(data.pack, np.sort(job.train))], data.pack.labels[np.sort(job.train)])
    batches = PoolBatches(
        pool,
        instantiate(option(cfg, "augment", cfg.finetune.augment), _convert_="all"),
        1,
        cfg.finetune.batch_size,
        cfg.finetune.epochs,
        lambda step, total: weights.size,
        weights.mean,
        weights.std,
        cfg.seed,
        data.split.hash,
        job.device,
    )
    predicted = partial(
        predict, model, data.pack, job.test, weights.size, weights.mean, weights.std, job.device, cfg.tta
    )
    best = Best(job, model) if cfg.protocol == "paper" else None
    made = train_classifier(
        model,
        batches,
        optimizer,
        instantiate(cfg.schedule, _convert_="all"),
        job.device,
        group_name("evaluate"),
        None if best is None else lambda epoch: best.see(epoch, predicted()),
    )
    if best is not None:
        made |= {"epoch": best.epoch, "epoch_chosen_on_test_images": True}
    found = job.numbers(predicted().argmax(1) if best is None else best.found) | {"details": made}
    if best is not None:
        model.load_state_dict(best.state)
    head = LinearHead(model.head.weight.detach(), model.head.bias.detach())
    return found, Trained(head, data.pack.card, weights.size, weights.mean, weights.std, model.backbone)


def trained_alone(job: Job, weights: Weights) -> tuple[dict[str, Any], Trained | None]:
    """`network` on rank 0, while the others wait: a few labels are too few to divide, and the result is that of one process."""
    if rank() > 0:
        return broadcast(None), None
    with alone():
        found, trained = network(job, weights)
    return broadcast(found), trained


class Best:
    """protocol=paper: the predictions, and the network, of the epoch that did best on half of the test images."""

    def __init__(self, job: Job, model: torch.nn.Module) -> None:
        self.model, self.state = model, dict[str, Tensor]()
        self.half, self.truth = job.selection_half(), job.labels(job.test)
        self.oa, self.epoch, self.found = -1.0, 0, torch.empty(0)

    def see(self, epoch: int, probabilities: Tensor) -> None:
        found = probabilities.argmax(1)
        oa = float((found[self.half] == self.truth[self.half]).float().mean())
        if oa > self.oa:
            self.oa, self.epoch, self.found = oa, epoch, found
            self.state = {k: v.clone() for k, v in self.model.state_dict().items()}


def evaluate(job: Job, weights: Weights) -> tuple[dict[str, Any], Trained | None]:
    """The results of one job, as they stand in results.json, and on rank 0 the classifier."""
    cfg, data, pack = job.cfg, job.data, job.data.pack
    begin = time.monotonic()
    found, trained = trained_alone(job, weights) if is_network(cfg) else frozen(job, weights)
    seconds = time.monotonic() - begin
    baselines = {}
    if cfg.baselines:
        random = untrained(cfg, data, random=True, like=weights)
        baselines = {"random_init": frozen(job, random)[0], "image_statistics": statistics(job)}
    results = {
        "task": group_name("task"),
        "dataset": pack.card.name,
        "ssl": "none" if from_scratch(cfg) else method_name(cfg),
        "backbone": network_name(weights, min(pack.card.size)),
        "evaluate": group_name("evaluate"),
        "ts": train_scale(cfg.ts),
        "seed": cfg.seed,
        "protocol": cfg.protocol,
        "tta": cfg.tta,
        "n_classes": job.n_classes,
        "n_train": len(job.train),
        "n_test": len(data.split.test),
        **found,
        "baselines": baselines,
        "pretrain": weights.record,
        "evaluation_seconds": seconds,
        "versions": versions(),
        "config_hash": config_hash(cfg),
        "split_hash": data.split.hash,
        "finished": time.time(),
    }
    return results, trained


def run(cfg: DictConfig) -> dict[str, Any]:
    """`task=evaluate`: weights that exist, evaluated."""
    if not cfg.checkpoint and cfg.ssl.get("_target_") is not None:
        raise UserError(
            "task=evaluate needs weights: type checkpoint=DIR, ssl=none for the backbone as it starts, or task=pipeline"
        )
    return pretrain_and_evaluate(cfg)


def pretrain_and_evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Evaluates, pre-training first when the store has not got it; writes results.json and prints the numbers."""
    device = pick_device(cfg.device)
    store = Store(cfg.paths.store)
    if cfg.checkpoint:
        find_checkpoint(cfg.checkpoint, store)  # a wrong path is said before any data is read
    data = load(plain(cfg.dataset), store, cfg.workers, cfg.protocol)
    need_labels(data)
    # Drawn before any training, so that too few labels are found out first.
    train = labelled_subset(data.pack.labels, data.pack.paths, data.split.pool, train_scale(cfg.ts), cfg.seed)
    job = Job(cfg, data, store, device, train, data.split.test)
    weights = untrained(cfg, data, random=True) if from_scratch(cfg) else resolve(cfg, store, data)
    results, trained = evaluate(job, weights)
    if rank() > 0:
        return {}
    folder = run_folder()
    assert trained is not None
    with alone():  # the other ranks have ended
        backbone = None if trained.network is not None else kept(weights, data, store)
    notes = {k: results[k] for k in NOTED} | {"pretrain": weights.record}
    trained.save(folder / CLASSIFIER, backbone, notes)
    save_config(cfg, folder)
    write_json(folder / "results.json", results)
    print_results(results, folder)
    return results


def print_results(results: dict[str, Any], folder: Path) -> None:
    """The run's few lines on the terminal; tables over runs are rsssl-report's."""
    rows = [(f"{results['ssl']} + {results['evaluate']}", results)]
    rows += [(name.replace("_", " "), values) for name, values in results["baselines"].items()]
    width = max(len(name) for name, _ in rows)
    scale = results["ts"] if isinstance(results["ts"], str | float) else f"{results['ts']} labels per class"
    print(
        f"\n{results['dataset']}, {results['backbone']}, {scale} ({results['n_train']} images), seed {results['seed']}, "
        f"tested on {results['n_test']} images, protocol {results['protocol']}"
    )
    for name, values in rows:
        print(
            f"  {name:<{width}}  OA {100 * values['oa']:5.1f}  AA {100 * values['aa']:5.1f}  kappa {values['kappa']:.3f}"
        )
    print(f"  {folder / 'results.json'}")
