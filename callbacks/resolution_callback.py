"""A resolution search at the end of a Lightning run, on any module that can score samples at a pixel budget."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger

from .ranks import from_every_rank
from .resolution_cache import ScoreCache, module_fingerprint
from .resolution_curve import draw_resolution_curve, pixels_of
from .resolution_samples import Budget, GridOf, SearchSample, checked_budgets
from .resolution_scores import Ranks
from .resolution_search import Method, ResolutionResult, search_resolution

_ENDS = ("validate", "test", "fit")


class ResolutionSearch(L.Callback):
    """Picks a pixel budget for each benchmark with the model of the run, and logs what it gains.

    Logged to all loggers, once for each search:

    | key | unit | meaning |
    |---|---|---|
    | `resolution/<benchmark>/score` | of the scorer | the pick on the report split |
    | `resolution/<benchmark>/score_default` | of the scorer | the default on the report split |
    | `resolution/<benchmark>/difference` | of the scorer | pick minus default, on the same samples |
    | `resolution/<benchmark>/difference_low` | of the scorer | lower end of its interval |
    | `resolution/<benchmark>/difference_high` | of the scorer | upper end |
    | `resolution/<benchmark>/selection_score` | of the scorer | the pick on the selection split |
    | `resolution/<benchmark>/min_pixels` | pixels | the picked budget |
    | `resolution/<benchmark>/max_pixels` | pixels | the picked budget |
    | `resolution/<benchmark>/visual_tokens` | tokens | mean of a reported sample under the pick |
    | `resolution/<benchmark>/visual_tokens_default` | tokens | the same under the default |
    | `resolution/<benchmark>/scored_ratio` | - | scores asked over scores of a run for each budget |

    The curve of score against visual tokens goes to loggers that take images (W&B's `log_image`, TensorBoard's
    `add_image`) as `resolution/curve`. `results` keeps what the last search found, by benchmark.

    Every rank is given all samples and scores its share of them; the shares are disjoint, and all ranks end with the
    same results. Ranks ask for different numbers of batches, so the scorer must not wait for other ranks: replicated
    models (DDP) can be scored, parameters that are gathered in the forward pass (FSDP) cannot.

    The scorer runs without gradients, in evaluation mode and at the trainer's precision; afterwards every submodule is
    in the mode that it was in.

    Args:
        score: scores of samples whose pictures are resized within the budget, one finite number each.
        grid_of: what a budget makes of a sample's pictures.
        samples: (selection, report), asked for when the search starts.
        budgets: (min_pixels, max_pixels); the first is the default.
        at: ends of runs that are searched at: "validate", "test", "fit".
        every_n_validations: search also within a fit, after every n-th validation.
        method: "grid" or "halving".
        eta: of halving: one in eta budgets goes on.
        batch_size: samples in a batch, at most.
        seed: of the intervals, and of halving's samples.
        cache_folder: where scores are kept, by the weights that made them. An interrupted search goes on.
        scorer_name: stands for all else that decides a score; change it when a prompt or a metric changes.

    Example::

        def score(module, samples, budget):
            answers = module.answer([sample.content.question for sample in samples], *budget)
            return [answer == sample.content.answer for answer, sample in zip(answers, samples)]

        def grid_of(sample, budget):
            return tuple(resized(picture, *budget) for picture in sample.content.pictures)

        ResolutionSearch(score, grid_of=grid_of, samples=lambda trainer: trainer.datamodule.splits(),
                         budgets=[(3136, 1003520), (200704, 1003520)])
    """

    def __init__(
        self,
        score: Callable[[L.LightningModule, Sequence[SearchSample], Budget], Sequence[float]],
        *,
        grid_of: GridOf,
        samples: Callable[[L.Trainer], tuple[Sequence[SearchSample], Sequence[SearchSample]]],
        budgets: Sequence[Budget],
        at: Sequence[str] = ("validate", "test"),
        every_n_validations: int | None = None,
        method: Method = "grid",
        eta: int = 2,
        batch_size: int = 64,
        seed: int = 0,
        cache_folder: str | Path | None = None,
        scorer_name: str = "scores",
    ):
        unknown = [end for end in at if end not in _ENDS]
        if unknown:
            raise ValueError(f"at names {', '.join(unknown)}; known are {', '.join(_ENDS)}")
        if every_n_validations is not None and every_n_validations < 1:
            raise ValueError(f"every_n_validations is {every_n_validations}, less than 1")
        self.score, self.grid_of, self.samples, self.budgets = score, grid_of, samples, checked_budgets(budgets)
        self.at, self.every_n_validations = tuple(at), every_n_validations
        self.settings: dict[str, Any] = {"method": method, "eta": eta, "batch_size": batch_size, "seed": seed}
        self.cache_folder, self.scorer_name = cache_folder, scorer_name
        self.results: dict[str, ResolutionResult] = {}
        self._validations = 0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if trainer.state.fn == "fit":
            self._validations += 1
            due = self.every_n_validations is not None and self._validations % self.every_n_validations == 0
        else:
            due = "validate" in self.at
        if due:
            self._search(trainer, pl_module)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if "test" in self.at:
            self._search(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if "fit" in self.at:
            self._search(trainer, pl_module)

    def _search(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        selection, report = self.samples(trainer)

        def gather(mine: list) -> list[list]:
            return from_every_rank(mine, trainer.strategy, trainer.world_size)

        with _evaluating(module), torch.no_grad(), trainer.precision_plugin.forward_context():
            self.results = search_resolution(
                selection,
                report,
                budgets=self.budgets,
                score=lambda samples, budget: self.score(module, samples, budget),
                grid_of=self.grid_of,
                cache=self._cache(trainer, module, gather),
                ranks=Ranks(trainer.global_rank, trainer.world_size, gather),
                **self.settings,
            )
        if trainer.is_global_zero:
            log_resolution(trainer.loggers, self.results, step=trainer.global_step)

    def _cache(
        self, trainer: L.Trainer, module: L.LightningModule, gather: Callable[[list], list[list]]
    ) -> ScoreCache | None:
        if self.cache_folder is None:
            return None
        parts = sorted({part for (part,) in gather([module_fingerprint(module)])})
        fingerprint = f"{self.scorer_name}-{'-'.join(parts)}"
        return ScoreCache(self.cache_folder, fingerprint, rank=trainer.global_rank, world_size=trainer.world_size)

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validations = state_dict["validations"]


def resolution_metrics(result: ResolutionResult) -> dict[str, float]:
    """The logged numbers of one benchmark; `ResolutionSearch` says what they mean."""
    pick, default, gain = result.chosen, result.default, result.difference
    if pick.report is None or default.report is None:
        raise ValueError(f"{result.benchmark}: the pick or the default has no score on the report split")
    values = {
        "score": pick.report.score,
        "score_default": default.report.score,
        "difference": gain.score,
        "difference_low": gain.low,
        "difference_high": gain.high,
        "selection_score": pick.selection.score,
        "min_pixels": pick.min_pixels,
        "max_pixels": pick.max_pixels,
        "visual_tokens": pick.report_visual_tokens,
        "visual_tokens_default": default.report_visual_tokens,
        "scored_ratio": result.cost.scored_ratio,
    }
    return {f"resolution/{result.benchmark}/{name}": float(value or 0) for name, value in values.items()}


def log_resolution(loggers: Iterable[Logger], results: Mapping[str, ResolutionResult], *, step: int) -> None:
    """Hand the numbers to all loggers, and the curve to those that take images; without matplotlib, only numbers."""
    metrics = {name: value for result in results.values() for name, value in resolution_metrics(result).items()}
    takers = []
    for logger in loggers:
        logger.log_metrics(metrics, step=step)
        log_image = getattr(logger, "log_image", None)
        add_image = getattr(getattr(logger, "experiment", None), "add_image", None)
        if callable(log_image):
            takers.append(lambda pixels, log=log_image: log("resolution/curve", [pixels.numpy()], step=step))
        elif callable(add_image):
            takers.append(lambda pixels, add=add_image: add("resolution/curve", pixels, step, dataformats="HWC"))
    if not takers:
        return
    try:
        pixels = pixels_of(draw_resolution_curve(results))
    except ModuleNotFoundError as error:
        warnings.warn(str(error), stacklevel=2)
        return
    for take in takers:
        take(pixels)


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
