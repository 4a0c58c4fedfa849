"""A trained model answers questions about pictures at native resolution, many prompts at a time.

Prompts of like length share a batch, padded on the left. A batch is bounded by the tokens that its cache will hold,
rows x (longest prompt + new tokens), so that neither long prompts nor many short ones run out of memory:

    16,384 tokens, 64 new ones      160 prompts of 38 tokens, or 12 of 1,280, or a single one of any length

Pictures are measured by their headers to make the batches, and decoded when the batch's turn has come.

A model that is shared out over ranks is run by all of them together, though each has prompts of its own
(`mindvl.phases.in_step`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import xxhash
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteriaList

from mindvl.batch import ImageGrid
from mindvl.data.chat import ChatEncoder
from mindvl.data.patches import join_patches
from mindvl.data.pixels import PixelBudget
from mindvl.data.raw import Visual
from mindvl.data.sample import check_visuals, cut_visuals, visual_grids, widen_placeholders
from mindvl.data.tokenizer import load_tokenizer
from mindvl.model.mindvl import MindVL
from mindvl.model.weights.assembly import check_token_ids
from mindvl.phases.decoding import Decoding, SayWords, StopAtText, after_opening, cut_at_stop, processors
from mindvl.phases.in_step import in_step, must_run_together

GREEDY = Decoding()


@dataclass(frozen=True)
class Prompt:
    """A conversation that ends with the user's question, and its pictures and videos in order."""

    messages: list[dict]
    images: tuple[Visual, ...]
    """A picture's file, or the files of a video's frames."""


@dataclass(frozen=True)
class Answer:
    """What the model said, or why it could not be asked."""

    text: str
    """Without the empty thoughts that a chat template as Qwen3's puts before an answer."""
    visual_tokens: int
    """Tokens that the pictures and videos took."""
    new_tokens: int = 0
    """Tokens that were written, with the one that ends the turn."""
    finish: Literal["stop", "length"] | None = None
    """The model ended its turn or wrote a stop text, or was cut at `max_new_tokens`; None where `error` is set."""
    error: str | None = None
    sizes: tuple[tuple[int, int], ...] = ()
    """(height, width) of each picture as the model saw it, in pixels."""


@dataclass(frozen=True)
class _Encoded:
    """A prompt as the model reads it: ids with widened placeholders, patches of all pictures, the grid of each."""

    input_ids: np.ndarray
    patches: np.ndarray
    grids: list[ImageGrid]

    @property
    def number(self) -> int:
        """Of the content: what is drawn for this prompt hangs on it."""
        digest = xxhash.xxh3_64(self.input_ids.tobytes())
        digest.update(self.patches.tobytes())
        return digest.intdigest()


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
        check_token_ids(model.config, tokenizer)
        self.model, self.tokenizer, self.encoder = model, tokenizer, ChatEncoder(tokenizer)
        self.opening = self.encoder.opening
        self.min_pixels = model.config.min_pixels if min_pixels is None else min_pixels
        self.max_pixels = model.config.max_pixels if max_pixels is None else max_pixels
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels is {self.min_pixels}, more than max_pixels, {self.max_pixels}")
        own = model.generation_config.eos_token_id
        ends = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
        self._ends = sorted({end for end in ends if end is not None})
        self._together = must_run_together(model)

    def answer(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding = GREEDY,
        *,
        batch_tokens: int = 16384,
        batch_size: int | None = None,
        keep_going: bool = False,
    ) -> list[Answer]:
        """Answers in the order of the prompts.

        Args:
            prompts: any number; they are not decoded all at once.
            decoding: greedy by default.
            batch_tokens: tokens of a batch, padding and the answers' longest length included.
            batch_size: at most so many prompts in a batch; as many as fit by default.
            keep_going: a prompt that cannot be asked (a broken picture, a wrong number of pictures) gets an answer
                with `error`; without, it raises ValueError.
        """
        each = self.answer_each(
            prompts, decoding, batch_tokens=batch_tokens, batch_size=batch_size, keep_going=keep_going
        )
        answers = dict(each)
        return [answers[number] for number in range(len(prompts))]

    def answer_each(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding = GREEDY,
        *,
        batch_tokens: int = 16384,
        batch_size: int | None = None,
        keep_going: bool = False,
        between: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[int, Answer]]:
        """(number of a prompt, its answer) batch by batch, as they are done; arguments are those of `answer`.

        Ranks that share out the model must all call it, with prompts or without, and exhaust it. `between` is called
        before each batch, by such ranks equally often.
        """
        lengths: dict[int, int] = {}
        for number, prompt in enumerate(prompts):
            try:
                lengths[number] = self._num_tokens(prompt)
            except ValueError as error:
                if not keep_going:
                    raise
                yield number, Answer("", 0, error=str(error))
        batches = _batches(lengths, decoding.max_new_tokens, batch_tokens, batch_size)
        for batch in in_step(batches, self.model.device) if self._together else batches:
            between()
            encoded: dict[int, _Encoded] = {}
            for number in batch:
                try:
                    encoded[number] = self._encode(prompts[number])
                except ValueError as error:
                    if not keep_going:
                        raise
                    yield number, Answer("", 0, error=str(error))
            if encoded or self._together:
                yield from zip(encoded, self._generate(list(encoded.values()), decoding), strict=True)

    def answer_aloud(self, prompt: Prompt, decoding: Decoding, say: Callable[[str], None]) -> Answer:
        """The answer to one prompt, whose words `say` hears as they are written."""
        return self._generate([self._encode(prompt)], decoding, say)[0]

    @property
    def _pixels(self) -> PixelBudget:
        budget = PixelBudget.of_model(self.model.config)
        return replace(budget, min_pixels=self.min_pixels, max_pixels=self.max_pixels)

    def _num_tokens(self, prompt: Prompt) -> int:
        """Tokens of a prompt by the headers of its pictures, of which none is decoded."""
        return len(self._widened(prompt, visual_grids(prompt.images, self._pixels)))

    def _encode(self, prompt: Prompt) -> _Encoded:
        """A prompt with its pictures decoded and cut."""
        patches, grids = cut_visuals(prompt.images, self._pixels)
        return _Encoded(self._widened(prompt, grids), patches, grids)

    def _widened(self, prompt: Prompt, grids: list[ImageGrid]) -> np.ndarray:
        """Token ids with as many placeholders as the pictures take."""
        chat = self.encoder.encode(prompt.messages, generation_prompt=True)
        if chat.num_images != len(grids):
            raise ValueError(f"the prompt has {chat.num_images} image parts, but {len(grids)} pictures were given")
        check_visuals(chat.visuals, prompt.images)
        ids = np.asarray(chat.input_ids, np.int64)
        visual_tokens = [grid.merged(self.model.merge) for grid in grids]
        ids, _, _ = widen_placeholders(ids, np.zeros(len(ids), bool), visual_tokens, *self.encoder.placeholder_ids)
        return ids

    def _filler(self) -> _Encoded:
        """A blank picture of one visual token, asked about beside prompts that leave the tower without work."""
        grid = ImageGrid(1, self.model.merge, self.model.merge)
        patches = np.zeros((grid.patches, self._pixels.patch_bytes(has_video=False)), np.uint8)
        blank = Prompt([{"role": "user", "content": [{"type": "image"}]}], (b"",))
        return _Encoded(self._widened(blank, [grid]), patches, [grid])

    def _generate(
        self, encoded: list[_Encoded], decoding: Decoding, say: Callable[[str], None] | None = None
    ) -> list[Answer]:
        # Inference tensors cannot be gathered from other ranks, nor be kept by FSDP2 for the next training step.
        with torch.inference_mode(not self._together), torch.no_grad():
            if self._together and not any(prompt.grids for prompt in encoded):
                return self._generate_rows([*encoded, self._filler()], decoding, say)[:-1]
            return self._generate_rows(encoded, decoding, say)

    def _generate_rows(
        self, encoded: list[_Encoded], decoding: Decoding, say: Callable[[str], None] | None
    ) -> list[Answer]:
        inputs = self._padded(encoded)
        longest = inputs["input_ids"].shape[1]
        stopping = StoppingCriteriaList()
        if decoding.stop:
            stopping.append(StopAtText(self.tokenizer, decoding.stop, prompt_tokens=longest, opening=self.opening))
        output = self.model.generate(
            **inputs,
            generation_config=self._generation_config(decoding),
            logits_processor=processors(decoding, [] if decoding.greedy else [prompt.number for prompt in encoded]),
            stopping_criteria=stopping,
            streamer=None if say is None else SayWords(self.tokenizer, decoding.stop, say, self.opening),
            synced_gpus=self._together,  # go on until the last rank's answers are written
        )
        return [self._read(prompt, row, decoding) for prompt, row in zip(encoded, output[:, longest:], strict=True)]

    def _padded(self, encoded: Sequence[_Encoded]) -> dict[str, torch.Tensor]:
        """What the model reads of a batch, on its device."""
        device = self.model.device
        longest = max(len(prompt.input_ids) for prompt in encoded)
        input_ids = np.full((len(encoded), longest), self.tokenizer.pad_token_id, np.int64)
        mask = np.zeros((len(encoded), longest), np.int64)
        for row, prompt in enumerate(encoded):
            start = longest - len(prompt.input_ids)  # padded on the left: new tokens follow the prompt
            input_ids[row, start:] = prompt.input_ids
            mask[row, start:] = 1
        inputs = {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(mask)}
        grids = [(grid.frames, grid.height, grid.width) for prompt in encoded for grid in prompt.grids]
        if grids:
            patches = join_patches([prompt.patches for prompt in encoded if prompt.grids])
            inputs |= {"pixel_values": torch.from_numpy(patches), "image_grid_thw": torch.tensor(grids)}
        return {name: tensor.to(device) for name, tensor in inputs.items()}

    def _generation_config(self, decoding: Decoding) -> GenerationConfig:
        """All that `generate` would otherwise take from a saved model's own defaults is said here."""
        return GenerationConfig(
            max_new_tokens=decoding.max_new_tokens,
            min_new_tokens=decoding.min_new_tokens or None,
            do_sample=False,  # what is drawn is drawn by a processor, row by row
            num_beams=1,
            temperature=1.0,
            top_p=1.0,
            top_k=50,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            eos_token_id=self._ends,
            pad_token_id=self.tokenizer.pad_token_id,
        )

    def _read(self, prompt: _Encoded, row: torch.Tensor, decoding: Decoding) -> Answer:
        """The text of new tokens up to the end of the turn or the first stop text."""
        ids = row.tolist()
        patch = self.model.config.vision_config.patch_size
        length = next((place + 1 for place, token in enumerate(ids) if token in self._ends), None)
        text, stopped = cut_at_stop(self._text(ids[:length]), decoding.stop)
        if stopped:  # what follows pads the row, as far as the longest answer of the batch
            length = 1 + bisect_left(
                range(1, len(ids)), True, key=lambda end: cut_at_stop(self._text(ids[:end]), decoding.stop)[1]
            )
        return Answer(
            text,
            visual_tokens=sum(grid.merged(self.model.merge) for grid in prompt.grids),
            new_tokens=len(ids[:length]),
            finish="stop" if stopped or length is not None else "length",
            sizes=tuple((grid.height * patch, grid.width * patch) for grid in prompt.grids),
        )

    def _text(self, ids: list[int]) -> str:
        return after_opening(self.tokenizer.decode(ids, skip_special_tokens=True), self.opening)


def _batches(
    lengths: dict[int, int], new_tokens: int, batch_tokens: int, batch_size: int | None
) -> Iterator[list[int]]:
    """Prompts, shortest first, in batches of `batch_tokens` tokens; a prompt longer than that is alone in its batch."""
    batch: list[int] = []
    for number in sorted(lengths, key=lambda each: lengths[each]):
        full = (len(batch) + 1) * (lengths[number] + new_tokens) > batch_tokens or len(batch) == batch_size
        if batch and full:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def load_answerer(folder: Path, *, min_pixels: int | None = None, max_pixels: int | None = None) -> Answerer:
    """An answerer from a saved model's folder, which holds its tokenizer too. ValueError for any other folder."""
    if not (folder / "config.json").is_file():  # nor is it a hub id
        raise ValueError(f"{folder} is no saved model: it has no config.json")
    model = MindVL.from_pretrained(folder)
    return Answerer(model, load_tokenizer(folder), min_pixels=min_pixels, max_pixels=max_pixels)
