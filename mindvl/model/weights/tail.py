"""Whether a file ends in zeros because a copy was cut short after its space had been reserved.

Its length is right and so is its header; only values tell. Many tensors may be zero at their end, few of them anyhow:

    model.norm.weight (2048,)               last 512 bytes zero: cut; all zero as other norms are: 1 + weight is meant
    up_proj.weight (6144, 2048)             last 512 bytes of the last row zero, or all of the row: cut
    patch_embed.proj.weight (., 2, 14, 14)  ... unless another row ends so too: one frame's kernel, widened to two
    lm_head.weight (151936, 4096)           whole rows zero, an eighth of all at most: words without use
    q_proj.bias, lora_B.weight, masks       zero by right: what lies before them tells
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from mindvl.model.weights.safetensors_file import Stored

LOOK_BYTES = 512
"""128 weights or more: where nine tenths are pruned at random, that many in a row are still no chance."""
_BLOCK_BYTES = 1 << 20
_NORM = re.compile(r"(^|\.)([^.]*norm[^.]*|ln_[^.]*)\.weight$", re.IGNORECASE)
_VOCABULARY = re.compile(r"embed_tokens|lm_head|\bwte\b|embed_(in|out)|(tok|word)_embeddings")
_ZERO_AT_FIRST = re.compile(r"lora_(embedding_)?B")


def check_tail(path: Path, file: BinaryIO, found: dict[str, Stored]) -> None:
    """Refuse a file that ends in zeros as no whole file does. `found` are its tensors in the order of their bytes.

    A cut within the last biases goes unnoticed, and one just between two rows of a vocabulary's last eighth.
    """

    def zero(start: int, stop: int) -> bool:
        return _all_zero(file, start, stop)

    norms = {key: stored for key, stored in found.items() if _NORM.search(key)}
    for key, stored in reversed(found.items()):
        start, stop = stored.start_bytes, stored.end_bytes
        if key in norms:
            others = (other for name, other in norms.items() if name != key)
            by_right = zero(start, stop) and any(zero(other.start_bytes, other.end_bytes) for other in others)
            cut = not by_right and zero(max(start, stop - LOOK_BYTES), stop)
        else:
            by_right = not _tells(key, stored) and zero(start, stop)
            cut = _tells(key, stored) and _matrix_is_cut(stored, zero, vocabulary=bool(_VOCABULARY.search(key)))
        if cut:
            looked = min(LOOK_BYTES, stop - start)
            raise ValueError(
                f"{path} ends in zeros, the last {looked} of {stop - start} bytes of {key} among them, as a copy "
                f"that was cut short does; fetch it again"
            )
        if not by_right:
            return


def _tells(key: str, stored: Stored) -> bool:
    """Whether a tensor is a trained matrix."""
    is_matrix = math.prod(stored.shape) > max(stored.shape, default=1)
    return is_matrix and stored.dtype.is_floating_point and not _ZERO_AT_FIRST.search(key)


def _matrix_is_cut(stored: Stored, zero: Callable[[int, int], bool], *, vocabulary: bool) -> bool:
    num_rows = next(size for size in stored.shape if size > 1)
    row_bytes = (stored.end_bytes - stored.start_bytes) // num_rows
    stop = stored.end_bytes
    if vocabulary:
        used = stored.start_bytes + row_bytes * (num_rows * 7 // 8)
        while stop > used and zero(stop - row_bytes, stop):
            stop -= row_bytes
    if zero(max(stored.start_bytes, stop - max(row_bytes, LOOK_BYTES)), stop):
        return True
    look, back = stop - LOOK_BYTES, row_bytes * (num_rows // 2)
    return row_bytes > LOOK_BYTES and zero(look, stop) and not zero(look - back, stop - back)


def _all_zero(file: BinaryIO, start: int, stop: int) -> bool:
    file.seek(start)
    while start < stop:
        block = file.read(min(_BLOCK_BYTES, stop - start))
        if not block or any(block):
            return False
        start += len(block)
    return True
