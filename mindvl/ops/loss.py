"""Cross-entropy of the supervised positions only, summed, without ever holding all of their logits.

Most positions of a pack are picture tokens and questions, which nobody predicts. The language-model head is applied
to the supervised positions alone, so logits exist for perhaps a tenth of the pack. With a vocabulary of 152,000 that is
still 608 kB a position, 1.2 GB for 2,048, several times over. So the forward pass takes a few positions at a time, and
while their logits are at hand turns them into what the backward pass needs, the gradients of the hidden states and of
the weight; a gradient nobody asks for is not computed.

    152,064 words, 2,048 positions    all logits 1.25 GB    a chunk of them 0.12 GB

The sum is divided once, by the supervised tokens of the whole optimizer step (`mindvl.phases.base`), never by those of
one pack. Targets of -100 count nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mindvl.ops.linear import Linear, torch_linear
from mindvl.ops.precision import at_least_fp32, no_autocast, step_dtype
from mindvl.ops.table import choose

IGNORED = -100
CHUNK_BYTES = 112 << 20
"""Logits that exist at a time, in fp32."""
_CACHED_BYTES = 4 << 20
"""Logits that a CPU works on at a time: they are walked over five times, and stay in its cache meanwhile."""


def summed_cross_entropy(
    hidden: Float[Tensor, "tokens dim"],
    head: nn.Module,
    supervised_index: Int[Tensor, " supervised"],
    targets: Int[Tensor, " supervised"],
) -> Float[Tensor, ""]:
    """Sum over supervised positions of -log p(target), in fp32; exactly 0 with zero gradients when there are none.

    A head of ours, or a plain `nn.Linear` without hooks, is taken apart for it. Any other module, and one whose weight
    is spread over ranks by tensor parallelism, is called for a chunk of positions at a time and again in the backward
    pass; those ranks share a pack, so they call it equally often.
    """
    rows = hidden.index_select(0, supervised_index)
    if isinstance(head, Head) and head.takes_targets():
        return head(rows, targets)
    if type(head) in (nn.Linear, Linear) and not (head._forward_hooks or head._forward_pre_hooks):
        return cross_entropy(rows, head.weight, head.bias, targets)
    return _through_calls(rows, head, targets)


@torch.no_grad()
def cross_entropies(
    hidden: Float[Tensor, "tokens dim"],
    head: nn.Module,
    supervised_index: Int[Tensor, " supervised"],
    targets: Int[Tensor, " supervised"],
) -> Float[Tensor, " supervised"]:
    """-log p(target) of each supervised position, in fp32 and without gradients: the parts of the sum above.

    0 where the target is -100. A loss that is reported by document or by source is made of these.
    """
    rows = hidden.index_select(0, supervised_index)
    if isinstance(head, Head) and head.takes_targets():
        return head(rows, targets, each=True)
    words = getattr(head, "out_features", None) or head.weight.shape[0]
    chunks = list(_chunks(len(rows), words * 4, CHUNK_BYTES)) or [slice(0, 0)]
    return torch.cat([_row_losses(head(rows[chunk]), targets[chunk]) for chunk in chunks])


def cross_entropy(
    rows: Float[Tensor, "rows dim"],
    weight: Float[Tensor, "words dim"],
    bias: Float[Tensor, " words"] | None,
    targets: Int[Tensor, " rows"],
) -> Float[Tensor, ""]:
    """Sum of -log softmax(rows @ weight.T + bias)[target] over rows whose target is not -100."""
    return choose("cross_entropy", rows)(rows, weight, bias, targets)


class Head(Linear):
    """Takes the place of a language model's `lm_head`, shares its parameters, and knows the loss.

    The loss is computed inside a call of the module, so that whoever gathers its weight around calls (FSDP) is asked
    once per pack, on every rank, with or without supervised positions.
    """

    def forward(self, input: Tensor, targets: Tensor | None = None, *, each: bool = False) -> Tensor:
        """Logits; with targets, the summed loss, or with `each` the loss of each row."""
        if targets is None:
            return super().forward(input)
        if not each:
            return cross_entropy(input, self.weight, self.bias, targets)
        losses = [
            _row_losses(super(Head, self).forward(input[chunk]), targets[chunk])
            for chunk in _chunks(len(input), self.out_features * 4, CHUNK_BYTES)
        ]
        return torch.cat(losses or [input.new_zeros(0, dtype=at_least_fp32(input).dtype)])

    def takes_targets(self) -> bool:
        """Whether a call with targets sees a whole weight: not where tensor parallelism has wrapped the module."""
        if "forward" in vars(self):
            return False
        from torch.distributed.fsdp import FSDPModule
        from torch.distributed.tensor import DTensor

        return isinstance(self, FSDPModule) or not isinstance(self.weight, DTensor)


def cross_entropy_reference(
    rows: Float[Tensor, "rows dim"],
    weight: Float[Tensor, "words dim"],
    bias: Float[Tensor, " words"] | None,
    targets: Int[Tensor, " rows"],
) -> Float[Tensor, ""]:
    """The definition: all logits, in fp32."""
    with no_autocast(rows):
        logits = F.linear(at_least_fp32(rows), at_least_fp32(weight), None if bias is None else at_least_fp32(bias))
        return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")


def chunked_cross_entropy(
    rows: Float[Tensor, "rows dim"],
    weight: Float[Tensor, "words dim"],
    bias: Float[Tensor, " words"] | None,
    targets: Int[Tensor, " rows"],
) -> Float[Tensor, ""]:
    """The same, `CHUNK_BYTES` of logits at a time; they are multiplied in the precision of the step."""
    return _ChunkedCrossEntropy.apply(rows, weight, bias, targets, step_dtype(rows), torch.is_grad_enabled())


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, weight, bias, targets, dtype, grad_enabled):
        needs = [grad_enabled and needed for needed in ctx.needs_input_grad[:3]]
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (rows, weight, bias)]
        exact = at_least_fp32(rows).dtype
        with no_autocast(rows):
            low_rows, low_weight = rows.to(dtype), weight.detach().to(dtype)
            grads = [
                torch.zeros(tensor.shape, dtype=exact, device=rows.device) if needed else None
                for tensor, needed in zip((rows, weight, bias), needs, strict=True)
            ]
            grad_rows, grad_weight, grad_bias = grads
            total = torch.zeros((), dtype=exact, device=rows.device)
            for chunk in _chunks(len(rows), len(weight) * 4, CHUNK_BYTES):
                logits = _product(low_rows[chunk], low_weight, bias).to(exact)
                total += _loss_and_gradient(logits, targets[chunk], gradient=any(needs))
                low = logits.to(dtype)
                if grad_rows is not None:
                    grad_rows[chunk] = _product(low, low_weight.t())
                if grad_weight is not None:
                    _add_product(grad_weight, low, low_rows[chunk])
                if grad_bias is not None:
                    grad_bias += logits.sum(0)
                del logits, low  # before the next chunk's are made
        ctx.grads = grads
        return total

    @staticmethod
    def backward(ctx, grad_total):
        if ctx.grads is None:
            raise RuntimeError("chunked cross-entropy hands its gradients out once; this is a second backward pass")
        grads, ctx.grads = ctx.grads, None
        # One read of the device less than it looks: on an accelerator the factor is multiplied in unseen.
        untouched = grad_total.device.type == "cpu" and grad_total.item() == 1.0
        return (
            *(
                None if grad is None else (grad if untouched else grad.mul_(grad_total)).to(kept)
                for grad, kept in zip(grads, ctx.dtypes, strict=True)
            ),
            None,
            None,
            None,
        )


def _chunks(rows: int, row_bytes: int, limit_bytes: int) -> Iterator[slice]:
    """Equal slices of at most `limit_bytes`, and of one row at least."""
    count = max(1, -(-rows * row_bytes // limit_bytes))
    size = max(1, -(-rows // count))
    yield from (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def _loss_and_gradient(logits: Tensor, targets: Tensor, *, gradient: bool) -> Tensor:
    """The summed loss of some rows; with `gradient`, their logits become the gradient of it."""
    total = logits.new_zeros(())
    limit = _CACHED_BYTES if logits.device.type == "cpu" else logits.nbytes + 1
    for part in _chunks(len(logits), logits.shape[1] * logits.element_size(), limit):
        block, target = logits[part], targets[part]
        counted = target != IGNORED
        target = target.clamp(min=0)[:, None]
        picked = block.gather(1, target).squeeze(1)
        largest = block.amax(dim=1, keepdim=True)
        block.sub_(largest).exp_()
        sums = block.sum(dim=1, keepdim=True)
        losses = sums.log().add_(largest).squeeze(1) - picked
        total += torch.where(counted, losses, 0).sum()
        if gradient:
            block.mul_(counted[:, None] / sums)
            block.scatter_add_(1, target, -counted[:, None].to(block.dtype))
    return total


def _row_losses(logits: Tensor, targets: Tensor) -> Tensor:
    with no_autocast(logits):
        return F.cross_entropy(at_least_fp32(logits), targets, ignore_index=IGNORED, reduction="none")


def _product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """left @ right.T + bias by the table's entry for a linear map."""
    return choose("linear", left)(left, right, None if bias is None else bias.detach().to(left.dtype))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left.T @ right, without a second matrix of that size."""
    if total.dtype == left.dtype and choose("linear", left) is torch_linear:
        total.addmm_(left.t(), right)
        return
    limit = _CACHED_BYTES if total.device.type == "cpu" else CHUNK_BYTES
    for part in _chunks(len(total), total.shape[1] * total.element_size(), limit):
        total[part] += _product(left[:, part].t(), right.t())


def _through_calls(rows: Tensor, head: nn.Module, targets: Tensor) -> Tensor:
    def loss_of(part: Tensor, target: Tensor) -> Tensor:
        logits = head(part)
        with no_autocast(logits):
            return F.cross_entropy(at_least_fp32(logits), target, ignore_index=IGNORED, reduction="sum")

    words = getattr(head, "out_features", None) or head.weight.shape[0]
    chunks = list(_chunks(len(rows), words * 4, CHUNK_BYTES)) or [slice(0, 0)]
    losses = [checkpoint(loss_of, rows[chunk], targets[chunk], use_reentrant=False) for chunk in chunks]
    return torch.stack(losses).sum()
