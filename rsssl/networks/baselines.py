"""What a classifier is held against: the same probe on the start as it is, on a random network, on image statistics."""

from __future__ import annotations

from typing import Any

from hydra.utils import instantiate

from rsssl.engine.run import Run
from rsssl.evaluation.combined import Combined
from rsssl.evaluation.features import Weights
from rsssl.evaluation.frozen import frozen, statistics
from rsssl.evaluation.job import Job
from rsssl.networks.recipe import Recipe
from rsssl.networks.starts import Start
from rsssl.networks.weights import untrained


def baselines(
    recipe: Recipe, job: Job, evaluator: Any, weights: Weights, start: Start | None, run: Run
) -> dict[str, dict[str, Any]]:
    """Figures of each baseline, by its name in results.json.

    Args:
        recipe: of the backbone.
        job: the images.
        evaluator: the classifier. Where it trains the network, looks at the whole pool, which would take as long
            again, or looks at no network, `evaluate=linear` takes its place.
        weights: what it is evaluated on: baselines have their network and size.
        start: what the weights were trained from; None where they were not.
        run: of the evaluation.
    """
    judged, no_network = {}, not evaluator.trains_network and Combined.of(evaluator).no_network
    if evaluator.trains_network or evaluator.pool_images or no_network:
        evaluator = instantiate(run.option("evaluate", "linear"), _convert_="all")
        judged = {"evaluate": "linear"}
    figures = {}
    if no_network and weights.file is None and run.options["start"] != "random":
        figures["frozen_start"] = frozen(job, evaluator, weights)[0]
    if start:
        begun = untrained(recipe, start, job.data, run, like=weights)
        figures["frozen_start"] = frozen(job, evaluator, begun)[0]
    random = untrained(recipe, Start(), job.data, run, like=weights)
    figures["random_init"] = frozen(job, evaluator, random)[0]
    if not no_network:
        figures["image_statistics"] = statistics(job, evaluator)
    return {name: found | judged for name, found in figures.items()}
