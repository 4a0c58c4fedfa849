"""What MindVL's phases share: a step, one loss, rates by part, and what is logged.

The method in short (arXiv 2509.11662). The same model, a trained vision tower and a language model joined by a
projector that knows nothing yet, is trained three times on packs of conversations whose pictures keep their resolution:

    warm-up             the projector alone learns to speak to a frozen language model, from captions, boxes and OCR;
    multitask           everything learns, from captions, text, tables, charts, boxes and sums: each word counts;
    instruction tuning  projector and language model learn from questions, half without a picture: answers count.

Multitask training runs at several sequence lengths from one warm-up, and the checkpoints are averaged weight by weight
(`mindvl average`); then, without training, each benchmark is given the pixel budget that serves it best (`mindvl
resolution`). Both help, and together more: that is the paper's claim, which `configs/study` tests in small. Rates,
batch sizes, tokens per phase and what instruction tuning freezes are not public; defaults here follow Qwen2.5-VL
(arXiv 2502.13923) where it says, and are arguments in any case.

A phase says which parts train (`trains`) and what is supervised; everything else is here.

The loss of an optimizer step is the cross-entropy summed over its supervised tokens, divided once by their number,
over all ranks and accumulated packs. Packs carry unequal numbers of supervised tokens, so a mean of per-pack means
would weigh tokens by their neighbours. Each pack backpropagates its plain sum; before the optimizer steps, gradients
are multiplied by ranks x accumulation / supervised tokens, which undoes the averaging that data parallelism and
Lightning's accumulation have done (`MindVLStrategy` adds up, so there the factor has no ranks). Any split of the same
samples into packs, accumulation and ranks gives the same gradient.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import lightning as L
import torch
from torch import Tensor

from mindvl.batch import PackedBatch
from mindvl.device import widest_float
from mindvl.model.lora import check_same
from mindvl.ops.table import force
from mindvl.parallel.gradients import clip_, gradient_norm, local_slices
from mindvl.parallel.ranks import ranks_of
from mindvl.phases.expert_balance import ExpertBalance, ExpertBalancer
from mindvl.phases.model_spec import ModelSpec, build_model, config_of
from mindvl.phases.schedule import Rates, parameter_groups, warmup_cosine
from mindvl.phases.skipped import SkippedSamples
from mindvl.phases.validation import SourceLoss

if TYPE_CHECKING:
    from mindvl.model.mindvl import MindVL
    from mindvl.model.parts import Part

log = logging.getLogger(__name__)


class Phase(L.LightningModule):
    """One phase of training; see `WarmUp`, `Multitask`, `InstructionTuning`.

    Logged per optimizer step: `train/loss` (nats per supervised token), `train/grad_norm`, `train/supervised_tokens`,
    `train/tokens`, `train/images`, `train/pack_fill_ratio`, `train/skipped_samples` (running total),
    `lr/<part>`. Per validation, overall and for each source of `data.validation`: `validation/loss[/<source>]` (nats
    per supervised token) and `validation/perplexity[/<source>]`.

    With `experts`, every `log_every_n_steps` and over all tokens of all ranks since then, for each layer of experts:
    `experts/layer_03/load_max_over_mean`, `load_cv`, `dead_ratio`, `entropy_ratio` (`mindvl.ops.routing_losses`), and
    `bias_range` (largest less smallest selection bias); the first four also of text and of picture tokens alone
    (`experts/layer_03/picture/load_cv`) and as means over layers (`experts/load_cv`, `experts/picture/load_cv`), with
    `experts/worst_layer/load_max_over_mean`. Auxiliary losses that are on, unweighted, as means over supervised tokens
    and layers: `experts/sequence_loss`, `experts/global_loss`, `experts/z_loss`. `train/loss` is without them.

    Args:
        model: sizes and origin of the model.
        rates: learning rates by part, schedule and clipping.
        supervise: what the loss sees: answers alone, or all that user and assistant write.
        max_skipped_ratio: the run stops when a larger share of its samples could not be used.
        experts: how the experts of a mixture are kept in use; without it, nothing is done or logged.
    """

    trains: tuple[Part, ...]

    def __init__(
        self,
        model: ModelSpec,
        *,
        rates: Rates | None = None,
        supervise: Literal["answers", "text"] = "text",
        max_skipped_ratio: float = 0.05,
        experts: ExpertBalance | None = None,
    ):
        super().__init__()
        self.spec, self.rates = model, rates or Rates()
        self.supervise = supervise
        self.model: MindVL = None  # type: ignore[assignment]  # built by configure_model
        self.skipped = SkippedSamples(max_skipped_ratio)
        self.experts = experts
        self.balancer: ExpertBalancer | None = None  # built by configure_model
        self._step: Counter[str] = Counter()
        self._step_loss: Tensor | float = 0.0
        self._step_keys: list[str] = []

    # What the data module asks of a phase.

    @property
    def tokenizer_name(self) -> str:
        return self.spec.tokenizer

    @cached_property
    def config(self):
        """The model's transformers configuration, known before the model is built."""
        from mindvl.data.tokenizer import load_tokenizer

        return config_of(self.spec, load_tokenizer(self.spec.tokenizer))

    @property
    def pixel_budget(self):
        """Sizes that pictures and frames of videos are cut to."""
        from mindvl.data.pixels import PixelBudget

        return PixelBudget.of_model(self.config)

    @property
    def window_tokens(self) -> int:
        return self.config.window_tokens

    @cached_property
    def pack_cost(self):
        """What tokens and patches cost in this model, for plans that keep ranks even."""
        from mindvl.data.cost import CostModel
        from mindvl.model.flops import cost_coefficients

        return CostModel(**cost_coefficients(self.config))

    # Building.

    def configure_model(self) -> None:
        """Build the model, unless it is there; under a strategy that shards, no rank ever holds the whole of it."""
        from mindvl.model.parts import train_only
        from mindvl.phases.placing import place

        if self.spec.operators is not None:
            force(self.spec.operators)
        strategy = None if self._trainer is None else self._trainer.strategy

        def prepare(model: MindVL) -> None:
            train_only(model, self.trains)
            place(model, strategy)

        if self.model is None:
            self.model = build_model(self.spec, self.config, place=prepare)
        else:
            place(self.model, strategy)
        if self.experts is not None and self.balancer is None:
            self.balancer = ExpertBalancer(self.experts, self.model)
        ranks = ranks_of(strategy)
        self.skipped.group = ranks.data_group
        if self.balancer is not None:
            self.balancer.group, self.balancer.context = ranks.token_group, self.model.context

    def configure_optimizers(self):
        groups = parameter_groups(self.model, self.rates)
        optimizer = torch.optim.AdamW(groups, betas=(self.rates.beta1, self.rates.beta2), fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: warmup_cosine(
                step,
                warmup_steps=self.rates.warmup_steps,
                total_steps=self.trainer.max_steps,
                floor_ratio=self.rates.floor_ratio,
            ),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # One step.

    def training_step(self, batch: PackedBatch, batch_idx: int) -> Tensor:
        if self.balancer is None:
            loss_sum = self.model(packed=batch).loss
            self._count(batch, loss_sum.detach())
            return loss_sum
        with self.balancer.listen():
            loss_sum = self.model(packed=batch).loss
        self._count(batch, loss_sum.detach())
        return loss_sum + self.balancer.loss(batch)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Turn the sum of losses into their mean over all supervised tokens of the step."""
        supervised = self._over_ranks(torch.tensor(self._step["supervised_tokens"], dtype=torch.float64))
        averaged_over = ranks_of(self.trainer.strategy).averaged_over * self.trainer.accumulate_grad_batches
        factor = averaged_over / max(1.0, supervised.item())
        torch._foreach_mul_(local_slices(_gradients(optimizer)), factor)
        self._log_step(supervised)

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """Clip to the norm in `rates`; stop before the weights change when a gradient is not finite."""
        gradients = _gradients(optimizer)
        norm = gradient_norm(gradients)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"gradient norm is {norm.item()} at step {self.trainer.global_step} (rank {self.global_rank}); weights "
                f"are unchanged; samples: {', '.join(self._step_keys[:8])}"
            )
        if self.rates.clip_norm:
            clip_(gradients, norm, self.rates.clip_norm)
        self.log("train/grad_norm", norm.float())
        self._step, self._step_keys = Counter(), []
        if self.balancer is not None:
            self.balancer.end_step()
            every = self.trainer.log_every_n_steps
            if every and (self.trainer.global_step + 1) % every == 0:
                self.log_dict(self.balancer.report())

    def on_validation_epoch_start(self) -> None:
        self._validation = SourceLoss()

    def validation_step(self, batch: PackedBatch | None, batch_idx: int) -> None:
        """Count a pack; None comes in its place where only benchmarks are asked (`mindvl.phases.Benchmarks`)."""
        if batch is not None:
            self._validation.add(batch, self.model(packed=batch, each_loss=True).loss)

    def on_validation_epoch_end(self) -> None:
        """Means over all supervised tokens; Lightning would take that of the ranks' means."""
        means = self._validation.report(ranks_of(self.trainer.strategy).data_group)
        self.log_dict(means, sync_dist=self.trainer.world_size > 1)  # equal on all ranks, which Lightning cannot know

    # Answering: `mindvl test` and `mindvl predict`.

    def _judge(self, questions):
        from mindvl.data.tokenizer import load_tokenizer
        from mindvl.phases.answering import Answerer
        from mindvl.phases.evaluation import evaluate

        return evaluate(Answerer(self.model, load_tokenizer(self.tokenizer_name)), questions)

    def test_step(self, batch: list, batch_idx: int) -> None:
        """Score the questions; `test/<source>` is the mean of each source's natural score."""
        for judged in self._judge(batch):
            self.log(
                f"test/{judged.question.source}",
                judged.score,
                batch_size=1,
                on_step=False,
                on_epoch=True,
                sync_dist=True,
            )

    def predict_step(self, batch: list, batch_idx: int) -> list[dict]:
        """One record per question: key, question, answer, prediction, score; `error` where it could not be asked."""
        records = [
            {
                "key": judged.question.key,
                "source": judged.question.source,
                "question": judged.question.text,
                "answer": judged.question.answer,
                "prediction": judged.prediction,
                "score": judged.score,
                **({"error": judged.error} if judged.error else {}),
            }
            for judged in self._judge(batch)
        ]
        for record in records:
            print(json.dumps(record, ensure_ascii=False), flush=True)
        return records

    # Counting and logging.

    def _count(self, batch: PackedBatch, loss_sum: Tensor) -> None:
        if not self._step:
            self._step_loss = 0.0
        self._step_loss = self._step_loss + loss_sum.to(widest_float(self.device))
        self._step.update(
            packs=1,
            supervised_tokens=batch.num_supervised,
            tokens=batch.num_tokens,
            budget_tokens=batch.token_budget,
            images=batch.num_images,
        )
        self._step_keys.extend(batch.keys)
        self.skipped.add(batch.skipped, used=len(batch.keys), step=self.trainer.global_step)
        self.skipped.check()

    def _log_step(self, supervised: Tensor) -> None:
        loss_sum = self._over_ranks(torch.as_tensor(self._step_loss, dtype=torch.float64).clone())
        step = self._step
        self.log("train/loss", (loss_sum / supervised.clamp(min=1)).float(), prog_bar=True)
        self.log_dict(
            {
                "train/supervised_tokens": float(supervised),
                "train/tokens": float(step["tokens"]),
                "train/images": float(step["images"]),
                "train/pack_fill_ratio": step["tokens"] / step["budget_tokens"],
                "train/skipped_samples": float(self.skipped.total),
            }
        )
        if self.model.picture_balance is not None:
            self.log_dict(self.model.picture_balance.report())
        rates = {group["name"]: group["lr"] for group in self.trainer.optimizers[0].param_groups}
        self.log_dict({f"lr/{name}": rate for name, rate in rates.items() if not name.endswith("_no_decay")})

    def _over_ranks(self, value: Tensor) -> Tensor:
        """Sum of a number of this rank's packs over ranks that have other packs, in the device's widest precision."""
        if self.trainer.world_size == 1:
            return value
        value = value.to(self.device, widest_float(self.device))
        strategy = self.trainer.strategy
        return strategy.reduce(value, group=ranks_of(strategy).data_group, reduce_op="sum")

    # Saved with the checkpoint, so that a resumed run still knows what it has left out.

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["skipped"] = self.skipped.state_dict()
        checkpoint["lora"] = self.spec.lora and asdict(self.spec.lora)
        if self.balancer is not None:
            checkpoint["experts"] = self.balancer.state_dict()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        check_same(checkpoint.get("lora"), self.spec.lora)
        self._check_shapes(checkpoint.get("state_dict", {}))
        if "skipped" in checkpoint:
            self.skipped.load_state_dict(checkpoint["skipped"])
        if self.balancer is not None and "experts" in checkpoint:
            self.balancer.load_state_dict(checkpoint["experts"])

    def _check_shapes(self, saved: dict[str, Tensor]) -> None:
        """Refuse a checkpoint of another model in one sentence, before torch lists every tensor."""
        own = self.state_dict()
        differ = [name for name in own.keys() & saved.keys() if own[name].shape != saved[name].shape]
        if differ:
            name = min(differ)
            raise ValueError(
                f"the checkpoint holds another model: {name} has shape {tuple(saved[name].shape)}, the configured one "
                f"{tuple(own[name].shape)}; so have {len(differ) - 1} other tensors"
            )


def _gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
