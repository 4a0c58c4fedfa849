"""The LightningDataModule: sources in, packs out, one integer of state."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from functools import partial
from typing import Any, Literal

import lightning as L
import torch
from torch.utils.data import DataLoader

from mindvl.cores import bind_process, cores_of_rank
from mindvl.data.ceiling import check_damaged
from mindvl.data.chat import ChatEncoder
from mindvl.data.consumed import ConsumedData, earlier_plans, left_out
from mindvl.data.dataset import PackDataset, worker_setup
from mindvl.data.indexing import index_shards
from mindvl.data.mixture import Source, WeighBy
from mindvl.data.overview import describe, differences, fingerprint_of, overview
from mindvl.data.pack import PATCH_STEP
from mindvl.data.plan import PackBudget, PackPlan
from mindvl.data.progress import align_batch_progress
from mindvl.data.questions import load_questions
from mindvl.data.sampler import PackSampler
from mindvl.data.storage import find_shards
from mindvl.data.table import SampleTable, TooLong
from mindvl.data.tokenizer import load_tokenizer, tokenizer_fingerprint
from mindvl.data.transport import PackLoader, slot_bytes_of

__all__ = ["PackedShards", "Source"]

log = logging.getLogger(__name__)

QUESTIONS_PER_BATCH = 96

_CLOSED = ("plan", "description", "next_pack", "consumed", "reached", "left_out", "cut")
"""What is kept of the state of a plan that is no longer followed."""


class PackedShards(L.LightningDataModule):
    """Conversations with pictures from WebDataset shards, packed to a sequence length.

    The tokenizer, the pixel budget, the costs and what is supervised belong to the model and the phase; they are taken
    from the LightningModule (attributes `tokenizer_name`, `pixel_budget`, `pack_cost`, `window_tokens`, `supervise`),
    and so is the ceiling of bad samples, which are counted there (`skipped`).

    Args:
        train: sources by name.
        validation: sources by name, for the loss on held-out text.
        test: sources by name whose questions `mindvl test` scores and `mindvl predict` answers.
        weigh_by: what the weights of sources count: passes per epoch, or shares of samples or of tokens.
        max_questions: questions asked per source.
        sequence_length: tokens per pack.
        patch_budget: patches of the vision tower per pack; by default four times the sequence length.
        max_images: pictures and videos per pack.
        too_long: what happens to a conversation larger than a pack: drop it, or cut it after an earlier answer.
        packs_per_step: packs of an optimizer step over all ranks, which the plan keeps alike; by default ranks x
            accumulation, or what the checkpoint was planned for.
        accept_changed_plan: go on from a checkpoint although shards, weights or budgets have changed since; the run
            then begins the next epoch of the new plan.
        index_folder: where the shards' indexes lie, when not beside them.
        seed: order of the samples.
        workers: data worker processes.
        prefetch: packs that each worker keeps ready.
        bind_cores: keep the data workers of each rank of a machine on cores that no other rank's workers use, or the
            whole rank, training included; by default nothing is bound. See `mindvl.cores`.
        fixed_shapes: pad packs to a handful of shapes; pays where kernels are made per shape (AMX in bf16, NPUs).
    """

    def __init__(
        self,
        train: dict[str, Source],
        *,
        validation: dict[str, Source] | None = None,
        test: dict[str, Source] | None = None,
        weigh_by: WeighBy = "epochs",
        max_questions: int = 200,
        sequence_length: int = 4096,
        patch_budget: int | None = None,
        max_images: int = 1_000_000,
        too_long: TooLong = "drop",
        packs_per_step: int | None = None,
        accept_changed_plan: bool = False,
        index_folder: str | None = None,
        seed: int = 0,
        workers: int = 1,
        prefetch: int = 4,
        bind_cores: Literal["workers", "rank"] | None = None,
        fixed_shapes: bool = False,
    ):
        super().__init__()
        self.train, self.validation, self.test = train, validation or {}, test or {}
        self.weigh_by, self.max_questions, self.too_long = weigh_by, max_questions, too_long
        self.budget = PackBudget(sequence_length, patch_budget or 4 * sequence_length, max_images)
        self.packs_per_step, self.accept_changed_plan = packs_per_step, accept_changed_plan
        self.index_folder, self.seed = index_folder, seed
        self.workers, self.prefetch, self.fixed_shapes = workers, prefetch, fixed_shapes
        self.bind_cores = bind_cores
        self._cores: tuple[int, ...] | None = None
        self.plan: PackPlan | None = None
        """Made when training begins."""
        self._resumed: dict[str, Any] | None = None
        self._closed: list[dict[str, Any]] = []
        """Records of plans that an earlier part of the run followed."""
        self._skipped: Counter[int] = Counter()
        """How often rows of the table were skipped under this plan before the last resume."""
        self._first_pack = self._first_step = 0

    # Before training: indexes, one table of samples for each stage.

    def prepare_data(self) -> None:
        """Index shards that have no index yet; on one rank of each node, before the others look."""
        stage = self.trainer.state.fn
        sources = [*(self.train if stage == "fit" else {}).values()]
        sources += [*(self.validation if stage in ("fit", "validate") else {}).values()]
        encoder = ChatEncoder(load_tokenizer(self.trainer.lightning_module.tokenizer_name))
        locations = [
            location for source in sources for location in find_shards(source.shards, index_folder=self.index_folder)
        ]
        index_shards(locations, encoder, folder=self.index_folder)

    def setup(self, stage: str) -> None:
        if self.bind_cores is not None and self._cores is None:
            self._cores = cores_of_rank(self.trainer.local_rank, self.trainer.num_devices)
            if self.bind_cores == "rank":
                bind_process(self._cores)
                torch.set_num_threads(min(torch.get_num_threads(), len(self._cores)))
        tokenizer = load_tokenizer(self.trainer.lightning_module.tokenizer_name)
        self._encoder, self._tokenizer = ChatEncoder(tokenizer), tokenizer_fingerprint(tokenizer)
        if stage == "fit":
            self._train_table = self._table(self.train)
            check_damaged(self._train_table, max_ratio=self.trainer.lightning_module.skipped.max_ratio)
        if stage in ("fit", "validate") and self.validation:
            self._validation_table = self._table(self.validation)

    def _table(self, sources: dict[str, Source]) -> SampleTable:
        phase = self.trainer.lightning_module
        table = SampleTable(
            sources,
            tokenizer=self._tokenizer,
            pixels=phase.pixel_budget,
            budget=self.budget,
            cost=phase.pack_cost,
            supervise=phase.supervise,
            too_long=self.too_long,
            index_folder=self.index_folder,
        )
        for line in (line for name in table.names for line in table.left_out_lines(name)):
            log.warning("%s", line)
        for source, count in table.cut_samples.items():
            log.warning("cut %d samples of %s to %d tokens", count, source, self.budget.tokens)
        return table

    # Training: a plan, and where in it the run stands.

    @property
    def _ranks(self) -> int:
        """Ranks that read different packs."""
        return (self.trainer.distributed_sampler_kwargs or {}).get("num_replicas", 1)

    @property
    def _rank(self) -> int:
        """This rank among them."""
        return (self.trainer.distributed_sampler_kwargs or {}).get("rank", 0)

    @property
    def _step_packs(self) -> int:
        """Packs that an optimizer step really takes."""
        return self._ranks * self.trainer.accumulate_grad_batches

    def train_dataloader(self) -> DataLoader:
        if self.trainer.max_steps < 1:
            raise ValueError(f"trainer.max_steps is {self.trainer.max_steps}; the plan and the schedule need a number")
        plan = self._make_plan()
        steps_left = self.trainer.max_steps - self.trainer.global_step
        sampler = PackSampler(
            plan,
            count=steps_left * self.trainer.accumulate_grad_batches,
            start=self._first_pack,
            done=align_batch_progress(self.trainer),
            rank=self._rank,
            world_size=self._ranks,
        )
        if self.trainer.is_global_zero:
            print(overview(self._train_table, plan), file=sys.stderr, flush=True)
        return self._loader(self._train_table, sampler)

    def _make_plan(self) -> PackPlan:
        """The plan of this run, or of the run that is resumed. Raises ValueError when they are not the same."""
        resumed = self._resumed
        self._closed, self._skipped = list((resumed or {}).get("closed", [])), Counter()
        self.trainer.lightning_module.skipped.forget_rows()
        packs_per_step = self.packs_per_step or (resumed or {}).get("packs_per_step") or self._step_packs
        plan = self._follow(packs_per_step, (resumed or {}).get("first_epoch", 0))
        self._first_step = self.trainer.global_step
        if resumed is None:
            return plan
        self._first_pack = resumed["next_pack"]
        if resumed["plan"] == self.plan_fingerprint:
            self._skipped.update(dict(resumed.get("skipped_rows", [])))
        else:
            changed = differences(resumed["description"], self.description) or ["the order of samples"]
            if not self.accept_changed_plan:
                raise ValueError(
                    f"the checkpoint was trained on plan {resumed['plan']}, the data now gives plan "
                    f"{self.plan_fingerprint}:\n  " + "\n  ".join(changed) + "\n"
                    "undo this, or go on with the new plan by data.accept_changed_plan=true"
                )
            log.warning("going on with another plan: %s", "; ".join(changed))
            self._closed.append({key: resumed[key] for key in _CLOSED if key in resumed})
            packs_per_step = self.packs_per_step or self._step_packs
            plan = self._follow(packs_per_step, resumed["first_epoch"] + resumed["epoch"] + 1)
            self._first_pack = 0
        if self._step_packs != packs_per_step:
            log.warning(
                "a step takes %d packs, the plan is made for %d: the same packs in the same order, but less even",
                self._step_packs, packs_per_step,
            )  # fmt: skip
        return plan

    def _follow(self, packs_per_step: int, first_epoch: int) -> PackPlan:
        table = self._train_table
        plan = table.plan(
            weigh_by=self.weigh_by,
            packs_per_step=packs_per_step,
            seed=self.seed,
            earlier=earlier_plans(self._closed, table.names, first_epoch=first_epoch),
        )
        self.description = describe(
            table,
            plan,
            tokenizer=self._tokenizer,
            supervise=self.trainer.lightning_module.supervise,
            weigh_by=self.weigh_by,
        )
        self.plan, self.plan_fingerprint = plan, fingerprint_of(self.description, plan)
        self._consumed = ConsumedData(table, plan)
        return plan

    @property
    def next_pack(self) -> int:
        """Number of the first pack that the optimizer has not seen."""
        return self._first_pack + (self.trainer.global_step - self._first_step) * self._step_packs

    def state_dict(self) -> dict[str, Any]:
        """The record of the run so far: what was seen of each source under its plan, and under earlier plans.

        A run is resumed from its plan and its next pack; the rest is for people, and for a plan that follows this one.
        Every rank must call it: what each has skipped is added up.
        """
        plan = self.plan
        if plan is None:  # nothing was left to train
            return self._resumed or {}
        skipped = self._skipped + self.trainer.lightning_module.skipped.rows(before_step=self.trainer.global_step)
        epoch = plan.locate(max(0, self.next_pack - 1))[0]
        reached = plan.mixture.drawn_before(plan.first_epoch + epoch + 1)
        return {
            "plan": self.plan_fingerprint,
            "next_pack": self.next_pack,
            "packs_per_step": plan.packs_per_step,
            "first_epoch": plan.first_epoch,
            "epoch": epoch,
            "reached": dict(zip(self._train_table.names, reached.tolist(), strict=True)),
            "description": self.description,
            "consumed": self._consumed.record(self.next_pack, skipped=skipped),
            "skipped_rows": [[row, count] for row, count in sorted(skipped.items())],
            "left_out": left_out(self._train_table),
            "cut": dict(self._train_table.cut_samples),
            "closed": self._closed,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resumed = state_dict or None

    # Validation and questions.

    def val_dataloader(self) -> DataLoader | list:
        if not self.validation:
            return []
        plan = self._validation_table.plan(weigh_by=self.weigh_by, packs_per_step=self._ranks, seed=self.seed)
        count = len(plan.epoch(0)) // self._ranks
        sampler = PackSampler(plan, count=count, rank=self._rank, world_size=self._ranks)
        return self._loader(self._validation_table, sampler)

    def test_dataloader(self) -> DataLoader:
        """Questions with known answers, in batches; each rank asks its share."""
        if not self.test:
            raise ValueError("data.test names no source, there is nothing to ask")
        asked = [
            question
            for name, source in self.test.items()
            for question in load_questions(name, source.shards, limit=self.max_questions)
        ]
        mine = asked[self._rank :: self._ranks]
        return DataLoader(mine, batch_size=QUESTIONS_PER_BATCH, collate_fn=list)

    predict_dataloader = test_dataloader

    def transfer_batch_to_device(self, batch, device, dataloader_idx: int):
        """Questions stay as they are: the answerer moves what it makes of them."""
        return batch if isinstance(batch, list) else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _loader(self, table: SampleTable, sampler: PackSampler) -> DataLoader:
        phase = self.trainer.lightning_module
        patch_bytes = table.pixels.patch_bytes(has_video=bool(table.has_video.any()))
        return PackLoader(
            PackDataset(
                table,
                self._encoder,
                supervise=phase.supervise,
                window_tokens=phase.window_tokens,
                fixed_shapes=self.fixed_shapes,
            ),
            sampler,
            slot_bytes=slot_bytes_of(self.budget.tokens, self.budget.patches + PATCH_STEP, patch_bytes),
            num_workers=self.workers,
            prefetch_factor=self.prefetch if self.workers else None,
            worker_init_fn=partial(worker_setup, cores=self._cores),
            pin_memory=self.trainer.strategy.root_device.type not in ("cpu", "mps"),
        )
