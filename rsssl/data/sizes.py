"""How large tiles lie in the store, beside how large networks see them."""

from __future__ import annotations

from rsssl.data.dataset import Dataset
from rsssl.data.pack import Pack

LARGEST = 224  # pixels of a view unless pretrain.image_size says otherwise: what the field and the paper train at
MARGIN = 8 / 7  # of the packed size over that of a view, from which crops are cut: 256 pixels for 224
MUCH = 1.5  # times that size: tiles that are large
WORTH = 1e9  # bytes that are worth a word


def size_advice(dataset: Dataset, packed: Pack, size: int) -> str | None:
    """What to type where tiles are packed much larger than a network sees them; None where little is to be gained.

    Args:
        dataset: the tiles; where it says their size, that is meant so.
        packed: their pixels.
        size: at which the network sees them.
    """
    smaller, side = round(MARGIN * size), min(packed.card.size)
    now = len(packed) * packed.image_bytes
    then = now * smaller**2 / (packed.card.size[0] * packed.card.size[1])
    if dataset.size or side < MUCH * size or now - then < WORTH:
        return None
    return (
        f"tiles of {side} pixels take {now / 1e9:.1f} GB of the store ({packed.folder}), and the network sees them at "
        f"{size}: with dataset.size={smaller} they would take {then / 1e9:.1f} GB"
    )
