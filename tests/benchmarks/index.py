"""Indexing shards against reading the same tars from end to end with Python's tarfile.

Rival: one process, for every member header and bytes, as a program would that only wants to see the data once, at the
speed of memory. The index is made from nothing each time: archive checked, records parsed, texts tokenized, pictures'
headers read, two checksums over all bytes, file written. As in `mindvl data index`, each core has a process; their
start is not counted. The `one_process` row is one of them alone. Text and headers cost what they cost however large the
pictures are, so two sets of shards are measured, both in the page cache, with the same conversations (740 characters
in the mean, a byte tokenizer):

    originals   photographs as cameras give them, 900 to 1,600 pixels a side, and drawn documents
    small       the shards of the loader benchmark: 300 to 1,000 pixels a side
"""

from __future__ import annotations

import multiprocessing
import tarfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from mindvl.cores import num_cores
from mindvl.data.chat import ChatEncoder
from mindvl.data.indexing import index_shard, load_index, make_in_worker, start_worker
from mindvl.data.storage import find_shards, index_location
from mindvl.data.tokenizer import load_tokenizer, tokenizer_fingerprint
from tests.benchmarks.clock import median_times_s
from tests.benchmarks.loader_corpus import CORPUS, loader_corpus
from tests.benchmarks.rows import Row

ROWS = (
    "index_vs_tar_ratio",
    "index_vs_tar_one_process_ratio",
    "index_vs_tar_small_ratio",
    "index_samples_per_s",
    "index_bytes_per_sample",
    "index_load_us_per_sample",
)
ROUNDS, REPEATS = 5, 4


def measure() -> list[Row]:
    originals = loader_corpus(CORPUS.with_name("index-corpus"), samples=300, shards=6, photo_sides_pixels=[900, 1600])
    large, small = _times(originals), _times(loader_corpus())
    shards, encoder = _shards(CORPUS)
    stored_bytes = sum(Path(index_location(shard)).stat().st_size for shard in shards)
    fingerprint = tokenizer_fingerprint(encoder.tokenizer)
    load_s = median_times_s({"load": lambda: [load_index(shard, fingerprint) for shard in shards]}, rounds=ROUNDS)
    return [
        Row("index_vs_tar_ratio", large["tarfile"] / large["index"], "ratio", _against(large, "index")),
        Row("index_vs_tar_one_process_ratio", large["tarfile"] / large["alone"], "ratio", _against(large, "alone")),
        Row("index_vs_tar_small_ratio", small["tarfile"] / small["index"], "ratio", _against(small, "index")),
        Row("index_samples_per_s", small["samples"] / small["index"], "1/s", "small pictures"),
        Row("index_bytes_per_sample", stored_bytes / small["samples"], "bytes", "100 samples a shard"),
        Row("index_load_us_per_sample", load_s["load"] / small["samples"] * 1e6, "us", "100 samples a shard"),
    ]


def _shards(folder: Path) -> tuple[list[str], ChatEncoder]:
    return find_shards(folder / "shards"), ChatEncoder(load_tokenizer(folder / "tokenizer"))


def _times(folder: Path) -> dict[str, float]:
    """Seconds of each contender for all shards of a corpus, with its samples and megabytes."""
    shards, encoder = _shards(folder)
    samples = sum(len(index_shard(shard, encoder)) for shard in shards)
    context, cores = multiprocessing.get_context("spawn"), num_cores()
    with ProcessPoolExecutor(cores, mp_context=context, initializer=start_worker, initargs=(encoder,)) as pool:

        def index() -> None:
            list(pool.map(make_in_worker, shards * REPEATS, [None] * len(shards) * REPEATS))

        times_s = median_times_s(
            {
                "index": index,
                "alone": lambda: [index_shard(shard, encoder) for shard in shards * REPEATS],
                "tarfile": lambda: [_read_through(shard) for shard in shards * REPEATS],
            },
            rounds=ROUNDS,
            warmups=2,
        )
    megabytes = sum(Path(shard).stat().st_size for shard in shards) / 1e6
    return {name: seconds / REPEATS for name, seconds in times_s.items()} | {"samples": samples, "megabytes": megabytes}


def _against(times: dict[str, float], ours: str) -> str:
    megabytes = times["megabytes"]
    return (
        f"{megabytes / times['samples'] * 1000:.0f} kB a sample; tarfile {megabytes / times['tarfile']:.0f} MB/s, "
        f"index {megabytes / times[ours]:.0f} MB/s"
    )


def _read_through(shard: str) -> int:
    """Every member's bytes, one after the other."""
    size = 0
    with tarfile.open(shard, "r:") as archive:
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            size += len(content.read())
    return size
