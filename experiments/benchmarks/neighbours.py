"""k nearest neighbours on 27,000 features of 512 dimensions: seconds and peak memory against lightly's knn_predict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import Bench, Figure, in_child, peak_mib, seconds

D, CLASSES, K, TEMPERATURE = 512, 10, 200, 0.1  # the last two are lightly's defaults


def predict(who: str, n: int, batch: int, repeats: int, threads: int) -> dict[str, Any]:
    """Seconds of `repeats` predictions of n features from the same n, `batch` at a call, and the growth of memory."""
    import torch

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (n,), generator=generator)
    centres = torch.randn(CLASSES, D, generator=generator)
    features = torch.nn.functional.normalize(torch.randn(n, D, generator=generator) + 0.2 * centres[labels], dim=1)
    if who == "lightly":
        from lightly.utils.benchmarking import knn_predict

        bank = features.T.contiguous()

        def run(x: torch.Tensor) -> torch.Tensor:
            calls = [knn_predict(part, bank, labels, CLASSES, K, TEMPERATURE)[:, 0] for part in x.split(batch)]
            return torch.cat(calls)
    else:
        from rsssl.jobs import configured

        model = configured("evaluate", "knn", k=K, temperature=TEMPERATURE).fit(features, labels, CLASSES, seed=0)

        def run(x: torch.Tensor) -> torch.Tensor:
            return torch.cat([model.scores(part).argmax(1) for part in x.split(batch)])

    run(features[:64])
    before = peak_mib()
    times = [seconds(lambda: run(features)) for _ in range(repeats)]
    peak = peak_mib() - before
    return {"seconds": times, "peak_mib": peak, "accuracy": float((run(features) == labels).float().mean())}


def figures(bench: Bench) -> Iterator[Figure]:
    n = 2000 if bench.quick else 27000
    products = 2 * n * n * D
    for batch, how in ((n, "one call"), (256, "batches of 256")):
        repeats = min(bench.repeats, 3)
        ours, theirs = (
            in_child("neighbours", "predict", who=w, n=n, batch=batch, repeats=repeats, threads=bench.threads)
            for w in ("ours", "lightly")
        )
        for who, found in (("ours", ours), ("lightly", theirs)):
            if "error" in found:
                raise RuntimeError(f"{who}: {found['error']}")
        name = f"{K} nearest neighbours, {n:,} features, {how}"
        note = f"accuracy {ours['accuracy']:.4f} and {theirs['accuracy']:.4f}"
        yield Figure(
            name,
            "lightly knn_predict",
            "s",
            tuple(ours["seconds"]),
            tuple(theirs["seconds"]),
            2.0,
            False,
            products / bench.flops,
            f"{products / 1e9:.0f} GFLOP of one matrix product",
            note,
        )
        yield Figure(
            f"{name}, peak extra memory",
            "lightly knn_predict",
            "MiB",
            (ours["peak_mib"],),
            (theirs["peak_mib"],),
            10.0,
            False,
            None,
            "",
            note,
        )
