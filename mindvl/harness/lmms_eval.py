"""A saved MindVL as a model of lmms-eval, which finds it by the entry point `lmms_eval.models`.

    lmms-eval --model mindvl --model_args pretrained=runs/sft/model,max_pixels=1003520 --batch_size auto --tasks ...

Tasks come as messages. Answers are `mindvl.phases.answering`'s: the same in any batch and in any order. A request that
cannot be asked, of a broken picture say, is answered by "" and named on stderr.

Tasks that rank options by likelihood cannot be run by lmms-eval 0.7.3 with any model: it refuses them as messages,
makes texts of the pairs that `loglikelihood` is to return, and takes the smallest number for the likeliest.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from tqdm import tqdm

from mindvl.data.importing.videos import FrameSampling
from mindvl.data.records import IMAGE_EXTENSIONS
from mindvl.device import device_of
from mindvl.harness.requests import decoding_of, prompt_of
from mindvl.phases.answering import Prompt, load_answerer
from mindvl.phases.decoding import Decoding
from mindvl.phases.likelihood import likelihoods

_WINDOW = 256
"""Requests whose pictures are held at once; batches are made of like lengths within."""

_log = logging.getLogger(__name__)


class MindVLChat(lmms):
    """Answers requests that are messages; the arguments are lmms-eval's `--model_args`.

    Args:
        pretrained: folder of a saved model.
        min_pixels: area below which a picture is enlarged; the model's own by default.
        max_pixels: area above which a picture is shrunk; the model's own by default.
        batch_size: at most so many prompts in a batch; "auto" fills `batch_tokens`.
        max_batch_size: the same bound, for "auto".
        batch_tokens: tokens of a batch, padding and the answers' longest length included.
        device: the accelerator that is there by default, one for each process.
        max_new_tokens: counts before the task's own, as do `temperature`, `top_p` and `top_k`.
        seed: of what is drawn.
        video_fps: frames that are taken of a second of a video.
        max_frames: of a video.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        *,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        batch_tokens: int = 16384,
        device: str | None = None,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        seed: int = 0,
        video_fps: float = 2.0,
        max_frames: int = 768,
    ):
        super().__init__()
        self.answerer = load_answerer(Path(pretrained), min_pixels=min_pixels, max_pixels=max_pixels)
        self.answerer.model.to(device or _device_of_process())
        given = "auto" if batch_size is None else str(batch_size)
        self.batch_size = max_batch_size if given.startswith("auto") else int(given)
        self.batch_tokens = batch_tokens
        self.chosen = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k}
        self.seed, self.sampling = seed, FrameSampling(fps=video_fps, max_frames=max_frames)
        decoding_of({}, self.chosen)  # wrong settings are refused before anything is asked

    @property
    def device(self) -> Any:
        """Where lmms-eval puts the numbers that its processes exchange."""
        return self.answerer.model.device

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """An answer to each request, in their order; what comes twice and is drawn is drawn anew."""
        results: list[Any] = []
        asked: Counter[int] = Counter()
        with tqdm(total=len(requests), desc="MindVL", disable=self.rank != 0) as progress:
            for start in range(0, len(requests), _WINDOW):
                window = requests[start : start + _WINDOW]
                results += self._answer(window, asked)
                progress.update(len(window))
        return results

    def _answer(self, requests: Sequence[Any], asked: Counter[int]) -> list[Any]:
        results = [GenerationResult("", TokenCounts(output_tokens=0))] * len(requests)
        groups: defaultdict[Decoding, dict[int, Prompt]] = defaultdict(dict)
        for number, request in enumerate(requests):
            _, doc_to_messages, settings, doc_id, task, split = request.args
            decoding = decoding_of(settings, {**self.chosen, "seed": self.seed + asked[id(request)]})
            asked[id(request)] += 1
            if decoding.greedy:
                decoding = replace(decoding, seed=0)  # plays no part: repeats share a batch
            try:
                groups[decoding][number] = prompt_of(
                    doc_to_messages(self.task_dict[task][split][doc_id]), self.sampling
                )
            except ValueError as error:
                _name_failure(request, error)
        for decoding, prompts in groups.items():
            answers = self.answerer.answer(
                list(prompts.values()),
                decoding,
                batch_tokens=self.batch_tokens,
                batch_size=self.batch_size,
                keep_going=True,
            )
            for number, answer in zip(prompts, answers, strict=True):
                if answer.error is not None:
                    _name_failure(requests[number], answer.error)
                results[number] = GenerationResult(answer.text, TokenCounts(output_tokens=answer.new_tokens))
        return results

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """The log-probability of each request's continuation, and whether the model would write it itself.

        A continuation begins where the assistant does: the space that stands before it in running text is left out.
        ValueError for a request that cannot be asked, since no number would be honest.
        """
        prompts, continuations = [], []
        for request in requests:
            context, continuation, *place = request.args
            visuals: list[Any] = []
            if place:  # absent where an option is ranked without its question
                doc_to_visual, doc_id, task, split = place
                doc = self.task_dict[task][split][doc_id]
                visuals = doc_to_visual(doc) or []
                continuation = continuation(doc) if callable(continuation) else continuation
            try:
                prompts.append(prompt_of(_user_turn(visuals, context), self.sampling))
            except ValueError as error:
                raise ValueError(f"{_name(request)} cannot be asked: {error}") from error
            continuations.append(str(continuation).removeprefix(" "))
        found = likelihoods(self.answerer, prompts, continuations, batch_tokens=self.batch_tokens)
        return [(each.log_prob, each.greedy) for each in found]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[Any]:
        raise NotImplementedError("MindVL answers one round; tasks of several rounds are not run")


def _user_turn(visuals: Sequence[Any], text: str) -> list[dict[str, Any]]:
    """Pictures first; a list of frames is a video, and so is a path that does not end like a picture's."""
    content = [{"type": "video" if _is_video(visual) else "image", "url": visual} for visual in visuals]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def _is_video(visual: Any) -> bool:
    if isinstance(visual, str):
        return Path(visual).suffix.lower().removeprefix(".") not in IMAGE_EXTENSIONS
    return isinstance(visual, list)


def _device_of_process() -> str:
    device = device_of("auto")
    local_rank = os.environ.get("LOCAL_RANK")
    return device if device == "cpu" or local_rank is None else f"{device}:{local_rank}"


def _name(request: Any) -> str:
    return f"{request.task_name}, document {request.doc_id}"


def _name_failure(request: Any, error: ValueError | str) -> None:
    _log.warning("%s is answered by an empty text: %s", _name(request), error)
