"""What a report says of how test and training images were divided."""

from __future__ import annotations

from collections.abc import Sequence

from rsssl.report.results import Result


def split_sentences(results: Sequence[Result]) -> list[str]:
    """A sentence for each dataset that was not divided at random, and one on what a random split would have shown."""
    own = [r for r in results if not r.row.baseline]
    divided = sorted({(r.row.dataset, r.split) for r in own if r.split != "at random"})
    sentences = [f"{dataset}: split {split}." for dataset, split in divided]
    for dataset in sorted({r.row.dataset for r in own if r.too_good is not None}):
        pairs = [(r.too_good, r.scores["oa"]) for r in own if r.row.dataset == dataset and r.too_good is not None]
        random, ours = (100 * sum(values) / len(pairs) for values in zip(*pairs, strict=True))
        sentences.append(
            f"With a random split {dataset} would have shown {random:.1f} on average where it shows {ours:.1f}: too "
            "good, neighbours of tested images would be among the labels."
        )
    return sentences
