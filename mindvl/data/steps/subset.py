"""Steps that choose by the hash of a sample's key: a fair draw that is the same in every run and for any neighbours."""

from __future__ import annotations

import hashlib

from mindvl.data.raw import RawSample


def draw_of(key: str) -> float:
    """A number from 0 (included) to 1 (excluded) that a key has drawn once and for all."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64


def subset(sample: RawSample, *, ratio: float = 1.0) -> RawSample | str:
    """Keeps about this share of the samples; a smaller ratio keeps a part of what a larger one does."""
    return sample if draw_of(sample.key) < ratio else "not drawn"
