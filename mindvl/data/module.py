"""The LightningDataModule: sources in, packs out, one integer of state."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import lightning as L
from torch.utils.data import DataLoader

from mindvl.data.chat import ChatEncoder, Supervision
from mindvl.data.dataset import PackDataset, PackSampler, ShardSamples, worker_setup
from mindvl.data.plan import PackBudget
from mindvl.data.questions import load_questions
from mindvl.data.sample import PixelBudget
from mindvl.data.tokenizer import load_tokenizer, tokenizer_fingerprint

log = logging.getLogger(__name__)

QUESTIONS_PER_BATCH = 96


@dataclass
class Source:
    """Shards of one kind of data.

    Args:
        shards: folder, file or glob of WebDataset tars.
        weight: passes over the source per round of the plan; 0.5 shows every second sample.
    """

    shards: str
    weight: float = 1.0


class PackedShards(L.LightningDataModule):
    """Conversations with pictures from WebDataset shards, packed to a sequence length.

    The tokenizer, the pixel budget and what is supervised belong to the model and the phase; they are taken from the
    LightningModule in training (attributes `tokenizer_name`, `pixel_budget`, `window_tokens`, `supervise`).

    Args:
        train: sources by name.
        validation: sources by name, for the loss on held-out text.
        test: sources by name whose questions `mindvl test` scores and `mindvl predict` answers.
        max_questions: questions asked per source.
        sequence_length: tokens per pack.
        patch_budget: patches of the vision tower per pack; by default four times the sequence length.
        max_images: pictures per pack.
        seed: order of the samples.
        workers: data worker processes.
        prefetch: packs that each worker keeps ready.
        fixed_shapes: pad packs to a handful of shapes; pays where kernels are made per shape (AMX in bf16, NPUs).
    """

    def __init__(
        self,
        train: dict[str, Source],
        *,
        validation: dict[str, Source] | None = None,
        test: dict[str, Source] | None = None,
        max_questions: int = 200,
        sequence_length: int = 4096,
        patch_budget: int | None = None,
        max_images: int = 1_000_000,
        seed: int = 0,
        workers: int = 1,
        prefetch: int = 4,
        fixed_shapes: bool = False,
    ):
        super().__init__()
        self.train, self.validation, self.test = train, validation or {}, test or {}
        self.max_questions = max_questions
        self.budget = PackBudget(sequence_length, patch_budget or 4 * sequence_length, max_images)
        self.seed, self.workers, self.prefetch, self.fixed_shapes = seed, workers, prefetch, fixed_shapes
        self._next_pack = 0
        self._expected_fingerprint: str | None = None

    def setup(self, stage: str) -> None:
        phase = self.trainer.lightning_module
        tokenizer = load_tokenizer(phase.tokenizer_name)
        self._encoder = ChatEncoder(tokenizer)
        self._tokenizer_fingerprint = tokenizer_fingerprint(tokenizer)
        if stage == "fit":
            self._train_samples = self._samples(self.train, phase.pixel_budget)
            self.plan = self._train_samples.plan(_weights(self.train), seed=self.seed)
        if stage in ("fit", "validate") and self.validation:
            self._validation_samples = self._samples(self.validation, phase.pixel_budget)

    def _samples(self, sources: dict[str, Source], pixels: PixelBudget) -> ShardSamples:
        samples = ShardSamples(
            {name: source.shards for name, source in sources.items()}, self._encoder, pixels, self.budget
        )
        for reason, count in sorted(samples.skipped.items()):
            log.warning("left out %d samples of %s", count, reason)
        return samples

    @property
    def plan_fingerprint(self) -> str:
        """Identifies the list of packs; a resumed run must have the same."""
        return f"{self.plan.fingerprint}-{self._tokenizer_fingerprint}"

    def train_dataloader(self) -> DataLoader:
        if self._expected_fingerprint not in (None, self.plan_fingerprint):
            raise ValueError(
                f"the checkpoint was trained on plan {self._expected_fingerprint}, the data now gives plan "
                f"{self.plan_fingerprint}: shards, weights, budgets, tokenizer or seed have changed"
            )
        if self.trainer.max_steps < 1:
            raise ValueError(f"trainer.max_steps is {self.trainer.max_steps}; the plan and the schedule need a number")
        packs_per_step = self.trainer.world_size * self.trainer.accumulate_grad_batches
        if self._next_pack % packs_per_step:
            raise ValueError(
                f"the checkpoint stopped after {self._next_pack} packs, which is no whole number of steps of "
                f"{packs_per_step} packs: keep ranks x accumulation a divisor of it"
            )
        start = self._next_pack // self.trainer.world_size
        steps_left = self.trainer.max_steps - self.trainer.global_step
        sampler = PackSampler(
            self.plan,
            count=start + steps_left * self.trainer.accumulate_grad_batches,
            start=start,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return self._loader(self._train_samples, sampler)

    def val_dataloader(self) -> DataLoader | list:
        if not self.validation:
            return []
        plan = self._validation_samples.plan(_weights(self.validation), seed=self.seed)
        world_size = self.trainer.world_size
        count = -(-len(plan.round(0)) // world_size)
        return self._loader(
            self._validation_samples,
            PackSampler(plan, count=count, rank=self.trainer.global_rank, world_size=world_size),
        )

    def test_dataloader(self) -> DataLoader:
        """Questions with known answers, in batches; each rank asks its share."""
        if not self.test:
            raise ValueError("data.test names no source, there is nothing to ask")
        asked = [
            question
            for name, source in self.test.items()
            for question in load_questions(name, source.shards, limit=self.max_questions)
        ]
        mine = asked[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader(mine, batch_size=QUESTIONS_PER_BATCH, collate_fn=list)

    predict_dataloader = test_dataloader

    def transfer_batch_to_device(self, batch, device, dataloader_idx: int):
        """Questions stay as they are: the answerer moves what it makes of them."""
        return batch if isinstance(batch, list) else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _loader(self, samples: ShardSamples, sampler: PackSampler) -> DataLoader:
        phase = self.trainer.lightning_module
        supervise: Supervision = phase.supervise
        return DataLoader(
            PackDataset(
                samples, supervise=supervise, window_tokens=phase.window_tokens, fixed_shapes=self.fixed_shapes
            ),
            batch_size=None,
            sampler=sampler,
            num_workers=self.workers,
            prefetch_factor=self.prefetch if self.workers else None,
            worker_init_fn=worker_setup,
            pin_memory=self.trainer.strategy.root_device.type not in ("cpu", "mps"),
        )

    def state_dict(self) -> dict:
        packs_per_step = self.trainer.world_size * self.trainer.accumulate_grad_batches
        return {"plan": self.plan_fingerprint, "next_pack": self.trainer.global_step * packs_per_step}

    def load_state_dict(self, state_dict: dict) -> None:
        self._expected_fingerprint, self._next_pack = state_dict["plan"], state_dict["next_pack"]


def _weights(sources: dict[str, Source]) -> dict[str, float]:
    return {name: source.weight for name, source in sources.items()}
