"""A trained model answers questions about pictures: batched greedy generation at native resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from mindvl.data.chat import ChatEncoder
from mindvl.data.images import open_image, patchify
from mindvl.data.sample import widen_placeholders
from mindvl.data.tokenizer import load_tokenizer
from mindvl.model.mindvl import MindVL


@dataclass(frozen=True)
class Prompt:
    """A conversation that ends with the user's question, and its picture files in order."""

    messages: list[dict]
    images: tuple[bytes, ...]


@dataclass(frozen=True)
class Answer:
    text: str
    visual_tokens: int
    """Tokens that the pictures took."""


class Answerer:
    """Answers prompts in batches; the answer does not depend on the batch.

    Args:
        model: in evaluation mode, on its device.
        tokenizer: the model's.
        min_pixels: area below which a picture is enlarged; the model's own by default.
        max_pixels: area above which a picture is shrunk; the model's own by default.
    """

    def __init__(
        self,
        model: MindVL,
        tokenizer: PreTrainedTokenizerBase,
        *,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
    ):
        self.model, self.tokenizer, self.encoder = model, tokenizer, ChatEncoder(tokenizer)
        self.min_pixels = model.config.min_pixels if min_pixels is None else min_pixels
        self.max_pixels = model.config.max_pixels if max_pixels is None else max_pixels
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels is {self.min_pixels}, more than max_pixels, {self.max_pixels}")

    def answer(self, prompts: Sequence[Prompt], *, max_new_tokens: int = 64, batch_size: int = 64) -> list[Answer]:
        """Answers in the order of the prompts. Prompts of like length share a batch, so little is padded."""
        encoded = [self._encode(prompt) for prompt in prompts]
        order = sorted(range(len(encoded)), key=lambda number: len(encoded[number][0]))
        answers = dict.fromkeys(range(len(prompts)), Answer("", 0))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            texts = self._generate([encoded[number] for number in chosen], max_new_tokens)
            for number, text in zip(chosen, texts, strict=True):
                visual_tokens = int((encoded[number][0] == self.encoder.image_token_id).sum())
                answers[number] = Answer(text, visual_tokens)
        return list(answers.values())

    def _encode(self, prompt: Prompt):
        """Token ids with widened placeholders, patches and grids of one prompt."""
        vision = self.model.config.vision_config
        cut = [
            patchify(
                open_image(data),
                patch=vision.patch_size,
                merge=vision.spatial_merge_size,
                min_pixels=self.min_pixels,
                max_pixels=self.max_pixels,
            )
            for data in prompt.images
        ]
        chat = self.encoder.encode(prompt.messages, generation_prompt=True)
        if chat.num_images != len(cut):
            raise ValueError(f"the prompt has {chat.num_images} image parts, but {len(cut)} pictures were given")
        ids = np.asarray(chat.input_ids, np.int64)
        visual_tokens = [grid.merged(vision.spatial_merge_size) for _, grid in cut]
        ids, _, _ = widen_placeholders(ids, np.zeros(len(ids), bool), visual_tokens, self.encoder.image_token_id)
        return ids, [patches for patches, _ in cut], [grid for _, grid in cut]

    @torch.inference_mode()
    def _generate(self, encoded, max_new_tokens: int) -> list[str]:
        device = self.model.device
        longest = max(len(ids) for ids, _, _ in encoded)
        input_ids = np.full((len(encoded), longest), self.tokenizer.pad_token_id, np.int64)
        mask = np.zeros((len(encoded), longest), np.int64)
        for row, (ids, _, _) in enumerate(encoded):
            input_ids[row, longest - len(ids) :] = ids  # padded on the left: new tokens follow the prompt
            mask[row, longest - len(ids) :] = 1
        pictures = {}
        patches = [part for _, parts, _ in encoded for part in parts]
        if patches:
            grids = [(grid.frames, grid.height, grid.width) for _, _, parts in encoded for grid in parts]
            pictures = {
                "pixel_values": torch.from_numpy(np.concatenate(patches)).to(device),
                "image_grid_thw": torch.tensor(grids, device=device),
            }
        output = self.model.generate(
            input_ids=torch.from_numpy(input_ids).to(device),
            attention_mask=torch.from_numpy(mask).to(device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
            **pictures,
        )
        return self.tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)


def load_answerer(folder: Path, *, min_pixels: int | None = None, max_pixels: int | None = None) -> Answerer:
    """An answerer from a saved model's folder, which holds its tokenizer too."""
    model = MindVL.from_pretrained(folder).eval()
    return Answerer(model, load_tokenizer(folder), min_pixels=min_pixels, max_pixels=max_pixels)
