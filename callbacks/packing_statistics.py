"""How well packs are filled, and how evenly their work is shared out over ranks, in any run that trains on packs.

Two documents of 50 and 30 tokens in a pack with room for 100, of which a sample that failed left 8 empty:

    fill          80 / 100                       = 0.80
    waste         8 / 100 failed, the other 12 / 100 unfilled
    attention     (50^2 + 30^2) / (50 + 30)^2    = 0.53 of what one document of 80 tokens would attend to

Two ranks whose packs cost 1 and 3: the slower one takes max / mean = 3 / 2 of the time that an even split would take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import lightning as L
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from .device_clock import elapsed_s, mark
from .ranks import data_place, from_every_rank

UNFILLED = "unfilled"
"""Cause of the waste that no other cause explains."""

_QUOTIENTS = {
    "fill_ratio": ("tokens", "budget_tokens"),
    "documents_per_pack": ("documents", "packs"),
    "images_per_pack": ("images", "packs"),
    "patches_fill_ratio": ("patches", "budget_patches"),
    "attention_area_ratio": ("document_pairs", "pack_pairs"),
    "supervised_ratio": ("supervised_tokens", "labelled_tokens"),
    "predicted_cost_max_over_mean": ("predicted_imbalance", "predicted_micro_batches"),
    "observed_forward_max_over_mean": ("observed_imbalance", "observed_micro_batches"),
}
"""What is logged: quotients of two sums, so that a large pack weighs more than a small one."""


@dataclass(frozen=True)
class PackFacts:
    """What a reader has to know of one pack. Padding is no document.

    Raises ValueError when a count is negative, or when more is in the pack than it has room for.
    """

    doc_lengths: Sequence[int]
    """Tokens of each real document; empty for a pack whose samples all failed."""
    token_budget: int
    """Tokens that the pack has room for."""
    num_images: int = 0
    num_patches: int = 0
    patch_budget: int | None = None
    """Patches that the pack has room for; None where a plan knows no such limit."""
    num_supervised: int | None = None
    """Tokens of the documents that are targets of the loss; None where that is not known."""
    wasted_tokens: Mapping[str, int] = field(default_factory=dict)
    """Empty positions by cause; those up to the budget that have none are counted as "unfilled"."""

    def __post_init__(self) -> None:
        if UNFILLED in self.wasted_tokens:
            raise ValueError(f"wasted_tokens names {UNFILLED!r}, which is what all other causes leave of the budget")
        counts = {"num_images": self.num_images, "num_patches": self.num_patches, **self.wasted_tokens}
        counts |= {f"document {number}": length for number, length in enumerate(self.doc_lengths)}
        for name, count in counts.items():
            if count < 0:
                raise ValueError(f"{name} is {count}, less than 0")
        tokens, wasted = sum(self.doc_lengths), sum(self.wasted_tokens.values())
        if tokens + wasted > self.token_budget:
            raise ValueError(
                f"documents of {tokens} tokens and {wasted} wasted ones are {tokens + wasted}, more than "
                f"token_budget={self.token_budget}"
            )
        if self.patch_budget is not None and self.num_patches > self.patch_budget:
            raise ValueError(f"num_patches={self.num_patches} is more than patch_budget={self.patch_budget}")
        if self.num_supervised is not None and not 0 <= self.num_supervised <= tokens:
            raise ValueError(f"num_supervised={self.num_supervised} of documents of {tokens} tokens")


@dataclass
class _Totals:
    """Sums over packs: all that the quotients are made of, and all that a checkpoint keeps."""

    sums: dict[str, float] = field(default_factory=dict)
    wasted_tokens: dict[str, float] = field(default_factory=dict)
    longest_document_tokens: int = 0

    @staticmethod
    def of(facts: PackFacts) -> _Totals:
        tokens = int(sum(facts.doc_lengths))
        wasted: dict[str, float] = {cause: int(count) for cause, count in facts.wasted_tokens.items()}
        sums: dict[str, float] = {
            "packs": 1,
            "tokens": tokens,
            "budget_tokens": int(facts.token_budget),
            "documents": len(facts.doc_lengths),
            "images": int(facts.num_images),
            "document_pairs": sum(int(length) ** 2 for length in facts.doc_lengths),
            "pack_pairs": tokens**2,
        }
        if facts.patch_budget is not None:
            sums |= {"patches": int(facts.num_patches), "budget_patches": int(facts.patch_budget)}
        if facts.num_supervised is not None:
            sums |= {"supervised_tokens": int(facts.num_supervised), "labelled_tokens": tokens}
        unfilled = int(facts.token_budget) - tokens - sum(wasted.values())
        return _Totals(sums, {UNFILLED: unfilled, **wasted}, int(max(facts.doc_lengths, default=0)))

    def add(self, other: _Totals) -> None:
        for mine, others in ((self.sums, other.sums), (self.wasted_tokens, other.wasted_tokens)):
            for name, value in others.items():
                mine[name] = mine.get(name, 0) + value
        self.longest_document_tokens = max(self.longest_document_tokens, other.longest_document_tokens)

    def quality(self, causes: Sequence[str]) -> dict[str, float]:
        """The logged numbers without their prefix; those whose denominator is zero are left out."""
        quality = {
            name: self.sums[part] / self.sums[of] for name, (part, of) in _QUOTIENTS.items() if self.sums.get(of)
        }
        if budget := self.sums.get("budget_tokens", 0):
            quality |= {f"waste_{cause}_ratio": self.wasted_tokens.get(cause, 0) / budget for cause in causes}
        return {**quality, "longest_document_tokens": float(self.longest_document_tokens)}


class PackingStatistics(L.Callback):
    """Measures what the packs of a run hold, what they waste and how unequal the ranks' shares are.

    The callback never learns what a batch is: `read` states the facts of a batch, which is one pack, and `cost` what
    it should cost. Both are asked once per micro-batch; they should read numbers that are on the host already.

    Logged every `trainer.log_every_n_steps` optimizer steps, over all ranks and all packs since the last time:

    | key | unit | meaning |
    |---|---|---|
    | `packing/fill_ratio` | - | tokens of documents over the token budget |
    | `packing/waste_<cause>_ratio` | - | share of the token budget lost to each cause that `read` names |
    | `packing/waste_unfilled_ratio` | - | share lost to none of them; fill and all waste sum to 1 |
    | `packing/documents_per_pack` | 1/pack | mean number of documents |
    | `packing/images_per_pack` | 1/pack | mean number of images |
    | `packing/patches_fill_ratio` | - | patches over the patch budget; only of packs that have one |
    | `packing/attention_area_ratio` | - | sum of squared document lengths over sum of squared pack lengths |
    | `packing/longest_document_tokens` | tokens | the longest document |
    | `packing/supervised_ratio` | - | targets over tokens of documents; only of packs that say so |
    | `packing/predicted_cost_max_over_mean` | - | `cost` of the dearest rank over the ranks' mean; only with `cost` |
    | `packing/observed_forward_max_over_mean` | - | forward time of the slowest rank over the ranks' mean |

    `attention_area_ratio` is the share of a full attention matrix over a pack's real tokens (its length is their
    number, not the budget) that documents need when each attends to itself alone. Under causal attention both areas
    are halved, up to their diagonals, so the share is the same.

    The two imbalances are taken per micro-batch, over the ranks, and then averaged: 1 is an even split, 1.5 means that
    the slowest rank needs half as much again as the mean. Where ranks meet only once in several accumulated
    micro-batches, imbalances of opposite sign cancel and the wait is smaller than this mean says.

    The observed time runs from the start of a micro-batch to its first backward pass (or to its end, if it has none),
    without the wait for data. Backward is left out since data parallelism reduces gradients inside it: there a fast
    rank waits for a slow one, and all ranks seem equal. What a strategy exchanges in the forward pass still hides a
    part, so that the ratio is then a lower bound: sharded weights are gathered there, and DDP sends buffers from
    rank 0 unless `broadcast_buffers=False`. On accelerators the device's own clock is read, and only when logging.

    `summary()` is about the whole run, and resumed runs go on with the sums of their checkpoint. Ranks exchange their
    sums only when logging and at the end. A checkpoint of several ranks holds those of the last time, so one saved
    between two multiples of `log_every_n_steps` lacks the steps in between; that of a single process lacks nothing.

    Args:
        read: the facts of a batch.
        cost: what a batch should cost, in any unit that is the same on all ranks.

    Example::

        def read(batch):
            lengths = batch["cu_seqlens"].diff().tolist()
            return PackFacts(lengths, 4096, wasted_tokens={"padding": batch["num_padding"]})

        PackingStatistics(read, cost=lambda batch: float(batch["cu_seqlens"].diff().square().sum()))
    """

    def __init__(self, read: Callable[[Any], PackFacts], *, cost: Callable[[Any], float] | None = None):
        self.read, self.cost = read, cost
        self._world_size = 1
        self._totals = _Totals()
        self._clear()

    def _clear(self) -> None:
        """Forget this rank's packs since the ranks last exchanged their sums."""
        self._mine = _Totals()
        self._costs: list[float] = []
        self._times: list[tuple[Any, Any]] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._world_size = trainer.world_size
        if stage == "fit" and trainer.global_step == 0:  # a new run, or one whose checkpoint is loaded after this
            self._totals = _Totals()
            self._clear()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._logged_step = trainer.global_step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._forward_end = None
        self._forward_start = mark(pl_module.device)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        if self._forward_end is None:
            self._forward_end = mark(pl_module.device)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        end = mark(pl_module.device) if self._forward_end is None else self._forward_end
        self._times.append((self._forward_start, end))
        self._mine.add(_Totals.of(self.read(batch)))
        if self.cost is not None:
            self._costs.append(float(self.cost(batch)))
        every = trainer.log_every_n_steps
        if not every or trainer.global_step // every == self._logged_step // every:
            return
        window = self._exchange(trainer.strategy)
        quality = window.quality(list(self._totals.wasted_tokens))  # a cause seen once is logged as 0 from then on
        pl_module.log_dict({f"packing/{name}": value for name, value in quality.items()}, rank_zero_only=True)
        self._logged_step = trainer.global_step

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._exchange(trainer.strategy)

    def _exchange(self, strategy: Strategy) -> _Totals:
        """Sums of all ranks since the last time, which are added to those of the run."""
        times = [elapsed_s(start, end) for start, end in self._times]
        share, _ = data_place(strategy)
        stated = from_every_rank([asdict(self._mine), self._costs, times, share], strategy, self._world_size)
        ranks = list({row[3]: row for row in reversed(stated)}.values())  # one for each share of the data
        window = _Totals()
        for sums, *_ in ranks:
            window.add(_Totals(**sums))
        for kind, rows in (("predicted", [rank[1] for rank in ranks]), ("observed", [rank[2] for rank in ranks])):
            ratios = [_max_over_mean(values) for values in zip(*rows, strict=True)]
            window.sums |= {f"{kind}_imbalance": sum(ratios), f"{kind}_micro_batches": len(ratios)}
        self._totals.add(window)
        self._clear()
        return window

    def summary(self) -> dict[str, float]:
        """The logged numbers, without prefix, over the whole run, and its `packs`, `tokens`, `documents`, `images`."""
        whole = self._whole()
        counts = {name: whole.sums.get(name, 0) for name in ("packs", "tokens", "documents", "images")}
        return {**counts, **whole.quality(list(whole.wasted_tokens))}

    def _whole(self) -> _Totals:
        """Sums of the run so far. Several ranks leave out what is not exchanged: others' packs are not known here."""
        whole = _Totals()
        whole.add(self._totals)
        if self._world_size == 1:
            whole.add(self._mine)
            for kind, count in (("predicted", len(self._costs)), ("observed", len(self._times))):
                whole.add(_Totals({f"{kind}_imbalance": count, f"{kind}_micro_batches": count}))  # its ratios are 1
        return whole

    def state_dict(self) -> dict[str, Any]:
        return asdict(self._whole())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._totals = _Totals()
        self._totals.add(_Totals(**state_dict))
        self._clear()


def _max_over_mean(values: Sequence[float]) -> float:
    total = sum(values)
    return max(values) * len(values) / total if total else 1.0
