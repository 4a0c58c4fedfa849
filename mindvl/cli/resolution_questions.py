"""Questions of shards and of benchmark files, as the samples that a resolution search scores.

    ocr=data/test/ocr-*.tar      shards whose records list `questions`; "ocr" is what the result is called
    data/test/*.tar              the same for all sources of a folder, each called after its shards
    docvqa=DocVQA_VAL.tsv        a file or folder of a known benchmark
    chartqa:val=CHARTQA          a split of it

Questions that are right together or not at all (MME's pairs, MMBench's rotations) are one sample. A picture that
cannot be opened or resized makes its question wrong at every budget; it is listed, never dropped. Questions without a
picture say nothing about resolution and are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from mindvl_callbacks.resolution_samples import Budget, Grid, SearchSample

from mindvl.data.images import image_size, smart_resize
from mindvl.data.questions import Question, load_questions
from mindvl.data.raw import files_of
from mindvl.data.storage import find_shards
from mindvl.eval import benchmarks
from mindvl.eval.scoring import score
from mindvl.phases.answering import Prompt

_NAMED = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+)(?::(?P<split>[A-Za-z0-9_.-]+))?=(?P<path>.+)$")


@dataclass(frozen=True, eq=False)
class Asked:
    """What a sample asks.

    Args:
        prompts: one per question.
        sizes: (height, width) of all pictures; none when `failure` says why one cannot be shown.
        judge: the sample's score, 0 to 1, from one answer per prompt; None is an answer that failed.
        max_new_tokens: length of an answer.
    """

    prompts: tuple[Prompt, ...]
    sizes: tuple[tuple[int, int], ...]
    judge: Callable[[Sequence[str | None]], float]
    max_new_tokens: int
    failure: str = ""


def grid_rule(factor: int) -> Callable[[SearchSample, Budget], Grid]:
    """What a budget makes of a sample for models whose visual token is `factor` pixels wide and high."""

    def grid_of(sample: SearchSample, budget: Budget) -> Grid:
        low, high = budget
        resized = (smart_resize(*size, factor=factor, min_pixels=low, max_pixels=high) for size in sample.content.sizes)
        return tuple((height // factor, width // factor) for height, width in resized)

    return grid_of


def load_samples(
    source: str, *, limit: int | None = None, compat: str | None = None, max_new_tokens: int | None = None
) -> list[SearchSample]:
    """Samples of a source as it stands on the command line, at most `limit` of each benchmark.

    Raises ValueError, naming the source, for a name that is no benchmark where the path is no shard, for a split of
    shards, and for a benchmark whose answers are not public.
    """
    named = _NAMED.match(source)
    name, split, path = named.group("name", "split", "path") if named else (None, None, source)
    location = Path(path)
    is_benchmark = name in benchmarks.names() and location.suffix != ".tar"
    if is_benchmark and name is not None:
        settings = {key: value for key, value in (("compat", compat), ("split", split)) if value is not None}
        return list(_of_benchmark(benchmarks.load(name, **settings), location, limit, max_new_tokens))
    if split is not None:
        raise ValueError(f"{source}: shards have no split {split!r}; name other files")
    if name is not None and location.suffix != ".tar" and not location.is_dir():
        raise ValueError(f"{source}: {path} is no shard, and {name} no benchmark ({', '.join(benchmarks.names())})")
    wanted = {name: [path]} if name else _by_source(find_shards(path))
    return [
        sample
        for benchmark, shards in wanted.items()
        for sample in _of_shards(benchmark, shards, limit, max_new_tokens or 64)
    ]


def _by_source(shards: Sequence[str]) -> dict[str, list[str]]:
    """Shards by their name without its number: "ocr" of ocr-00003.tar."""
    sources: dict[str, list[str]] = {}
    for shard in shards:
        sources.setdefault(Path(shard).stem.rpartition("-")[0] or Path(shard).stem, []).append(shard)
    return sources


def _of_shards(name: str, shards: Sequence[str], limit: int | None, max_new_tokens: int) -> Iterator[SearchSample]:
    questions = [question for shard in shards for question in load_questions(name, shard)]
    for question in [question for question in questions if question.images][:limit]:
        yield question_sample(question, benchmark=name, max_new_tokens=max_new_tokens)


def question_sample(question: Question, *, benchmark: str, max_new_tokens: int, stratum: str = "") -> SearchSample:
    """A question of a shard as a sample."""
    prompt = Prompt(question.messages, question.images)

    def judge(answers: Sequence[str | None]) -> float:
        (answer,) = answers
        return 0.0 if answer is None else score(question.metric, answer, question.answer)

    key = f"{question.key} {_digest([prompt])}"
    return SearchSample(key, benchmark, _asked([prompt], judge, max_new_tokens), stratum)


def _of_benchmark(
    benchmark: benchmarks.Benchmark, path: Path, limit: int | None, max_new_tokens: int | None
) -> Iterator[SearchSample]:
    groups: dict[str, list[benchmarks.EvalQuestion]] = {}
    for question in benchmark.questions(path, limit):
        groups.setdefault(question.group or question.key, []).append(question)
    for key, questions in groups.items():
        if not any(question.images for question in questions):
            continue
        if not all(question.references for question in questions):
            raise ValueError(f"{path}: the answer to {benchmark.name} {questions[0].key} is not in the file")
        prompts = [Prompt(question.messages, question.images) for question in questions]
        # Only MME's score is a mean of its categories' means.
        stratum = questions[0].category if benchmark.name == "mme" else ""
        content = _asked(prompts, _judge_of(benchmark, questions), max_new_tokens or benchmark.max_new_tokens)
        yield SearchSample(f"{key} {_digest(prompts)}", benchmark.name, content, stratum)


def _judge_of(
    benchmark: benchmarks.Benchmark, questions: Sequence[benchmarks.EvalQuestion]
) -> Callable[[Sequence[str | None]], float]:
    def judge(answers: Sequence[str | None]) -> float:
        judged = [benchmark.judge(question, answer) for question, answer in zip(questions, answers, strict=True)]
        if len(judged) == 1 and not questions[0].group:
            return judged[0].score or 0.0
        return (benchmark.summarise(judged).score or 0.0) / 100  # of this group alone

    return judge


def _asked(prompts: Sequence[Prompt], judge: Callable[[Sequence[str | None]], float], max_new_tokens: int) -> Asked:
    sizes, failure = [], ""
    try:
        for prompt in prompts:
            for picture in prompt.images:
                if not isinstance(picture, bytes):
                    raise ValueError("a video is asked about, whose frames have bounds of their own")
                sizes.append(image_size(picture))
                smart_resize(*sizes[-1])
    except (ValueError, ZeroDivisionError) as error:
        sizes, failure = [], str(error)
    return Asked(tuple(prompts), tuple(sizes), judge, max_new_tokens, failure)


def _digest(prompts: Sequence[Prompt]) -> str:
    """Of what is asked: a question that was changed has another key, and equal numbers of two files are two keys."""
    digest = xxhash.xxh3_64()
    for prompt in prompts:
        digest.update(repr(prompt.messages).encode())
        for picture in files_of(prompt.images):
            digest.update(picture)
    return digest.hexdigest()


def picture_digests(sample: SearchSample) -> list[int]:
    """Hashes of the sample's pictures, spread evenly over 0 to 2^64."""
    content: Any = sample.content
    return [xxhash.xxh3_64_intdigest(file) for prompt in content.prompts for file in files_of(prompt.images)]


def divided(samples: Sequence[SearchSample], select_ratio: float) -> tuple[list[SearchSample], list[SearchSample]]:
    """About `select_ratio` of the samples to select on and the others to report, by their first picture.

    All questions about a picture stay on one side, however often and in whatever order files are read.
    """
    bound = int(select_ratio * 2**64)
    sides: tuple[list[SearchSample], list[SearchSample]] = ([], [])
    for sample in samples:
        sides[0 if picture_digests(sample)[0] < bound else 1].append(sample)
    return sides
