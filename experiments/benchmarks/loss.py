"""NT-Xent, forward and backward: seconds and peak memory against lightly's, on random embeddings of 128 dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import Bench, Figure, in_child, peak_mib, seconds

D = 128
TEMPERATURE = 0.1


def step(who: str, images: int, repeats: int, threads: int) -> dict[str, Any]:
    """Seconds of `repeats` steps on two views of `images` images and the growth of peak memory over a small step's."""
    import torch

    torch.set_num_threads(threads)
    if who == "lightly":
        from lightly.loss import NTXentLoss

        criterion = NTXentLoss(temperature=TEMPERATURE)

        def loss(z: torch.Tensor) -> torch.Tensor:
            return criterion(z[0], z[1])
    else:
        from rsssl.methods.losses import nt_xent

        def loss(z: torch.Tensor) -> torch.Tensor:
            return nt_xent(z, TEMPERATURE)

    z = torch.randn(2, images, D, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss(z[:, :64]).backward()  # what the libraries take once is not counted
    z.grad = None
    before = peak_mib()
    times = []
    for _ in range(repeats):
        z.grad = None
        times.append(seconds(lambda: loss(z).backward()))
    assert z.grad is not None
    return {"seconds": times, "peak_mib": peak_mib() - before, "loss": float(loss(z).detach())}


def figures(bench: Bench) -> Iterator[Figure]:
    for images in (512,) if bench.quick else (4096, 8192, 16384):
        repeats = min(bench.repeats, 2 if images > 4096 else bench.repeats)
        ours, theirs = (
            in_child("loss", "step", who=w, images=images, repeats=repeats, threads=bench.threads)
            for w in ("ours", "lightly")
        )
        if "error" in ours:
            raise RuntimeError(f"ours with {images} images: {ours['error']}")
        died = theirs.get("error")
        peer = f"lightly: {died}" if died else "lightly NTXentLoss"
        n = 2 * images
        name = f"NT-Xent, {images:,} samples in two views"
        note = "" if died else f"losses {ours['loss']:.6f} and {theirs['loss']:.6f}"
        if died:
            note = f"theirs did not end: {died}; a matrix of {n:,} x {n:,} floats alone is {4 * n * n / 2**30:.1f} GiB"
        products = 6 * n * n * D  # similarities twice, once for the loss and once for the gradient; one product back
        yield Figure(
            f"{name}, forward and backward",
            peer,
            "s",
            tuple(ours["seconds"]),
            tuple(theirs.get("seconds", ())),
            1.0,
            False,
            products / bench.flops,
            f"{products / 1e9:.0f} GFLOP of matrix products",
            note,
        )
        least = 2 * 4 * n * D / 2**20
        yield Figure(
            f"{name}, peak extra memory",
            peer,
            "MiB",
            (ours["peak_mib"],),
            () if died else (theirs["peak_mib"],),
            10.0,
            False,
            least,
            "the gradients of the embeddings and of their normalised form",
            note,
        )
