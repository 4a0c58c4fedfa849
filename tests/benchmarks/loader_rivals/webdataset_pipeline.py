"""The first rival: webdataset, the library, in a pipeline that fills packs in the order in which samples come.

    python -m tests.benchmarks.loader_rivals.webdataset_pipeline CORPUS WORKERS TOKENS PATCHES PREFETCH

Each worker reads its shards from start to end, shuffles 200 undecoded samples, decodes with Pillow
(`decode("pilrgb")`), encodes, and closes a pack when the next sample would exceed one of its budgets. `WebLoader` moves
the tensors.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import webdataset as wds

from tests.benchmarks.loader_rivals.encode import (
    ChatTokenizer,
    Example,
    collate,
    cut,
    grid_of,
    parse_messages,
    picture_names,
)
from tests.benchmarks.loader_rivals.turns import serve_packs

SHUFFLE_SAMPLES = 200


def main(corpus: str, workers: int, tokens: int, patches: int, prefetch: int) -> None:
    tokenizer = ChatTokenizer(Path(corpus, "tokenizer"))
    shards = sorted(str(path) for path in Path(corpus, "shards").glob("*.tar"))

    def encode(sample: dict[str, Any]) -> Example:
        pictures = [sample[name] for name in picture_names(sample)]
        grids = [grid_of(*picture.size) for picture in pictures]
        ids, labels = tokenizer(parse_messages(sample["json"]), grids)
        cuts = [cut(picture, grid) for picture, grid in zip(pictures, grids, strict=True)]
        return Example(sample["__key__"], ids, labels, grids, cuts)

    def pack(examples: Iterable[Example]) -> Iterator[dict[str, Any]]:
        chosen: list[Example] = []
        free_tokens, free_patches = tokens, patches
        for example in examples:
            if example.num_tokens > tokens or example.num_patches > patches:
                continue
            if example.num_tokens > free_tokens or example.num_patches > free_patches:
                yield collate(chosen)
                chosen, free_tokens, free_patches = [], tokens, patches
            chosen.append(example)
            free_tokens -= example.num_tokens
            free_patches -= example.num_patches
        if chosen:
            yield collate(chosen)

    dataset = (
        wds.WebDataset(shards, shardshuffle=len(shards))
        .repeat()
        .shuffle(SHUFFLE_SAMPLES)
        .decode("pilrgb")
        .map(encode)
        .compose(pack)
    )
    loader = wds.WebLoader(
        dataset, batch_size=None, num_workers=workers, prefetch_factor=prefetch, worker_init_fn=_one_thread
    )
    packs = ({**pack, "image_token": tokenizer.image_token} for pack in loader)
    serve_packs(packs, queued=workers * (prefetch + 1))


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
