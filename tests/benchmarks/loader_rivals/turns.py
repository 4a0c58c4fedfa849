"""The child's end of a benchmark that takes turns: a loader that works only while it is asked to.

Each loader lives in a process of its own, so that starts are paid once and energon can have its own environment. It
answers lines of JSON on stdin; between two requests its workers fill their queues and then stand still.

    -> ["documents", 300]       <- {"photo-00012": 2730104382, ...}            a checksum of 300 documents' tensors
    -> ["run", 4.0]             <- {"samples": 1210, "packs": 371, "seconds": 4.01}
"""

from __future__ import annotations

import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


def answer_requests(handlers: dict[str, Callable]) -> None:
    """Serve stdin until it closes. What loaders print goes to stderr: stdout belongs to the answers."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            print(json.dumps(handlers[name](*arguments)), file=answers, flush=True)


def serve_packs(packs: Iterator[dict[str, Any]], *, queued: int) -> None:
    """Serve a loader of packs (dictionaries as in `encode.collate`); `queued` packs may have been made in advance."""
    answer_requests(
        {
            "documents": lambda count: documents(packs, count),
            "run": lambda seconds: timed_run(packs, seconds, queued=queued),
        }
    )


def timed_run(packs: Iterator[dict[str, Any]], seconds: float, *, queued: int) -> dict[str, float]:
    """Samples that arrive within some seconds, once all that was made in advance is gone."""
    for _ in range(queued):
        next(packs)
    start = time.perf_counter()
    num_samples = num_packs = 0
    while (elapsed := time.perf_counter() - start) < seconds:
        num_samples += len(next(packs)["keys"])
        num_packs += 1
    return {"samples": num_samples, "packs": num_packs, "seconds": elapsed}


def documents(packs: Iterator[dict[str, Any]], count: int) -> dict[str, int]:
    """A checksum over ids, labels, positions and pixels of each of `count` different documents, by key."""
    found: dict[str, int] = {}
    while len(found) < count:
        pack = next(packs)
        image_token = pack["image_token"]
        ids, labels, positions = (np.asarray(pack[name]) for name in ("input_ids", "labels", "position_ids"))
        bounds = np.asarray(pack["cu_seqlens"]).tolist()
        first_patch = 0
        for key, start, stop in zip(pack["keys"], bounds[:-1], bounds[1:], strict=True):
            last_patch = first_patch + 4 * int((ids[start:stop] == image_token).sum())
            checksum = 0
            for values in (ids[start:stop], labels[start:stop], positions[start:stop]):
                checksum = zlib.crc32(np.ascontiguousarray(values, np.int64).tobytes(), checksum)
            if last_patch > first_patch:
                checksum = zlib.crc32(np.asarray(pack["pixel_values"][first_patch:last_patch]).tobytes(), checksum)
            found[key] = checksum
            first_patch = last_patch
    return found
