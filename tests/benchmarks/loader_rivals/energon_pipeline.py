"""The second rival: megatron-energon with its packing hooks, in an environment of its own.

    python -m tests.benchmarks.loader_rivals.energon_pipeline CORPUS WORKERS TOKENS PATCHES PREFETCH

Samples are crude: JSON and picture files as bytes. A sample is tokenized with sizes from the pictures' headers
(`preencode_sample`), 200 of them are sorted into packs by first fit, longest first (`select_samples_to_pack`), pictures
are decoded and cut only then (`postencode_sample`), and tensors made (`pack_selected_samples`). `get_loader` is the
lighter of energon's two loaders: it keeps no checkpoints.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import torch
from megatron.energon import (
    Cooker,
    DefaultTaskEncoder,
    Sample,
    WorkerConfig,
    basic_sample_keys,
    edataclass,
    get_loader,
    get_train_dataset,
    stateless,
)
from PIL import Image

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

BUFFER_SAMPLES = 200


@edataclass
class RawChat(Sample):
    """A conversation and its picture files."""

    messages: list[dict]
    files: list[bytes]


@edataclass
class Chat(Sample):
    """A tokenized conversation; its pictures are still files until it has a place in a pack."""

    example: Example
    files: list[bytes]


@edataclass
class Pack(Sample):
    tensors: dict[str, Any]


@stateless
def cook(sample: dict) -> RawChat:
    files = [sample[name] for name in picture_names(sample)]
    return RawChat(**basic_sample_keys(sample), messages=parse_messages(sample["json"]), files=files)


class PackingEncoder(DefaultTaskEncoder):
    """Packs of two budgets, tokens and patches."""

    decoder = None
    cookers = (Cooker(cook),)

    def __init__(self, tokenizer: ChatTokenizer, tokens: int, patches: int):
        super().__init__()
        self.tokenizer, self.tokens, self.patches = tokenizer, tokens, patches

    @stateless
    def preencode_sample(self, sample: RawChat) -> Chat:
        grids = []
        for file in sample.files:
            with Image.open(io.BytesIO(file)) as picture:
                grids.append(grid_of(*picture.size))
        ids, labels = self.tokenizer(sample.messages, grids)
        example = Example(_own_key(sample.__key__), ids, labels, grids, [])
        return Chat.derive_from(sample, example=example, files=sample.files)

    def select_samples_to_pack(self, samples: list[Chat]) -> list[list[Chat]]:
        packs: list[list[Chat]] = []
        free: list[tuple[int, int]] = []
        for sample in sorted(samples, key=lambda chat: -chat.example.num_tokens):
            need = sample.example.num_tokens, sample.example.num_patches
            if need[0] > self.tokens or need[1] > self.patches:
                continue
            fits = (number for number, left in enumerate(free) if left[0] >= need[0] and left[1] >= need[1])
            chosen = next(fits, None)
            if chosen is None:
                chosen = len(packs)
                packs.append([])
                free.append((self.tokens, self.patches))
            packs[chosen].append(sample)
            free[chosen] = free[chosen][0] - need[0], free[chosen][1] - need[1]
        return packs

    @stateless
    def postencode_sample(self, sample: Chat) -> Chat:
        for file, grid in zip(sample.files, sample.example.grids, strict=True):
            with Image.open(io.BytesIO(file)) as picture:
                sample.example.patches.append(cut(picture, grid))
        return sample

    @stateless
    def pack_selected_samples(self, samples: list[Chat]) -> Pack:
        return Pack.derive_from(samples[0], tensors=collate([sample.example for sample in samples]))


def main(corpus: str, workers: int, tokens: int, patches: int, prefetch: int) -> None:
    torch.set_num_threads(1)  # before the workers are forked
    tokenizer = ChatTokenizer(Path(corpus, "tokenizer"))
    dataset = get_train_dataset(
        str(Path(corpus, "shards")),
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=workers),
        batch_size=None,
        packing_buffer_size=BUFFER_SAMPLES,
        shuffle_buffer_size=BUFFER_SAMPLES,
        max_samples_per_sequence=None,
        task_encoder=PackingEncoder(tokenizer, tokens, patches),
    )
    loader = get_loader(dataset, prefetch_factor=prefetch, watchdog_timeout_seconds=None)
    packs = ({**pack.tensors, "image_token": tokenizer.image_token} for pack in loader)
    serve_packs(packs, queued=workers * (prefetch + 1))


def _own_key(key: str) -> str:
    """Energon puts the shard's path before a sample's key."""
    return key.rsplit("/", 1)[-1]


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
