"""What a billion tiles on 64 GPUs need, as Markdown: from what run.py measured and from published figures."""

from __future__ import annotations

import math
from typing import Any

TILES, RANKS, BATCH, NODE = 1_000_000_000, 64, 16_384, 8  # NODE: GPUs of one machine
TILE = 64 * 64 * 3  # bytes
STEPS = TILES // BATCH

# Published: NVIDIA DeepLearningExamples, ResNet-50 v1.5 for PyTorch, mixed precision, one A100 80 GB, 224 pixels.
A100_RATE, A100_PEAK = 2_470, 312e12
FORWARD = 2 * 4.09e9  # operations of ResNet-50 at 224 pixels (torchvision's model card: 4.09 G multiply-adds)
SHRINK = (224 / 64) ** 2  # a convolutional network's work goes with the pixels
VIEWS = 2
# Nominal: NVIDIA's data sheet of the H100 SXM. BF16 without sparsity, float32, memory.
H100_BF16, H100_FP32, H100_MEMORY = 989e12, 67e12, 3.35e12
# Nominal: one 400 Gb/s port for each GPU (DGX H100), and one 100 Gb/s port for a machine of eight.
LINKS = {"400 Gb/s for each GPU": 50e9, "100 Gb/s for each machine": 12.5e9}
REACHED = 0.8  # of a link; assumed
HOP = 5e-6  # seconds a message takes to the next GPU of a ring; assumed
MATRIX, STREAM = 0.5, 0.7  # of the float32 peak and of the memory's that the loss reaches; assumed
BUCKET = 25e6  # bytes of gradients that DistributedDataParallel exchanges together
PASSES = 22  # times that nt_xent reads or writes all similarities: 7 for the loss, 15 for the gradient
NORMS = 53  # batch normalisations of ResNet-50
# Published: 419 unexpected interruptions of 16,384 GPUs in 54 days (Llama 3, arXiv 2407.21783, section 3.3.4).
HOURS_BETWEEN_FAILURES = 54 * 24 * 16_384 / 419 / RANKS


def rates() -> dict[str, float]:
    """Images a second and GPU, two views of 64 pixels, for the network's forward and backward passes alone."""
    share = A100_RATE * 3 * FORWARD / A100_PEAK  # of the peak; backward is twice forward
    return {"A100": A100_RATE * SHRINK / VIEWS, "H100": share * H100_BF16 / (3 * FORWARD / SHRINK * VIEWS)}


def gather(size: float, link: float) -> float:
    """Seconds of a ring all-gather of `size` bytes in all."""
    return (RANKS - 1) * (size / RANKS / (link * REACHED) + HOP)


def total(size: float, link: float) -> float:
    """Seconds of a ring all-reduce: twice an all-gather."""
    return 2 * gather(size, link)


def step(link: float) -> dict[str, float]:
    """Milliseconds of the parts of a step of ResNet-50 on H100s that do not depend on this machine."""
    rows = VIEWS * BATCH
    loss = 6 * rows**2 * 128 / (MATRIX * H100_FP32) + PASSES * rows**2 * 4 / (STREAM * H100_MEMORY)
    network = BATCH / RANKS / rates()["H100"]
    hidden = 2 / 3 * network  # the backward pass, during which all but the last bucket of gradients is exchanged
    parts = {
        "network, forward and backward": network,
        "NT-Xent, each rank its own rows": loss / RANKS,
        "gathering the embeddings, and two numbers a row": gather(rows * 128 * 4, link) + gather(rows * 8, link),
        "sum of the gradients, beyond the backward pass": max(total(BUCKET, link), total(25.6e6 * 4, link) - hidden),
        f"batch norm over all ranks: {NORMS} layers, forward and backward": NORMS
        * (gather(2048, link) + total(2048, link)),
    }
    return {name: 1e3 * seconds for name, seconds in parts.items()}


def exchanges_table() -> str:
    """What losses that compare images exchange and work out, all rows on every rank and each rank its own."""
    rows, width = VIEWS * BATCH, 128 * 4
    swav, dino = 3 * 2 * 3_000 * 4, 65_536 * 4  # three iterations of two views' columns; one mean
    cases = [
        ("SimCLR: NT-Xent, 16,384 images, 128 dimensions", 3 * rows * width, rows * width + rows * 8, RANKS),
        ("SwAV: Sinkhorn, 4,096 images, 3,000 prototypes", 2 * 4_096 * 3_000 * 4, RANKS * swav, RANKS),
        ("DINO: centre, 1,024 images, 65,536 outputs", 2 * 1_024 * 65_536 * 4, dino, RANKS),
    ]
    lines = [
        (name, f"{before / 1e6:,.1f}", f"{after / 1e6:,.2f}", f"1/{share}") for name, before, after, share in cases
    ]
    return table(("published sizes, 64 ranks", "MB before", "MB now", "work of a rank, of what it was"), lines)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines) + "\n"


def steps_table() -> str:
    columns = [step(link) for link in LINKS.values()]
    rows = [(name, *(f"{column[name]:.1f}" for column in columns)) for name in columns[0]]
    rows.append(("one after the other", *(f"{sum(column.values()):.0f}" for column in columns)))
    rows.append(("an epoch of such steps, hours", *(f"{sum(c.values()) * STEPS / 3.6e6:.1f}" for c in columns)))
    return table(("ms a step, calculated", *LINKS), rows)


def rates_table() -> str:
    rows = []
    for name, rate in rates().items():
        everywhere = rate * RANKS
        numbers = f"{rate:,.0f}", f"{1e3 * BATCH / everywhere:.1f}", f"{TILES / everywhere / 3600:.2f}"
        reads = f"{everywhere / 1e6:.2f} million", f"{everywhere * TILE / 1e9:.1f}", f"{rate * NODE * TILE / 1e9:.2f}"
        rows.append((name, *numbers, *reads))
    return table(
        (
            "GPU",
            "images/s a GPU",
            "ms a step",
            "hours an epoch",
            "reads a second in all",
            "GB/s in all",
            "GB/s a machine of 8",
        ),
        rows,
    )


def rounds_table(found: dict[str, dict[str, float]]) -> str:
    tests = list(next(iter(found.values())))
    return table(("rounds", *tests), [(name, *(p_value(row[t]) for t in tests)) for name, row in found.items()])


def p_value(p: float) -> str:
    return "0" if p < 1e-300 else f"{p:.0e}" if p < 1e-3 else f"{p:.2f}"


def order_table(found: dict[str, Any]) -> str:
    sort, resume = found["sorted"], ", ".join(f"{us:.0f}" for us in found["resume_us"].values())
    rows = [
        ("whole epoch, one process", f"{found['epoch_seconds']:.0f} s, {found['ns_per_id']:.0f} ns a tile"),
        (
            "a rank's 256 ids of a step",
            f"{found['rank_step_us']:.0f} µs, {found['rank_step_peak_bytes'] / 1e3:.0f} kB at most",
        ),
        ("the whole batch's 16,384", f"{found['batch_us']:.0f} µs, {found['batch_peak_bytes'] / 1e6:.1f} MB at most"),
        ("a new order and its slice at the start, in the middle, at the end", f"{resume} µs"),
        (f"`permutation` of {sort['tiles']:,}", f"{sort['seconds']:.1f} s, {sort['bytes_per_id']:.0f} bytes a tile"),
    ]
    return table((f"order of {found['tiles']:,}", "measured"), rows)


def exchange_table(found: dict[str, Any]) -> str:
    """Measured between processes of one machine: milliseconds."""
    worlds = [name for name in found if name.endswith("_processes")]
    rows = []
    for what in found[worlds[0]]:
        for key in (k for k in found[worlds[0]][what] if k != "MB"):
            cells = [f"{1e3 * found[world][what][key]:.0f}" for world in worlds]
            name = f"{what.replace('_', ' ')}: {key.removesuffix('_seconds').replace('_', ' ')}"
            rows.append((name, f"{found[worlds[0]][what]['MB']:.1f}", *cells))
    return table(("ms, measured", "MB in all", *(w.replace("_", " ") for w in worlds)), rows)


def saves_table(found: dict[str, Any]) -> str:
    rows = [
        (
            name,
            f"{f['parameters'] / 1e6:.1f}",
            f"{f['MB']:.0f}",
            f"{1e3 * f['held_seconds']:.0f}",
            f"{f['save_seconds']:.1f}",
            f"{f['load_seconds']:.1f}",
        )
        for name, f in found.items()
    ]
    head = (
        "backbone and AdamW",
        "million parameters",
        "MB",
        "ms the training waits",
        "s until it is on the disk",
        "s to load",
    )
    return table(head, rows)


def reading_table(reading: dict[str, Any]) -> str:
    rows = [(name, f"{r['cold']:,.0f}", f"{r['warm']:,.0f}") for name, r in reading["tiles_per_second"].items()]
    return table(("tiles a second", "not in the system's cache", "in it"), rows)


def needs_table(found: dict[str, Any]) -> str:
    """What is needed, and whether it holds today."""
    order, packs, saves = found["order"], found["packs"], found["checkpoints"]
    opened, gathered, disk = packs["opened"], packs["gather"], found["reading"]["tiles_per_second"]
    each = packs["tiles_per_shard"]
    divided, beside = packs["divided"], sum(packs["file_bytes"].values())
    many, times = TILES / each, TILES / divided["tiles"]
    wide, narrow = gathered["all_packs"], gathered["one_pack"]
    slow, fast = rates().values()
    save = saves[list(saves)[-1]]
    best = math.sqrt(2 * save["held_seconds"] * HOURS_BETWEEN_FAILURES * 3600)
    sort = order["sorted_at_a_billion"]
    rows = [
        ("disk, pixels", f"{TILES * TILE / 1e12:.1f} TB", "yes, as a format"),
        ("order: time a rank and step", f"{order['rank_step_us'] / 1e3:.2f} ms measured", "with `Order`, yes"),
        (
            "order: memory a rank",
            f"{order['rank_step_peak_bytes'] / 1e3:.0f} kB measured",
            f"with `Order`, yes; sorted: {sort['peak_GB']:.0f} GB at its peak, {sort['seconds']:.0f} s an epoch",
        ),
        (
            "what lies beside the pixels, on disk",
            f"{beside * many / 1e9:.0f} GB, {beside / each:.0f} bytes a tile; cards of {packs['card_bytes']:,} bytes",
            "yes: mapped when it is asked for",
        ),
        (
            "opening all packs: memory a rank",
            f"{opened['open_MB']:.0f} MB",
            "yes: their cards alone are read",
        ),
        (
            "opening all packs: time a rank",
            f"{1e3 * opened['listed_seconds']:.0f} ms for their list, {opened['open_seconds']:.2f} s for all cards",
            "yes; a card is read when its pack is",
        ),
        (
            "dividing into test set and pool",
            f"{1e3 * opened['split_seconds']:.1f} ms without labels; with labels "
            f"{times * divided['once_seconds']:.0f} s once, then {times * divided['split_seconds']:.1f} s a rank",
            "yes: by a hash of each name, kept as a bitmap",
        ),
        (
            "rows of the pool: memory a rank",
            f"{opened['pool_MB']:.1f} MB without labels; with labels {divided['billion_MB']:.0f} MB, and "
            f"{TILES / 8e6:.0f} MB that the ranks of a machine share",
            "yes: a run, or a mapped bitmap",
        ),
        (
            "file handles a rank",
            f"{packs['file_handles']:,.0f}",
            "yes: those opened last stay open",
        ),
        (
            "reading a batch of 256, no disk",
            f"{wide['quickest_ms']:.1f} ms from {wide['sources']:.0f} packs, {narrow['quickest_ms']:.1f} ms from one; "
            f"{256e3 / slow:.0f} ms (A100) or {256e3 / fast:.0f} ms (H100) are there",
            "yes",
        ),
        (
            "reading tiles from the disk, a rank",
            f"{slow:,.0f} to {fast:,.0f} tiles/s; this disk gives "
            f"{disk['one after the other']['cold']:,.0f} with one read after the other, "
            f"{disk['8 in flight']['cold']:,.0f} with 8 in flight",
            "yes: a few threads read",
        ),
        (
            "reading and augmenting a batch of 256",
            f"{wide['gather_and_views_ms']:,.0f} ms from {wide['sources']:.0f} packs, "
            f"{narrow['gather_and_views_ms']:.0f} ms from one (this CPU)",
            "yes: tiles of all packs whose numbers mean the same are rendered together",
        ),
        (
            "checkpoint of ResNet-50 and AdamW",
            f"{save['MB']:.0f} MB; the step waits {1e3 * save['held_seconds']:.0f} ms, "
            f"the disk is busy {save['save_seconds']:.1f} s",
            "yes: written in the background",
        ),
        (
            "how often",
            f"every {best / 60:.0f} min would be best (Young 1974, a failure every {HOURS_BETWEEN_FAILURES:.0f} h)",
            f"yes: every 5 min, the default, is {save['MB'] * 12 / 1e3:.1f} GB/h",
        ),
        ("loss: memory of a GPU", "16.8 MB of embeddings, 0.5 GB of similarities", "yes: blocks of rows"),
        (
            "loss: time of a GPU",
            f"{step(50e9)['NT-Xent, each rank its own rows']:.1f} ms calculated",
            "yes: every rank works out its own rows, 1/64 of all",
        ),
    ]
    return table(("needed", "how much", "holds today?"), rows)


def report(found: dict[str, Any]) -> str:
    """All tables whose parts were measured."""
    text = []
    if "rounds" in found:
        text += ["Rounds: smallest p-value by test, corrected for how many there are\n", rounds_table(found["rounds"])]
    text += ["What the network alone allows\n", rates_table(), "A step of ResNet-50 on 64 H100\n", steps_table()]
    text += ["What losses exchange\n", exchanges_table()]
    if "order" in found:
        text += ["The order\n", order_table(found["order"])]
    if "exchange" in found:
        text += ["Exchanges between processes of this machine\n", exchange_table(found["exchange"])]
    if "checkpoints" in found:
        text += ["Checkpoints\n", saves_table(found["checkpoints"])]
    if "reading" in found:
        text += ["Scattered tiles of 64 pixels\n", reading_table(found["reading"])]
    if {"order", "packs", "reading", "checkpoints"} <= set(found):
        text += ["What is needed, and what holds\n", needs_table(found)]
    return "\n".join(text)
