"""What both rivals do to a conversation and its pictures, written as their users write it: plain numpy, Pillow, jinja2.

It needs neither mindvl nor transformers, because energon runs in an environment without them. The tensors are ours
under the usual names, and `loader.py` compares their values before it times anything:

    pixel_values     (patches, 588) uint8, in merge-block order
    image_grid_thw   (images, 3)
    input_ids        (tokens,), one image token per visual token
    labels           (tokens,), -100 where nothing is learnt
    position_ids     (tokens,), from 0 in each document
    cu_seqlens       (documents + 1,) int32
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment
from PIL import Image
from tokenizers import Tokenizer

PATCH, MERGE = 14, 2
MIN_PIXELS, MAX_PIXELS = 4 * 28 * 28, 1280 * 28 * 28


@dataclass
class Example:
    """An encoded conversation; its pictures are cut into `patches` at once or later."""

    key: str
    input_ids: np.ndarray
    labels: np.ndarray
    grids: list[tuple[int, int, int]]
    patches: list[np.ndarray]

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)

    @property
    def num_patches(self) -> int:
        return sum(frames * height * width for frames, height, width in self.grids)


class ChatTokenizer:
    """Renders the chat template, tokenizes once, and reads the assistant's turns off the ids."""

    def __init__(self, folder: Path):
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        environment = Environment(trim_blocks=True, lstrip_blocks=True)
        self._template = environment.from_string((folder / "chat_template.jinja").read_text())
        names = ("<|image_pad|>", "<|assistant|>", "<|im_end|>")
        self.image_token, self._assistant, self._end = (self._tokenizer.token_to_id(name) for name in names)

    def __call__(self, messages: list[dict], grids: Sequence[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Ids with image tokens repeated for each picture's grid, and labels: answers and the token that ends them."""
        text = self._template.render(messages=messages, add_generation_prompt=False)
        ids = np.asarray(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int64)
        learnt = np.zeros(len(ids), bool)
        ends = np.flatnonzero(ids == self._end)
        for start in np.flatnonzero(ids == self._assistant):
            learnt[start + 1 : ends[np.searchsorted(ends, start)] + 1] = True
        repeats = np.ones(len(ids), np.int64)
        repeats[ids == self.image_token] = [frames * height * width // MERGE**2 for frames, height, width in grids]
        ids, learnt = np.repeat(ids, repeats), np.repeat(learnt, repeats)
        return ids, np.where(learnt, ids, -100)


def parse_messages(record: bytes | dict) -> list[dict]:
    return (json.loads(record) if isinstance(record, bytes) else record)["messages"]


def picture_names(sample: dict[str, Any]) -> list[str]:
    """The fields of a webdataset sample that hold pictures, `0.jpg` before `1.jpg`."""
    return sorted(name for name in sample if name.endswith((".jpg", ".png")))


def grid_of(width: int, height: int) -> tuple[int, int, int]:
    """(frames, rows, columns) of patches for a picture of this size: Qwen2-VL's resizing rule."""
    factor = PATCH * MERGE
    rows, columns = round(height / factor), round(width / factor)
    if rows * columns * factor**2 > MAX_PIXELS:
        shrink = math.sqrt(height * width / MAX_PIXELS)
        rows = max(1, math.floor(height / shrink / factor))
        columns = max(1, math.floor(width / shrink / factor))
    elif rows * columns * factor**2 < MIN_PIXELS:
        grow = math.sqrt(MIN_PIXELS / (height * width))
        rows, columns = math.ceil(height * grow / factor), math.ceil(width * grow / factor)
    return 1, rows * MERGE, columns * MERGE


def resized(picture: Image.Image, grid: tuple[int, int, int]) -> Image.Image:
    """The picture in RGB at the size of its grid, resampled bicubically where the size differs."""
    if picture.mode != "RGB":
        picture = picture.convert("RGB")
    size = grid[2] * PATCH, grid[1] * PATCH
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)


def cut(picture: Image.Image, grid: tuple[int, int, int]) -> np.ndarray:
    """(patches, 588) bytes of a picture: resize, reshape, transpose."""
    _, rows, columns = grid
    pixels = np.asarray(resized(picture, grid))
    blocks = pixels.reshape(rows // MERGE, MERGE, PATCH, columns // MERGE, MERGE, PATCH, 3)
    return blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * columns, 3 * PATCH**2)


def collate(examples: Sequence[Example]) -> dict[str, Any]:
    """A pack as tensors."""
    lengths = [example.num_tokens for example in examples]
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    patches = [patches for example in examples for patches in example.patches]
    grids = [grid for example in examples for grid in example.grids]
    return {
        "keys": [example.key for example in examples],
        "input_ids": torch.from_numpy(np.concatenate([example.input_ids for example in examples])),
        "labels": torch.from_numpy(np.concatenate([example.labels for example in examples])),
        "position_ids": torch.from_numpy(np.concatenate([np.arange(length) for length in lengths])),
        "cu_seqlens": torch.from_numpy(bounds.astype(np.int32)),
        "pixel_values": torch.from_numpy(np.concatenate(patches)) if patches else None,
        "image_grid_thw": torch.tensor(grids) if grids else None,
    }
