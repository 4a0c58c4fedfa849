"""Indexing shards against reading the same tars from end to end with Python's tarfile, in the same process.

Rival: for every member, header and bytes, as a program would that only wants to see the data once, at the speed of
memory. The index is made from nothing each time: archive checked, records parsed, texts tokenized, pictures' headers
read, two checksums over all bytes. Tokenizing is most of it, so the ratio depends on how much text there is per
picture; two sets of shards are measured, both in the page cache, with the same conversations (740 characters in the
mean, a byte tokenizer):

    originals   photographs as cameras give them, 900 to 1,600 pixels a side, and drawn documents
    small       the shards of the loader benchmark: 300 to 1,000 pixels a side
"""

from __future__ import annotations

import tarfile
from pathlib import Path

from mindvl.data.chat import ChatEncoder
from mindvl.data.index import index_location
from mindvl.data.indexing import index_shard, index_shards, load_index
from mindvl.data.storage import find_shards
from mindvl.data.tokenizer import load_tokenizer, tokenizer_fingerprint
from tests.benchmarks.clock import median_times_s
from tests.benchmarks.loader_corpus import CORPUS, loader_corpus
from tests.benchmarks.rows import Row

ROWS = (
    "index_vs_tar_ratio",
    "index_vs_tar_small_ratio",
    "index_samples_per_s",
    "index_bytes_per_sample",
    "index_load_us_per_sample",
)
ROUNDS = 9


def measure() -> list[Row]:
    originals = CORPUS.with_name("index-corpus")
    loader_corpus(originals, samples=300, shards=6, photo_sides_pixels=[900, 1600])
    ratio, against, _ = _ratio(originals)
    small_ratio, small_against, samples_per_s = _ratio(loader_corpus())
    shards, encoder = _shards(CORPUS)
    index_shards(shards, encoder)
    samples = sum(len(index_shard(shard, encoder)) for shard in shards)
    stored_bytes = sum(Path(index_location(shard)).stat().st_size for shard in shards)
    fingerprint = tokenizer_fingerprint(encoder.tokenizer)
    load_s = median_times_s({"load": lambda: [load_index(shard, fingerprint) for shard in shards]}, rounds=ROUNDS)
    return [
        Row("index_vs_tar_ratio", ratio, "ratio", against),
        Row("index_vs_tar_small_ratio", small_ratio, "ratio", small_against),
        Row("index_samples_per_s", samples_per_s, "1/s", "small pictures, one process"),
        Row("index_bytes_per_sample", stored_bytes / samples, "bytes", "100 samples a shard"),
        Row("index_load_us_per_sample", load_s["load"] / samples * 1e6, "us", "100 samples a shard"),
    ]


def _shards(folder: Path) -> tuple[list[str], ChatEncoder]:
    return find_shards(folder / "shards"), ChatEncoder(load_tokenizer(folder / "tokenizer"))


def _ratio(folder: Path) -> tuple[float, str, float]:
    """tarfile's time over ours, what it stands for, and samples per second."""
    shards, encoder = _shards(folder)
    samples = sum(len(index_shard(shard, encoder)) for shard in shards)
    times_s = median_times_s(
        {
            "index": lambda: [index_shard(shard, encoder) for shard in shards],
            "tarfile": lambda: [_read_through(shard) for shard in shards],
        },
        rounds=ROUNDS,
    )
    megabytes = sum(Path(shard).stat().st_size for shard in shards) / 1e6
    against = (
        f"{megabytes / samples * 1000:.0f} kB a sample; tarfile {megabytes / times_s['tarfile']:.0f} MB/s, "
        f"index {megabytes / times_s['index']:.0f} MB/s"
    )
    return times_s["tarfile"] / times_s["index"], against, samples / times_s["index"]


def _read_through(shard: str) -> int:
    """Every member's bytes, one after the other."""
    size = 0
    with tarfile.open(shard, "r:") as archive:
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            size += len(content.read())
    return size
