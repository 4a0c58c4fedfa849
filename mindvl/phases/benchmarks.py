"""The benchmarks of `mindvl.eval`, asked in `mindvl validate` and, after every so many validations, in `mindvl fit`.

    trainer:
      callbacks:
        - class_path: mindvl.phases.Benchmarks
          init_args:
            benchmarks:
              docvqa: benchmarks/DocVQA_VAL.tsv
              mme: {path: benchmarks/MME.tsv, limit: 500, max_pixels: 200704}

Questions are dealt to ranks and asked in batches; each answer is a line on disk at once, so that a run that was killed
asks only what is missing, with any number of ranks. Nothing of a score depends on ranks, batches or order.

    benchmarks_run.py         one benchmark over all ranks
    benchmarks_asking.py      who asks what, and the line of an answer
    benchmarks_answers.py     lines on disk, and going on with them
    benchmarks_identity.py    what answers hang on
    benchmarks_summary.py     the score
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from mindvl.eval import benchmarks as known

if TYPE_CHECKING:
    from mindvl.phases.benchmarks_run import Wanted

Compat = Literal["lmms-eval", "vlmevalkit"]

_LABEL = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class BenchmarkFile:
    """A benchmark's file and how it is asked; what is left out is the callback's.

    Args:
        path: a file or folder in one of the layouts that `mindvl.eval.readers` knows.
        benchmark: its name, where the label in the config is another.
        split: of a folder with several; the benchmark's usual one when left out.
        compat: whose prompts and rules.
        limit: so many questions at most, of each category in turn the next; those that belong together (MME's pairs,
            MMBench's rotations) count as one.
        min_pixels: area below which a picture is enlarged.
        max_pixels: area above which a picture is shrunk.
        max_new_tokens: length of an answer; the benchmark's own when left out.
    """

    path: str
    benchmark: str | None = None
    split: str | None = None
    compat: Compat | None = None
    limit: int | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    max_new_tokens: int | None = None


class Benchmarks(L.Callback):
    """Scores benchmarks, logs `eval/<label>` (0 to 100) and `eval/overall`, and leaves a folder that says how.

    `out` holds <label>.jsonl with a line per question, summary.json, and answers/ with what a killed run goes on from.
    During a fit each validation has a folder of its own in it, step-<optimizer step>.

    Args:
        benchmarks: files by label; the label is the benchmark's name or, with `benchmark` in the entry, any other.
        out: folder of the results; by default `benchmarks` in the trainer's default_root_dir.
        every: during a fit, ask after every so many validations.
        compat: whose prompts and rules, unless an entry says otherwise.
        limit: as in `BenchmarkFile`.
        min_pixels: as in `BenchmarkFile`; by default the model's own, as for `max_pixels`.
        max_pixels: as in `BenchmarkFile`.
        decoding: what differs from greedy answers of the benchmark's own length, by the names of
            `mindvl.phases.decoding.Decoding`.
        batch_tokens: tokens of a batch, padding and new tokens included.

    Raises:
        ValueError: for an unknown benchmark or setting, by its place in the config.
    """

    def __init__(
        self,
        benchmarks: dict[str, str | BenchmarkFile],
        *,
        out: str | None = None,
        every: int = 1,
        compat: Compat = "lmms-eval",
        limit: int | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        decoding: dict[str, Any] | None = None,
        batch_tokens: int = 16384,
    ):
        if not benchmarks:
            raise ValueError("benchmarks names no file, there is nothing to ask")
        if every < 1:
            raise ValueError(f"every is {every}; 1 asks after each validation")
        self.out, self.every, self.batch_tokens = out, every, batch_tokens
        self.summaries: dict[str, dict[str, Any]] = {}
        """By label, of the last time: what summary.json holds."""
        self._num_validations = 0
        defaults = {"compat": compat, "limit": limit, "min_pixels": min_pixels, "max_pixels": max_pixels}
        self._wanted = []
        for label, entry in benchmarks.items():
            file = BenchmarkFile(entry) if isinstance(entry, str) else entry
            try:
                self._wanted.append(_wanted(label, file, defaults, decoding or {}))
            except (ValueError, TypeError) as error:
                raise ValueError(f"benchmarks.{label}: {error}") from error

    def folder_in(self, root: Path) -> Path:
        """Where results go in a run whose default_root_dir is `root`."""
        return Path(self.out or root / "benchmarks")

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Before hours of training: are the files there? And is there a validation to come after?"""
        if stage not in ("fit", "validate"):
            return
        for wanted in self._wanted:
            if not wanted.path.exists():
                raise ValueError(f"benchmarks.{wanted.label}: {wanted.path} is not there")
        data = getattr(trainer, "datamodule", None)
        if data is not None:
            # Lightning calls no hook of a validation without batches; an empty one stands for the held-out packs.
            packs = data.val_dataloader
            data.val_dataloader = lambda: packs() or DataLoader([None], batch_size=None)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        folder = self.folder_in(Path(trainer.default_root_dir))
        if trainer.state.fn == TrainerFn.FITTING:
            self._num_validations += 1
            if self._num_validations % self.every:
                return
            folder = folder / f"step-{trainer.global_step:08d}"
        self._ask(trainer, pl_module, folder)

    def _ask(self, trainer: L.Trainer, phase: Any, folder: Path) -> None:
        from mindvl.data.tokenizer import load_tokenizer
        from mindvl.phases.benchmarks_run import BenchmarkRun
        from mindvl.phases.benchmarks_summary import paper_overall, score_table, write_whole

        tokenizer = load_tokenizer(phase.tokenizer_name)
        run = BenchmarkRun(trainer, phase.model, tokenizer, folder, batch_tokens=self.batch_tokens)
        with trainer.precision_plugin.val_step_context():
            self.summaries = {wanted.label: run.ask(wanted) for wanted in self._wanted}
        mean = paper_overall(self.summaries)
        if trainer.is_global_zero:
            record = {"overall": mean, "model": run.identity["model"], "benchmarks": self.summaries}
            write_whole(folder / "summary.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
            print(score_table(self.summaries, mean), flush=True)
        scores = {label: summary["score"] for label, summary in self.summaries.items()} | {"overall": mean}
        logged = {f"eval/{name}": score for name, score in scores.items() if score is not None}
        phase.log_dict(logged, sync_dist=trainer.world_size > 1)  # equal on all ranks, which Lightning cannot know

    def state_dict(self) -> dict[str, Any]:
        return {"num_validations": self._num_validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._num_validations = state_dict["num_validations"]


def _wanted(label: str, file: BenchmarkFile, defaults: dict[str, Any], decoding: dict[str, Any]) -> Wanted:
    """An entry with the callback's settings where it has none of its own."""
    from mindvl.phases.benchmarks_run import Wanted
    from mindvl.phases.decoding import Decoding

    if not _LABEL.fullmatch(label) or label == "overall":
        raise ValueError(
            "a label is made of letters, digits, - and _, since files are named after it, and not `overall`"
        )
    compat, limit, low, high = (
        default if (own := getattr(file, name)) is None else own for name, default in defaults.items()
    )
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}, which leaves no question")
    if low is not None and high is not None and low > high:
        raise ValueError(f"min_pixels is {low}, more than max_pixels, {high}")
    benchmark = known.load(
        file.benchmark or label, compat=compat, **({} if file.split is None else {"split": file.split})
    )
    settings = {"max_new_tokens": benchmark.max_new_tokens, **decoding}
    if file.max_new_tokens is not None:
        settings["max_new_tokens"] = file.max_new_tokens
    settings["stop"] = tuple(settings.get("stop", ()))
    split = file.split or getattr(benchmark, "wanted_split", None)
    return Wanted(label, benchmark, Path(file.path), Decoding(**settings), split, limit, low, high)
