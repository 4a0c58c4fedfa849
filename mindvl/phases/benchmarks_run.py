"""One benchmark from its file to its summary, over all ranks, in a folder that a killed run is gone on from.

Every rank reads what has been answered, asks its share of the rest and writes to a file of its own. Then the first
rank puts the lines of all in order and computes the score.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from transformers import PreTrainedTokenizerBase

from mindvl.data.tokenizer import tokenizer_fingerprint
from mindvl.eval.benchmarks import Benchmark, EvalQuestion
from mindvl.model.mindvl import MindVL
from mindvl.phases.answering import Answerer
from mindvl.phases.benchmarks_answers import AnswerWriter, OtherSettingsError, answer_files, read_answers
from mindvl.phases.benchmarks_asking import Asking, Share, judged_line
from mindvl.phases.benchmarks_identity import config_hash, weights_hash
from mindvl.phases.benchmarks_summary import summarise, write_lines
from mindvl.phases.decoding import Decoding

log = logging.getLogger(__name__)

_SAY_EVERY_S = 15.0


@dataclass(frozen=True)
class Wanted:
    """A benchmark with everything that a config leaves open filled in, but for the model's own pixel budget."""

    label: str
    benchmark: Benchmark
    path: Path
    decoding: Decoding
    split: str | None = None
    limit: int | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None


class BenchmarkRun:
    """Asks benchmarks of a trainer's model; every rank makes one and calls `ask` for the same benchmarks in order.

    Args:
        batch_tokens: tokens of a batch, padding and new tokens included.
    """

    def __init__(
        self, trainer: L.Trainer, model: MindVL, tokenizer: PreTrainedTokenizerBase, folder: Path, *, batch_tokens: int
    ):
        from mindvl import __version__

        self.trainer, self.strategy, self.folder = trainer, trainer.strategy, folder
        self.model, self.tokenizer, self.batch_tokens = model, tokenizer, batch_tokens
        self.share = share_of(trainer)
        self.identity = {
            "model": weights_hash(model),
            "config": config_hash(model.config),
            "tokenizer": tokenizer_fingerprint(tokenizer),
            "precision": str(trainer.precision),
            "mindvl": __version__,
        }

    def ask(self, wanted: Wanted) -> dict[str, Any]:
        """The summary of a benchmark, on every rank.

        Raises:
            ValueError: for a file that is no such benchmark's, missing pairs or rotations, and answers in the folder
                that were given under other settings.
        """
        start = time.perf_counter()
        answerer = Answerer(self.model, self.tokenizer, min_pixels=wanted.min_pixels, max_pixels=wanted.max_pixels)
        settings = {
            "benchmark": wanted.benchmark.name,
            "compat": wanted.benchmark.compat,
            "split": wanted.split,
            "min_pixels": answerer.min_pixels,
            "max_pixels": answerer.max_pixels,
            "decoding": {**asdict(wanted.decoding), "stop": list(wanted.decoding.stop)},
            **self.identity,
        }
        known = self._known(wanted.label, settings)
        self.strategy.barrier(f"{wanted.label} read")  # nobody writes before all have read
        questions = self._ask_missing(wanted, answerer, settings, known)
        self.strategy.barrier(f"{wanted.label} answered")
        summary: dict[str, Any] | ValueError | None = None
        if self.trainer.is_global_zero:
            try:
                lines = self._merge(wanted, questions, settings)
                seconds = time.perf_counter() - start
                asked = sum(question.key not in known for question in questions)
                summary = summarise(wanted.benchmark, lines, settings, seconds=seconds, asked=asked)
                summary["limit"] = wanted.limit
            except ValueError as error:
                summary = error  # which all ranks must hear of: they wait for the summary
        summary = self.strategy.broadcast(summary)
        if isinstance(summary, ValueError):
            raise summary
        return summary

    def _known(self, label: str, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """What a killed run has answered. A fit that comes by a step again with other weights asks anew."""
        try:
            return read_answers(self._answers, label, settings)
        except OtherSettingsError as error:
            if self.trainer.state.fn != TrainerFn.FITTING:
                raise
            log.warning("asked again: %s", error)
        self.strategy.barrier(f"{label} is stale")
        if self.trainer.is_global_zero:
            for file in answer_files(self._answers, label):
                file.unlink()
        return {}

    def _ask_missing(
        self, wanted: Wanted, answerer: Answerer, settings: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]
    ) -> list[EvalQuestion]:
        writer = AnswerWriter(self._answers, wanted.label, self.share.rank, settings) if self.share.writes else None
        progress = _Progress(wanted.label, self.share) if self.trainer.is_global_zero else None

        def keep(line: dict[str, Any]) -> None:
            if writer is not None:
                writer.write(line)
            if progress is not None:
                progress.one_more()

        # Lightning's strategies do nothing of note with no batch; one that watches for ranks that hang hears of life.
        between = lambda: self.strategy.batch_to_device(None)  # noqa: E731
        asking = Asking(wanted.benchmark, answerer, wanted.decoding, self.batch_tokens, between)
        try:
            return asking.ask_missing(questions_of(wanted), known, self.share, keep)
        finally:
            if writer is not None:
                writer.close()

    def _merge(
        self, wanted: Wanted, questions: list[EvalQuestion], settings: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """All lines in the order of the questions, which are then in one file.

        They are judged anew: a killed run may have judged them by references that the file no longer has.
        """
        lines = read_answers(self._answers, wanted.label, settings)
        missing = [question.key for question in questions if question.key not in lines]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(questions)} questions of {wanted.label} have no answer in {self._answers}, "
                f"the first of them {missing[0]}; is this folder on a disk that all ranks share?"
            )
        ordered = [judged_line(wanted.benchmark, question, lines[question.key]) for question in questions]
        write_lines(self.folder / f"{wanted.label}.jsonl", ordered)
        return ordered

    @property
    def _answers(self) -> Path:
        return self.folder / "answers"


def questions_of(wanted: Wanted) -> Iterator[EvalQuestion]:
    """The benchmark's questions; what is wrong with its file is told by its place in the config."""
    try:
        yield from wanted.benchmark.questions(wanted.path, wanted.limit)
    except ValueError as error:
        raise ValueError(f"benchmarks.{wanted.label}: {error}") from error


def share_of(trainer: L.Trainer) -> Share:
    """Ranks that hold parts of one copy of a layer ask the same questions together; the first of them writes."""
    meshes = getattr(trainer.strategy, "meshes", None)
    if meshes is None:
        return Share(trainer.global_rank, trainer.world_size)
    return Share(meshes.data_rank, meshes.sizes.data, meshes.is_reader)


class _Progress:
    """Says now and then on stderr how far it has come."""

    def __init__(self, label: str, share: Share):
        self.label, self.ranks = label, share.ranks
        self.count, self.start = 0, time.perf_counter()
        self.said = self.start

    def one_more(self) -> None:
        self.count += 1
        now = time.perf_counter()
        if now - self.said > _SAY_EVERY_S:
            self.said = now
            others = f" on each of {self.ranks} ranks" if self.ranks > 1 else ""
            print(
                f"{self.label}: {self.count} answers{others} in {now - self.start:.0f} s", file=sys.stderr, flush=True
            )
