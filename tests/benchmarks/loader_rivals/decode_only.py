"""The physical limit: every worker decodes pictures and resizes them to the model's grid, and throws them away.

    python -m tests.benchmarks.loader_rivals.decode_only CORPUS WORKERS

Files lie in memory before the clock starts. Samples come in shuffled order, and those without a picture count as done
at no cost, so that samples per second mean the same as for a loader. Workers keep freed memory: with the allocator's
defaults every picture's pages are faulted in anew, which costs a tenth, and that is no law of nature.
"""

from __future__ import annotations

import io
import multiprocessing
import sys
import time
from pathlib import Path

import numpy as np
import webdataset as wds
from PIL import Image

from mindvl.device import keep_freed_memory
from tests.benchmarks.loader_rivals.encode import grid_of, picture_names, resized
from tests.benchmarks.loader_rivals.turns import answer_requests

SETTLE_S = 0.3


def main(corpus: str, workers: int) -> None:
    shards = sorted(str(path) for path in Path(corpus, "shards").glob("*.tar"))
    samples = [
        [sample[name] for name in picture_names(sample)]
        for sample in wds.WebDataset(shards, shardshuffle=False, empty_check=False)
    ]
    fork = multiprocessing.get_context("fork")
    working = fork.Event()
    counts = [fork.Value("q", 0, lock=False) for _ in range(workers)]
    for worker, count in enumerate(counts):
        fork.Process(target=_work, args=(samples, worker, working, count), daemon=True).start()

    def run(seconds: float) -> dict[str, float]:
        working.set()
        time.sleep(SETTLE_S)
        before, start = sum(count.value for count in counts), time.perf_counter()
        time.sleep(seconds)
        done, elapsed = sum(count.value for count in counts) - before, time.perf_counter() - start
        working.clear()
        return {"samples": done, "packs": 0, "seconds": elapsed}

    answer_requests({"run": run})


def _work(samples: list[list[bytes]], worker: int, working, count) -> None:
    keep_freed_memory()
    random = np.random.default_rng(worker)
    while True:
        for number in random.permutation(len(samples)).tolist():
            working.wait()
            for data in samples[number]:
                with Image.open(io.BytesIO(data)) as picture:
                    resized(picture, grid_of(*picture.size)).load()
            count.value += 1


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
