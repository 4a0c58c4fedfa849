"""Keeping experts busy: DeepSeek-V3's biases, auxiliary losses, and what is logged of the loads.

Every optimizer step an expert that had less than the mean load gets `bias_update_speed` added to its selection bias,
one that had more gets it taken away. Over four experts with loads 4 2 2 0 and speed 0.001 the biases move by
-0.001, 0, 0, +0.001. The bias takes part in the choice only and has no gradient. Loads are those of all tokens of the
step, over accumulated packs and ranks; padding and holes are not counted.

The auxiliary losses are sums over tokens with weights (`mindvl.ops.routing_losses`), added to the pack's summed
cross-entropy and divided with it by the supervised tokens of the step. Each is summed over layers. The sequence-wise
loss and the z-loss depend on no split of the step. The global-batch loss multiplies mean shares with loads of the whole
step; while its first packs run, the later ones are not known, so it takes the loads of all ranks in the step so far, as
arXiv 2501.11873 does: exact without accumulation, any number of ranks, and close to it with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mindvl.batch import PackedBatch
from mindvl.device import widest_float
from mindvl.ops import routing_losses
from mindvl.ops.exchange import split_rows

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from mindvl.model.mindvl import MindVL

KINDS = ("text/", "picture/")
LOSSES = ("sequence_loss", "global_loss", "z_loss")


@dataclass
class ExpertBalance:
    """How the experts of a language model are kept in use. What is left out is off; loads are logged in any case.

    Args:
        bias_update_speed: step of the selection biases, for DeepSeek-V3's router alone; its authors took 0.001.
        sequence_loss: weight of the balance within each document; DeepSeek-V3's 0.0001.
        global_loss: weight of the balance over the whole step, such as 0.01.
        z_loss: weight of the squared log-partition of the router's logits, such as 0.001.
        freeze_router: gates and biases stay as they are.
    """

    bias_update_speed: float | None = None
    sequence_loss: float | None = None
    global_loss: float | None = None
    z_loss: float | None = None
    freeze_router: bool = False

    def __post_init__(self):
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None and value < 0:
                raise ValueError(f"experts.{item.name} is {value}, a weight is not negative")
        if self.freeze_router and self.bias_update_speed:
            raise ValueError(
                f"experts.freeze_router is true, but experts.bias_update_speed is {self.bias_update_speed}: "
                "a frozen router's bias does not move"
            )


class ExpertBalancer:
    """Watches a model's routers while it trains; a Phase asks it for losses, and to end each step.

    Raises ValueError where there is no router that we know, or no bias to move.
    """

    def __init__(self, settings: ExpertBalance, model: MindVL):
        from mindvl.model.moe import BIAS, routers_of

        self.settings = settings
        self.routers = routers_of(model.language_model)
        family = model.config.text_config.model_type
        if not self.routers:
            raise ValueError(f"experts are balanced, but language.model_type {family} has no router that we know")
        if len({router.num_experts for router in self.routers.values()}) > 1:
            raise ValueError(f"layers of {family} have unequal numbers of experts")
        self.biases: list[nn.Module] = [router for router in self.routers.values() if hasattr(router, BIAS)]
        if settings.bias_update_speed:
            if not self.biases:
                raise ValueError(
                    f"experts.bias_update_speed is {settings.bias_update_speed}, but the router of {family} has no "
                    f"{BIAS}: leave it out, and balance with sequence_loss or global_loss"
                )
            if not all(router.weight.requires_grad for router in self.routers.values()):
                raise ValueError(
                    f"experts.bias_update_speed is {settings.bias_update_speed}, but this phase does not train the "
                    "language model: leave it out"
                )
        if settings.freeze_router:
            for router in self.routers.values():
                router.weight.requires_grad_(False)
        self.group: ProcessGroup | None = None
        """Ranks that hold different tokens; None is all ranks."""
        self.context: ProcessGroup | None = None
        """Ranks that hold the tokens of one pack; None is this rank alone."""
        self._heard: list[tuple[Tensor, Tensor]] = []
        self._step: Tensor | None = None  # (layers, kinds, experts) tokens of the step so far
        self._step_losses: Tensor | None = None  # LOSSES summed over layers and tokens, supervised tokens
        self._window: Tensor | None = None  # the same, over all ranks, since the last report
        self._window_losses: Tensor | None = None

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Hear the routers during a forward pass; what gradient checkpointing computes again later is not heard."""
        self._heard = []

        def hear(router: nn.Module, inputs: Any, outputs: tuple[Tensor, Tensor, Tensor]) -> None:
            self._heard.append((outputs[0], outputs[2]))

        hooks = [router.register_forward_hook(hear) for router in self.routers.values()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def loss(self, batch: PackedBatch) -> Tensor | float:
        """Count what was heard of a pack, and return the weighted sum of its auxiliary losses; 0.0 when all are off."""
        if len(self._heard) != len(self.routers):
            raise RuntimeError(f"{len(self._heard)} of {len(self.routers)} routers have spoken; each must once")
        heard, self._heard = self._heard, []
        counts = self._count(batch, [chosen for _, chosen in heard])
        if self.settings.global_loss:
            counts = self._over_ranks(counts)
        self._step = counts if self._step is None else self._step + counts
        if not any(getattr(self.settings, name) for name in LOSSES):
            return 0.0
        with torch.autocast(counts.device.type, enabled=False):
            return self._losses(batch, heard)

    def _count(self, batch: PackedBatch, chosen: list[Tensor]) -> Tensor:
        """(layers, text and picture, experts)"""
        tokens = len(batch.input_ids)
        kinds = torch.zeros(tokens, dtype=torch.int64, device=batch.input_ids.device)
        kinds[batch.image_index] = 1
        kinds[batch.num_tokens :] = len(KINDS)  # holes and padding count nowhere
        kinds = kinds[self._own_rows(tokens)]
        num_experts = next(iter(self.routers.values())).num_experts
        return torch.stack(
            [
                routing_losses.expert_counts(layer, kinds, num_groups=len(KINDS), num_experts=num_experts)
                for layer in chosen
            ]
        )

    def _losses(self, batch: PackedBatch, heard: list[tuple[Tensor, Tensor]]) -> Tensor:
        settings, bounds = self.settings, batch.cu_seqlens
        documents = routing_losses.token_documents(bounds, len(batch.input_ids))
        weights = routing_losses.token_weights(
            documents, bounds, batch.supervised_index, batch.targets, dtype=heard[0][0].dtype
        )
        rows = self._own_rows(len(documents))
        documents, weights = documents[rows], weights[rows]
        sums: dict[str, Tensor] = {}
        assert self._step is not None
        for router, (logits, chosen), counts in zip(self.routers.values(), heard, self._step.sum(dim=1), strict=True):
            if router.weight.requires_grad and not logits.requires_grad:
                raise RuntimeError("a router's logits came without a gradient: checkpointing with use_reentrant=True")
            layer = {}
            if settings.sequence_loss or settings.global_loss:
                shares = router.shares(logits)
            if settings.sequence_loss:
                layer["sequence_loss"] = routing_losses.sequence_balance(
                    shares, chosen, documents, bounds, weights, self._document_counts(chosen, documents, bounds, shares)
                )
            if settings.global_loss:
                layer["global_loss"] = routing_losses.batch_balance(shares, counts, weights)
            if settings.z_loss:
                layer["z_loss"] = routing_losses.router_z(logits, weights)
            for name, value in layer.items():
                sums[name] = sums[name] + value if name in sums else value
        dtype = widest_float(weights.device)
        nothing = torch.zeros((), dtype=dtype, device=weights.device)
        found = [sums[name].detach().to(dtype) if name in sums else nothing for name in LOSSES]
        sharing = 1 if self.context is None else torch.distributed.get_world_size(self.context)
        losses = torch.stack([*found, nothing + batch.num_supervised / sharing])
        self._step_losses = losses if self._step_losses is None else self._step_losses + losses
        return torch.stack([getattr(settings, name) * value for name, value in sums.items()]).sum()

    def end_step(self) -> None:
        """After the packs of an optimizer step: move the biases by its loads, and keep these for the report."""
        counts, losses = self._step, self._step_losses
        self._step = self._step_losses = None
        if counts is None:
            return
        if not self.settings.global_loss:  # which has its counts from all ranks already
            counts = self._over_ranks(counts)
        if self.settings.bias_update_speed:
            for router, layer in zip(self.routers.values(), counts.sum(dim=1), strict=True):
                step = routing_losses.bias_step(layer, self.settings.bias_update_speed)
                router.e_score_correction_bias += step
        self._window = counts if self._window is None else self._window.to(counts.device) + counts
        if losses is not None:
            losses = self._over_ranks(losses)
            before = self._window_losses
            self._window_losses = losses if before is None else before.to(losses.device) + losses

    def report(self) -> dict[str, float]:
        """Numbers to log of all tokens since the last report, and a new beginning; see `Phase` for what they are."""
        if self._window is None:
            return {}
        tables = torch.cat([self._window.sum(dim=1, keepdim=True), self._window], dim=1)
        statistics = routing_losses.load_statistics(tables)
        found: dict[str, float] = {}
        table = torch.stack(list(statistics.values())).cpu()  # statistics, layers, kinds
        for name, layers in zip(statistics, table, strict=True):
            for kind, values in zip(("", *KINDS), layers.T.tolist(), strict=True):
                if any(math.isnan(value) for value in values):
                    continue  # no token of this kind
                found[f"experts/{kind}{name}"] = sum(values) / len(values)
                for number, value in zip(self.routers, values, strict=True):
                    found[f"experts/layer_{number:02d}/{kind}{name}"] = value
        found["experts/worst_layer/load_max_over_mean"] = table[0, :, 0].max().item()
        if self.biases:
            biases = torch.stack([router.e_score_correction_bias for router in self.routers.values()])
            ranges = (biases.amax(dim=1) - biases.amin(dim=1)).tolist()
            found |= {
                f"experts/layer_{number:02d}/bias_range": value
                for number, value in zip(self.routers, ranges, strict=True)
            }
        if self._window_losses is not None:
            *sums, supervised = self._window_losses.tolist()
            for name, value in zip(LOSSES, sums, strict=True):
                if getattr(self.settings, name):
                    found[f"experts/{name}"] = value / (max(1.0, supervised) * len(self.routers))
        self._window = self._window_losses = None
        return found

    def state_dict(self) -> dict[str, Tensor | None]:
        """What the next report counts already; the biases are in the model."""
        return {"counts": self._window, "losses": self._window_losses}

    def load_state_dict(self, state: dict[str, Tensor | None]) -> None:
        self._window, self._window_losses = state["counts"], state["losses"]

    def _own_rows(self, tokens: int) -> slice:
        """The tokens of a pack that this rank's routers have seen."""
        return slice(0, tokens) if self.context is None else split_rows(tokens, self.context).rows

    def _document_counts(self, chosen: Tensor, documents: Tensor, bounds: Tensor, shares: Tensor) -> Tensor | None:
        """Choices by document where ranks hold different tokens of one; None where this rank holds all."""
        if self.context is None:
            return None
        counts = routing_losses.expert_counts(
            chosen, documents, num_groups=len(bounds) - 1, num_experts=shares.shape[1]
        )
        torch.distributed.all_reduce(counts, group=self.context)
        return counts

    def _over_ranks(self, value: Tensor) -> Tensor:
        """Sum over ranks that have other tokens, in place."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(value, group=self.group)
        return value
