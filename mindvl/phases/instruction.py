"""Phase 3: the model learns to answer."""

from __future__ import annotations

from typing import Literal

from mindvl.phases.base import Phase
from mindvl.phases.expert_balance import ExpertBalance
from mindvl.phases.model_spec import ModelSpec
from mindvl.phases.schedule import Rates


class InstructionTuning(Phase):
    """Supervises answers only. Which parts train is not public for MindVL; Qwen2.5-VL froze its tower here.

    Args:
        model: sizes and origin of the model.
        rates: learning rates by part, schedule and clipping.
        trains: parts that learn.
        max_skipped_ratio: the run stops when a larger share of its samples could not be used.
        experts: how the experts of a mixture are kept in use; without it, nothing is done or logged.
    """

    def __init__(
        self,
        model: ModelSpec,
        *,
        rates: Rates | None = None,
        trains: list[Literal["vision", "projector", "language"]] = ["projector", "language"],  # noqa: B006
        max_skipped_ratio: float = 0.05,
        experts: ExpertBalance | None = None,
    ):
        super().__init__(model, rates=rates, supervise="answers", max_skipped_ratio=max_skipped_ratio, experts=experts)
        self.trains = tuple(trains)
