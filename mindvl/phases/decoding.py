"""How an answer is written: greedily or by chance, up to which length, and where it stops.

Everything runs inside transformers' `generate`; what is here are the pieces that are handed to it.

A drawn answer is a function of the prompt and the settings, as a greedy one is. transformers draws a whole batch from
one stream of random numbers, so a prompt's answer would change with its neighbours. Here every row has noise of its
own, a hash of `seed`, of the prompt's tokens and patches, of the step and of the token:

                                      "a"     "b"     "c"
    temperature, top-k, top-p leave   0.5     0.3     0.2
    logarithm                        -0.7    -1.2    -1.6
    Gumbel noise of this step         0.1     1.4     0.3
    sum, the largest is taken        -0.6     0.2    -1.3     ->  "b"

The largest sum is "b" in just 0.3 of all cases (the Gumbel-max trick). Logits of two batches differ by roundings, some
1e-6, and sums by as little; a draw by heights of sorted shares would change by whole tokens where two of them swap
places. So a prompt is answered alike alone, in any batch and in any order, unless two sums lie within a rounding of
each other. Another sample of the same prompt is another `seed`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    """Leaves one token of each row possible, drawn by that row's own noise."""

    def __init__(self, seed: int, rows: Sequence[int]):
        """`rows` holds a number for each row, which is mixed with `seed`."""
        self.seed, self.rows, self.step = seed, tuple(rows), 0

    def __call__(
        self, input_ids: Int[Tensor, "rows tokens"], scores: Float[Tensor, "rows vocabulary"]
    ) -> Float[Tensor, "rows vocabulary"]:
        keys = [_key(self.seed, row, self.step) for row in self.rows]
        self.step += 1
        noise = gumbel_noise(torch.tensor(keys, device=scores.device), scores.shape[-1])
        chosen = (scores.float() + noise).argmax(dim=-1, keepdim=True)
        return torch.full_like(scores, float("-inf")).scatter_(1, chosen, 0.0)


def gumbel_noise(keys: Int[Tensor, " rows"], size: int) -> Float[Tensor, "rows size"]:
    """Noise of the standard Gumbel distribution, the same for a key on every device and beside any others."""
    places = torch.arange(1, size + 1, device=keys.device) * _GOLDEN  # int64 wraps around, as it should
    hashed = keys[:, None] + places
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        hashed = (hashed ^ _shifted(hashed, shift)) * factor
    hashed = _shifted(hashed ^ _shifted(hashed, 31), 33)
    # 31 bits of a share in (0, 1). Small shares, which make large noise, keep all digits of fp32.
    share = ((hashed.float() + 0.5) * 2.0**-31).clamp(max=1 - 2.0**-24)
    return -torch.log(-torch.log1p(-share))


_GOLDEN = -0x61C8864680B583EB
"""Steps of the hash, SplitMix64 (Steele, Lea and Flood 2014); its constants are written as signed numbers here."""


def _shifted(numbers: Int[Tensor, "rows size"], bits: int) -> Int[Tensor, "rows size"]:
    """Shifted to the right with zeros moving in."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)


def _key(*numbers: int) -> int:
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "little", signed=True)


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
    together be "\\n\\n"; nor is a template's own `opening` of an answer read here. Only the last tokens are decoded: a
    token spells at least one byte, so a stop text of n bytes that was just completed lies within the last n, and four
    more keep a cut character away from it.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], *, prompt_tokens: int, opening: str = ""
    ):
        self.tokenizer, self.stop, self.prompt_tokens = tokenizer, tuple(stop), prompt_tokens
        self.opening, self.opening_tokens = opening, len(opening.encode())
        self.tail_tokens = max(len(text.encode()) for text in stop) + 4

    def __call__(self, input_ids: Int[Tensor, "rows tokens"], scores, **kwargs) -> Bool[Tensor, " rows"]:
        new_tokens = input_ids.shape[1] - self.prompt_tokens
        tail = new_tokens if new_tokens <= self.opening_tokens + self.tail_tokens else self.tail_tokens
        texts = self.tokenizer.batch_decode(input_ids[:, input_ids.shape[1] - tail :], skip_special_tokens=True)
        if tail == new_tokens:
            texts = [after_opening(text, self.opening) for text in texts]
        found = [any(stop in text for stop in self.stop) for text in texts]
        return torch.tensor(found, device=input_ids.device)


def after_opening(text: str, opening: str) -> str:
    """An answer without what the chat template puts before one (`ChatEncoder.opening`), also while it is written."""
    return "" if opening.startswith(text) else text.removeprefix(opening)


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before the first of the stop texts, and whether there was one."""
    places = [place for place in (text.find(each) for each in stop) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


class SayWords(TextStreamer):
    """Hands an answer to `say` word by word while it is written, and never a part of a stop text."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], say: Callable[[str], None], opening: str = ""
    ):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.stop, self.say, self.opening, self.opened = tuple(stop), say, opening, ""
        self.held, self.stopped = "", False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if self.stopped:
            return
        if self.opening:
            self.opened += text
            if self.opening.startswith(self.opened) and not stream_end:
                return
            text, self.opening = after_opening(self.opened, self.opening), ""
        ready, self.stopped = cut_at_stop(self.held + text, self.stop)
        held = 0 if stream_end or self.stopped else _begun(ready, self.stop)
        ready, self.held = ready[: len(ready) - held], ready[len(ready) - held :]
        if ready:
            self.say(ready)


def _begun(text: str, stop: Sequence[str]) -> int:
    """Characters at the end of a text with which a stop text may have begun."""
    lengths = (n for each in stop for n in range(min(len(each) - 1, len(text)), 0, -1) if text.endswith(each[:n]))
    return max(lengths, default=0)
