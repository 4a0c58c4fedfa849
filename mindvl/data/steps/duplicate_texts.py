"""Texts that say nearly the same, by MinHash (library `datasketch`, extra `curation`).

A text is the set of its runs of five characters (words would fail Chinese, which has no blanks). MinHash (Broder 1997)
estimates how much two such sets overlap: 128 numbers per text, with a standard error of 0.027 at an overlap of 0.9.

Short texts made from templates need care. Of 500 rendered sums as text (mindvl data render's stem, all different), an
overlap of 0.7 would drop 26 and 0.8 would drop 4 as duplicates of others; with `min_chars: 200` none is dropped.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mindvl.data.raw import RawSample
from mindvl.data.steps.clusters import representatives
from mindvl.data.steps.corpus import Entry
from mindvl.data.steps.text import sample_text

_DIGEST_BYTES = 16
_SCHEME = "affine32"  # 32-bit hashes in, 32-bit numbers out; named, so that signatures never change meaning


@dataclass(frozen=True)
class DuplicateTexts:
    """Drops text-only samples that say nearly what an earlier one says (MinHash; the first one stays).

    threshold: overlap of the two sets of character runs (Jaccard), from which two texts are the same.
    shingle_chars: length of a run.
    min_chars: shorter texts are duplicates only if they are equal. `12+7=? solve it.` and `12+8=? solve it.` share
        most of their characters and nothing of their meaning.
    num_hashes: more make the estimate sharper, 4 bytes each.
    with_pictures: look at samples with pictures too. Off, since `how many?` with `two` is said about many pictures.
    """

    threshold: float = 0.9
    shingle_chars: int = 5
    min_chars: int = 200
    num_hashes: int = 128
    with_pictures: bool = False

    def signature(self, sample: RawSample) -> bytes:
        """A digest of the text, case and blanks aside, then the MinHash of a text that is long enough for one."""
        if sample.images and not self.with_pictures:
            return b""
        text = " ".join(unicodedata.normalize("NFKC", sample_text(sample)).casefold().split())
        data = text.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()
        if len(text) < max(self.min_chars, self.shingle_chars):
            return digest
        return digest + self._minhash(text).tobytes()

    def _minhash(self, text: str) -> np.ndarray:
        import xxhash
        from datasketch import MinHash

        runs = {text[i : i + self.shingle_chars] for i in range(len(text) - self.shingle_chars + 1)}
        minhash = MinHash(self.num_hashes, seed=1, hashfunc=xxhash.xxh32_intdigest, scheme=_SCHEME)
        minhash.update_batch([run.encode("utf-8", "surrogatepass") for run in sorted(runs)])
        return np.asarray(minhash.hashvalues, np.uint32)

    def verdicts(self, entries: Sequence[Entry]) -> list[str | None]:
        """Equal digests first, then candidates that share a band of hashes, each judged by its estimate."""
        compared = [number for number, entry in enumerate(entries) if entry.signature]
        pairs = self._alike([entries[number].signature for number in compared])
        verdicts: list[str | None] = [None] * len(entries)
        for index, first in enumerate(representatives(len(compared), pairs)):
            if first != index:
                verdicts[compared[index]] = "says what an earlier text says"
        return verdicts

    def _alike(self, signatures: list[bytes]) -> Iterator[tuple[int, int]]:
        from datasketch import LeanMinHash, MinHashLSH

        # A false candidate costs one comparison, a missed pair is a duplicate kept: so misses weigh nine times more.
        index = MinHashLSH(threshold=self.threshold, num_perm=self.num_hashes, weights=(0.1, 0.9))
        first_of: dict[bytes, int] = {}
        hashes: dict[int, np.ndarray] = {}
        for number, signature in enumerate(signatures):
            first = first_of.setdefault(signature[:_DIGEST_BYTES], number)
            if first != number:
                yield first, number
            elif len(signature) > _DIGEST_BYTES:
                values = np.frombuffer(signature[_DIGEST_BYTES:], np.uint32)
                lean = LeanMinHash(seed=1, hashvalues=values, scheme=_SCHEME)
                for other in sorted(index.query(lean)):
                    if (hashes[other] == values).mean() >= self.threshold:
                        yield other, number
                index.insert(number, lean)
                hashes[number] = values
