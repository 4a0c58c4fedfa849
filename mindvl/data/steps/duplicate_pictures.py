"""Pictures that look alike, by perceptual hash (library `imagehash`, extra `curation`).

A pHash keeps the signs of a picture's lowest frequencies, so recompressed or rescaled copies differ in few bits. But
pages of text differ little too. Among 500 rendered text lines in free layouts (mindvl data render's defaults), pairs
with different text within a distance of

    bits             0      2      4      8     16     24
    64 (size 8)      6     42     86    295   1806   8940
    256 (size 16)    0      0      0      0      0      0

so the usual 64 bits would throw away 178 of 500 good lines at distance 8, and 256 bits, our default, none. Receipts,
paragraphs and captions agree; the first false pair of 256 bits is one of printed sums, at distance 16. What distance 8
finds of true copies: JPEG at quality 50 is found in 76 % (lines) to 98 % (receipts) of cases, half the size in 91 % to
all. A border of 2 % cut off on two sides goes unnoticed: that is another picture for this step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mindvl.data.images import open_image
from mindvl.data.raw import RawSample
from mindvl.data.steps.clusters import representatives
from mindvl.data.steps.corpus import Entry
from mindvl.data.steps.text import sample_text

_TEXT_BYTES = 8


@dataclass(frozen=True)
class DuplicatePictures:
    """Drops samples whose pictures look like an earlier sample's (perceptual hash; the first one stays).

    hash_size: a hash has hash_size x hash_size bits; fewer than 16 confuse pages of text.
    max_distance: differing bits, up to which two pictures look alike; 0 for equal hashes only.
    same_text: drop only where the words of both conversations agree as well. Data sets ask many questions about one
        picture in as many samples; with `false` only the first of them would stay.
    """

    hash_size: int = 16
    max_distance: int = 8
    same_text: bool = True

    def signature(self, sample: RawSample) -> bytes:
        """A digest of the words (8 zeros if they do not matter), then the hash of each picture."""
        import imagehash

        if not sample.images:
            return b""
        words = hashlib.blake2b(sample_text(sample).encode("utf-8", "surrogatepass"), digest_size=_TEXT_BYTES).digest()
        hashes = []
        for data in sample.files:
            try:
                picture = open_image(data)
            except ValueError:
                return b""  # not for this step to judge: `decodes` is
            bits = np.asarray(imagehash.phash(picture, hash_size=self.hash_size).hash).ravel()
            hashes.append(np.packbits(bits).tobytes())
        return (words if self.same_text else bytes(_TEXT_BYTES)) + b"".join(hashes)

    def verdicts(self, entries: Sequence[Entry]) -> list[str | None]:
        """Compares samples of as many pictures (and, by default, the same words) with each other."""
        groups: dict[tuple[bytes, int], list[int]] = {}
        for number, entry in enumerate(entries):
            if entry.signature:
                groups.setdefault((entry.signature[:_TEXT_BYTES], len(entry.signature)), []).append(number)
        verdicts: list[str | None] = [None] * len(entries)
        for members in groups.values():
            rows = b"".join(entries[number].signature[_TEXT_BYTES:] for number in members)
            hashes = np.frombuffer(rows, np.uint8).reshape(len(members), -1, -(-(self.hash_size**2) // 8))
            pairs = alike(hashes, max_distance=self.max_distance) if len(members) > 1 else ()
            for index, first in enumerate(representatives(len(members), pairs)):
                if first != index:
                    verdicts[members[index]] = "looks like an earlier picture"
        return verdicts


def alike(hashes: np.ndarray, *, max_distance: int) -> Iterator[tuple[int, int]]:
    """Pairs of rows of (samples, pictures, bytes) whose every picture differs in at most `max_distance` bits.

    Rows that are equal are paired with the first of them, which alone is compared with others. Nothing else is missed:
    cut into max_distance + 1 bands of bits, two hashes that close agree entirely on one band at least, so only rows of
    one bucket are compared.
    """
    first_of: dict[bytes, int] = {}
    unique = []
    for number, row in enumerate(hashes):
        first = first_of.setdefault(row.tobytes(), number)
        if first == number:
            unique.append(number)
        else:
            yield first, number
    if max_distance == 0:
        return
    bits = np.unpackbits(hashes[unique, 0], axis=1)
    for band in np.array_split(bits, max_distance + 1, axis=1):
        buckets: dict[bytes, list[int]] = {}
        for number, key in zip(unique, np.packbits(band, axis=1), strict=True):
            buckets.setdefault(key.tobytes(), []).append(number)
        for bucket in buckets.values():
            for place, number in enumerate(bucket[:-1]):
                others = bucket[place + 1 :]
                distances = np.bitwise_count(hashes[others] ^ hashes[number]).sum(axis=2, dtype=np.int64)
                for found in np.flatnonzero((distances <= max_distance).all(axis=1)):
                    yield number, others[found]
