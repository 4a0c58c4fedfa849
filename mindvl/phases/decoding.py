"""How an answer is written: greedily or by chance, up to which length, and where it stops.

Everything runs inside transformers' `generate`; what is here are the pieces that are handed to it.

A drawn answer is a function of the prompt and the settings, as a greedy one is. transformers draws a whole batch from
one stream of random numbers, so a prompt's answer would change with its neighbours. Here every row has a stream of its
own, seeded by `seed` and by the prompt's tokens and patches, and uses one number per token:

    temperature, top-k, top-p leave   "a" 0.5   "b" 0.3   "c" 0.2
    heights, largest first                0.5       0.8       1.0
    the row's next number is 0.62     ->  "b"

So a prompt is answered alike alone, in any batch and in any order, as far as its logits agree: a number that falls
within a rounding (some 1e-6) of a height may choose the neighbour. Another sample of the same prompt is another `seed`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase, StoppingCriteria
from transformers.generation import TemperatureLogitsWarper, TextStreamer, TopKLogitsWarper, TopPLogitsWarper


@dataclass(frozen=True)
class Decoding:
    """Settings of an answer; the defaults are greedy. Raises ValueError that names the setting and its bounds.

    Args:
        max_new_tokens: an answer that is longer is cut there, and says so (`Answer.finish`).
        min_new_tokens: the end of the turn is not an option before.
        temperature: 0 takes the likeliest token; above, tokens are drawn from softmax(logits / temperature).
        top_p: draws from the smallest set of tokens that holds this share of the probability.
        top_k: draws from this many likeliest tokens; 0 for all.
        stop: texts that end an answer; the answer ends before the first of them.
        seed: of what is drawn.
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}, an answer has at least 1")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens is {self.min_new_tokens}, outside 0 .. max_new_tokens={self.max_new_tokens}"
            )
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; 0 is greedy, above 0 is drawn")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}, outside 0 (excluded) .. 1")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; 0 is all tokens")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, which must not be negative")
        if not all(self.stop):
            raise ValueError("a stop text is empty, and would end every answer before its first word")
        if self.temperature == 0 and (self.top_p < 1 or self.top_k):
            raise ValueError(
                f"top_p={self.top_p} and top_k={self.top_k} bound what is drawn, but temperature 0 draws nothing"
            )

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


class DrawEachRow(LogitsProcessor):
    """Leaves one token of each row possible, drawn by that row's own stream of random numbers."""

    def __init__(self, seed: int, rows: Sequence[int]):
        """`rows` holds a number for each row, which is mixed with `seed`."""
        self.streams = [np.random.default_rng([seed, row]) for row in rows]

    def __call__(
        self, input_ids: Int[Tensor, "rows tokens"], scores: Float[Tensor, "rows vocabulary"]
    ) -> Float[Tensor, "rows vocabulary"]:
        numbers = torch.tensor([stream.random() for stream in self.streams], dtype=scores.dtype, device=scores.device)
        shares, tokens = scores.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
        heights = shares.cumsum(dim=-1)
        place = (heights <= numbers[:, None] * heights[:, -1:]).sum(dim=-1, keepdim=True)
        place = place.minimum((shares > 0).sum(dim=-1, keepdim=True) - 1)  # a number may round up to the last height
        return torch.full_like(scores, float("-inf")).scatter_(1, tokens.gather(1, place), 0.0)


def processors(decoding: Decoding, rows: Sequence[int]) -> LogitsProcessorList:
    """What chooses the tokens of a batch with one number per row; nothing when decoding is greedy."""
    chosen = LogitsProcessorList()
    if decoding.greedy:
        return chosen
    chosen.append(TemperatureLogitsWarper(decoding.temperature))
    if decoding.top_k:
        chosen.append(TopKLogitsWarper(decoding.top_k))
    if decoding.top_p < 1:
        chosen.append(TopPLogitsWarper(decoding.top_p))
    chosen.append(DrawEachRow(decoding.seed, rows))
    return chosen


class StopAtText(StoppingCriteria):
    """Ends a row whose new tokens spell one of the stop texts.

    transformers' own criterion also reads the prompt, so that a prompt's last line break and an answer's first would
    together be "\\n\\n". Only the last tokens are decoded: a token spells at least one byte, so a stop text of n bytes
    that was just completed lies within the last n, and four more keep a cut character away from it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], *, prompt_tokens: int):
        self.tokenizer, self.stop, self.prompt_tokens = tokenizer, tuple(stop), prompt_tokens
        self.tail_tokens = max(len(text.encode()) for text in stop) + 4

    def __call__(self, input_ids: Int[Tensor, "rows tokens"], scores, **kwargs) -> Bool[Tensor, " rows"]:
        start = max(self.prompt_tokens, input_ids.shape[1] - self.tail_tokens)
        texts = self.tokenizer.batch_decode(input_ids[:, start:], skip_special_tokens=True)
        found = [any(stop in text for stop in self.stop) for text in texts]
        return torch.tensor(found, device=input_ids.device)


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before the first of the stop texts, and whether there was one."""
    places = [place for place in (text.find(each) for each in stop) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


class SayWords(TextStreamer):
    """Hands an answer to `say` word by word while it is written, and never a part of a stop text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], say: Callable[[str], None]):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.stop, self.say = tuple(stop), say
        self.held, self.stopped = "", False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if self.stopped:
            return
        ready, self.stopped = cut_at_stop(self.held + text, self.stop)
        held = 0 if stream_end or self.stopped else _begun(ready, self.stop)
        ready, self.held = ready[: len(ready) - held], ready[len(ready) - held :]
        if ready:
            self.say(ready)


def _begun(text: str, stop: Sequence[str]) -> int:
    """Characters at the end of a text with which a stop text may have begun."""
    lengths = (n for each in stop for n in range(min(len(each) - 1, len(text)), 0, -1) if text.endswith(each[:n]))
    return max(lengths, default=0)
