"""Indexing shards against reading the same tars from end to end with Python's tarfile, in the same process.

Rival: for every member, header and bytes, as a program would that only wants to see the data once. The index is made
from nothing each time: archive checked, records parsed, texts tokenized, pictures' headers read, two checksums over all
bytes. The shards are those of the loader benchmark, in the page cache.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np

from mindvl.data.chat import ChatEncoder
from mindvl.data.index import index_location
from mindvl.data.indexing import index_shard, load_index
from mindvl.data.storage import find_shards
from mindvl.data.tokenizer import load_tokenizer, tokenizer_fingerprint
from tests.benchmarks.clock import median_times_s
from tests.benchmarks.loader_corpus import loader_corpus
from tests.benchmarks.rows import Row

ROWS = ("index_vs_tar_ratio", "index_samples_per_s", "index_bytes_per_sample", "index_load_us_per_sample")
ROUNDS = 7


def measure() -> list[Row]:
    folder = loader_corpus()
    encoder = ChatEncoder(load_tokenizer(folder / "tokenizer"))
    shards = find_shards(folder / "shards")
    fingerprint = tokenizer_fingerprint(encoder.tokenizer)
    samples = sum(len(index_shard(shard, encoder)) for shard in shards)
    times_s = median_times_s(
        {
            "index": lambda: [index_shard(shard, encoder) for shard in shards],
            "tarfile": lambda: [_read_through(shard) for shard in shards],
        },
        rounds=ROUNDS,
    )
    megabytes = sum(Path(shard).stat().st_size for shard in shards) / 1e6
    from mindvl.data.indexing import index_shards

    index_shards(shards, encoder)
    stored_bytes = sum(Path(index_location(shard)).stat().st_size for shard in shards)
    load_s = median_times_s({"load": lambda: [load_index(shard, fingerprint) for shard in shards]}, rounds=ROUNDS)
    against = f"tarfile reads {megabytes / times_s['tarfile']:.0f} MB/s, {times_s['tarfile']:.3f} s for all"
    return [
        Row("index_vs_tar_ratio", times_s["tarfile"] / times_s["index"], "ratio", against),
        Row("index_samples_per_s", samples / times_s["index"], "1/s", "one process"),
        Row("index_bytes_per_sample", stored_bytes / samples, "bytes", f"of {megabytes / samples * 1000:.0f} kB"),
        Row("index_load_us_per_sample", np.divide(load_s["load"], samples) * 1e6, "us"),
    ]


def _read_through(shard: str) -> int:
    """Every member's bytes, one after the other."""
    size = 0
    with tarfile.open(shard, "r:") as archive:
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            size += len(content.read())
    return size
