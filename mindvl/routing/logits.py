"""Expert ids from router logits, for traces that kept nothing else.

Ids that the router really chose are better. Logits that were rounded to 16 bits give another set of experts for a few
tokens in a hundred (equal after rounding, or swapped), and a router that is not a plain top-k of its logits (limits per
group, a bias for balance, capacity drops) chose differently altogether.
"""

from __future__ import annotations

import warnings
from typing import Any


def top_k_ids(logits: Any, *, k: int) -> Any:
    """int64 tensor (..., k) of the k largest logits (..., experts), the largest first, the lower id among equals.

    Raises:
        ValueError: for whole numbers, which are ids already, or more experts asked for than there are.
    """
    import torch

    given = torch.as_tensor(logits)
    if not given.is_floating_point():
        name = str(given.dtype).removeprefix("torch.")
        raise ValueError(f"logits are {name} of shape {tuple(given.shape)}, no floats: expert ids are used as they are")
    if not 1 <= k <= given.shape[-1]:
        raise ValueError(f"k is {k}; logits of {given.shape[-1]} experts give 1 to {given.shape[-1]} ids")
    if given.dtype in (torch.bfloat16, torch.float16):
        warnings.warn(
            f"top-k of {str(given.dtype).removeprefix('torch.')} logits differs from the router's for some tokens; "
            "record the ids that it chose",
            stacklevel=2,
        )
    return given.sort(dim=-1, descending=True, stable=True).indices[..., :k]
