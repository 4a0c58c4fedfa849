"""What the step benchmarks train: a MindVL of 17 M parameters and conversations of a natural mix.

Half of the conversations have no picture, a quarter a small one (2 to 6 visual tokens a side), a quarter a larger one
(4 to 10). Texts are log-normal with a median of 90 tokens and a long tail, so a batch of 8 has one that is several
times longer than most. All numbers here were chosen by us.
"""

from __future__ import annotations

import numpy as np
import torch

from mindvl.batch import ImageGrid, PackedBatch
from mindvl.data.pack import pack_samples
from mindvl.data.sample import EncodedSample
from mindvl.model.config import MindVLConfig
from mindvl.model.mindvl import MindVL

VOCABULARY = 8192
IMAGE_TOKEN = VOCABULARY - 1
TOKEN_BUDGET = 4096
MEDIAN_TEXT_TOKENS, MAX_TEXT_TOKENS, TEXT_SIGMA = 90, 2000, 1.2
SUPERVISED_RATIO = 0.4
PICTURE_SIDES = ((0, 0), (0, 0), (2, 6), (4, 10))
"""Smallest and largest side in visual tokens of each kind of conversation, all equally frequent."""

VISION = {
    "depth": 6,
    "hidden_size": 256,
    "num_heads": 4,
    "intermediate_size": 768,
    "fullatt_block_indexes": [2, 5],
    "window_size": 112,
}
LANGUAGE = {
    "model_type": "qwen3",
    "vocab_size": VOCABULARY,
    "num_hidden_layers": 6,
    "hidden_size": 384,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 1152,
    "tie_word_embeddings": True,
}


def midsize_model() -> MindVL:
    """A model whose weights are large enough that every part of it shows in the loss."""
    torch.manual_seed(0)
    model = MindVL(MindVLConfig(VISION, LANGUAGE, image_token_id=IMAGE_TOKEN)).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return model


def conversations(
    count: int, *, seed: int = 0, sides: tuple[tuple[int, int], ...] = PICTURE_SIDES
) -> list[EncodedSample]:
    """Conversations of random words and noise, the picture at the head of its text."""
    random = np.random.default_rng(seed)
    return [_conversation(number, random, sides) for number in range(count)]


def _conversation(number: int, random: np.random.Generator, sides: tuple[tuple[int, int], ...]) -> EncodedSample:
    text_tokens = round(float(np.clip(random.lognormal(np.log(MEDIAN_TEXT_TOKENS), TEXT_SIGMA), 8, MAX_TEXT_TOKENS)))
    smallest, largest = sides[random.integers(len(sides))]
    height, width = (int(side) for side in random.integers(smallest, largest, size=2, endpoint=True))
    visual_tokens = height * width
    ids = np.concatenate([np.full(visual_tokens, IMAGE_TOKEN), random.integers(0, IMAGE_TOKEN, text_tokens)])
    targets = np.full(len(ids), -1, np.int64)
    answer_tokens = max(1, round(SUPERVISED_RATIO * text_tokens))
    targets[-1 - answer_tokens : -1] = ids[-answer_tokens:]
    grids = [ImageGrid(1, 2 * height, 2 * width)] if visual_tokens else []
    patches = random.integers(0, 256, (sum(grid.patches for grid in grids), 3 * 14 * 14), dtype=np.uint8)
    return EncodedSample(f"sample {number}", "made", ids, targets, np.arange(visual_tokens), patches, grids)


def first_fit(samples: list[EncodedSample], *, token_budget: int = TOKEN_BUDGET) -> list[PackedBatch]:
    """Packs of `token_budget` tokens: each sample, in order, goes into the first pack that has room."""
    bins: list[list[EncodedSample]] = []
    room: list[int] = []
    for sample in samples:
        need = len(sample.input_ids)
        chosen = next((number for number, left in enumerate(room) if left >= need), None)
        if chosen is None:
            bins.append([])
            room.append(token_budget)
            chosen = len(bins) - 1
        bins[chosen].append(sample)
        room[chosen] -= need
    window_tokens = VISION["window_size"] // 28
    return [pack_samples(chosen, token_budget=token_budget, merge=2, window_tokens=window_tokens) for chosen in bins]


def packed_step(model: MindVL, batch: PackedBatch) -> float:
    """Forward and backward pass over a pack; gradients are added up. Returns the summed loss."""
    loss = model(packed=batch).loss
    loss.backward()
    return loss.item()
