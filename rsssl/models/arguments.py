"""What may be said of an architecture: the arguments that reach timm, typed by a user or read from a file of weights.

timm's models also take the names of files, addresses and caches. None of those is an argument here: weights come from
`start=` alone, and a file of weights that somebody was sent can name nothing but an architecture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rsssl.errors import UserError, nearest

_NAMES = """
act_layer attn_drop_rate aux_logits avg_down base_width bottle_ratio cardinality channel_multiplier channels
class_token conv_mlp depth depths dims drop_block_rate drop_path_rate drop_rate dynamic_img_pad
dynamic_img_size embed_dim embed_dims fc_norm final_norm global_pool growth_rate head_hidden_size
head_init_scale head_norm_first img_size init_values layers ls_init_value mlp_ratio mlp_ratios no_embed_class
norm_eps norm_layer num_heads output_stride pad_type patch_drop_rate patch_norm patch_size pool_size
pos_drop_rate pos_embed pre_norm proj_bias proj_drop_rate qk_norm qkv_bias reg_tokens se_ratio stem_size
stem_stride stem_type stem_width strict_img_size swiglu_mlp use_abs_pos use_rel_pos weight_init window_size
zero_init_last
"""
NAMES = frozenset(_NAMES.split())
LARGEST = 1 << 16  # of whole numbers: widths, depths, pixels


def checked_arguments(arguments: Any, origin: str) -> dict[str, Any]:
    """The arguments of an architecture.

    Args:
        arguments: by name: numbers, true or false, plain words, null, and lists of these.
        origin: where they stand, for messages.

    Raises:
        UserError: for any other name or value.
    """
    if not isinstance(arguments, Mapping):
        raise UserError(f"{origin} must hold arguments by name, not {arguments!r}: type {origin}={{}}")
    for name, value in arguments.items():
        if name not in NAMES:
            near = nearest(str(name), NAMES)
            known = f"did you mean {near}?" if near else f"type any of {', '.join(sorted(NAMES))}"
            raise UserError(f"{origin} cannot take {name}: {known}")
        if not _plain(value):
            raise UserError(f"{origin}: {name}={value!r} is no plain number or word: type a smaller or simpler one")
    return dict(arguments)


def checked_spec(spec: Any, origin: Any) -> dict[str, Any]:
    """The arguments of `build_backbone` that a file of weights describes.

    Raises:
        UserError: when they describe anything else than an architecture.
    """
    wrong = UserError(f"{origin} describes no backbone ({str(spec)[:200]}): copy it again from where it was made")
    if not isinstance(spec, Mapping) or set(spec) != {"name", "in_chans", "kwargs", "depths"}:
        raise wrong
    numbers = (spec["in_chans"], spec["depths"])
    if not isinstance(spec["name"], str) or any(type(n) is not int or not 1 <= n <= LARGEST for n in numbers):
        raise wrong
    return dict(spec) | {"kwargs": checked_arguments(spec["kwargs"], str(origin))}


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) <= 64 and all(map(_plain, value))
    if isinstance(value, str):
        return re.fullmatch(r"[A-Za-z0-9_]{0,40}", value, re.ASCII) is not None
    return value is None or (isinstance(value, int | float) and abs(value) <= LARGEST)
