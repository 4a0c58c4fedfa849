"""What it means that experts share the work, as functions of one layer's routing.

Eight tokens, four experts, one expert per token, loads 4 2 2 0: the busiest does 2.0 times the mean, the coefficient of
variation is 0.71, a quarter of the experts is dead, and the entropy of the loads is 0.75 of that of even loads.

A loss is a sum over tokens with a weight each. The weight of a token is the number of supervised tokens of its document
over the document's length, so each supervised token of a step brings the mean over its document's tokens with it.
Divided by the supervised tokens of the step, as the cross-entropy is, a loss is then a mean over documents, each
weighted by what it teaches, and depends on no split into packs, ranks or accumulation:

    document A  6 tokens, 3 supervised    weight of each of its tokens 3 / 6
    document B  4 tokens, 1 supervised                                 1 / 4
    step        (3 * mean of A + 1 * mean of B) / 4

Padding and holes have no supervised token, hence weight 0.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def token_documents(cu_seqlens: Int[Tensor, " docs_plus_one"], num_tokens: int) -> Int[Tensor, " tokens"]:
    """The number of the document that each token belongs to. No host waits for the device."""
    lengths = cu_seqlens.diff()
    documents = torch.arange(len(lengths), device=cu_seqlens.device)
    return documents.repeat_interleave(lengths, output_size=num_tokens)


def token_weights(
    documents: Int[Tensor, " tokens"],
    cu_seqlens: Int[Tensor, " docs_plus_one"],
    supervised_index: Int[Tensor, " supervised"],
    targets: Int[Tensor, " supervised"],
    *,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, " tokens"]:
    """Supervised tokens of a token's document over its length; they sum to the supervised tokens of the pack."""
    lengths = cu_seqlens.diff()
    supervised = torch.zeros_like(lengths).index_add_(0, documents[supervised_index], (targets >= 0).to(lengths.dtype))
    return (supervised.to(dtype) / lengths.clamp(min=1))[documents]


def expert_counts(
    chosen: Int[Tensor, "tokens k"], groups: Int[Tensor, " tokens"], *, num_groups: int, num_experts: int
) -> Int[Tensor, "groups experts"]:
    """How often each expert was chosen by the tokens of each group; tokens of group `num_groups` count nowhere."""
    places = (groups[:, None] * num_experts + chosen).flatten()
    counts = torch.zeros((num_groups + 1) * num_experts, dtype=torch.int64, device=chosen.device)
    return counts.scatter_add_(0, places, torch.ones_like(places)).view(-1, num_experts)[:num_groups]


def sequence_balance(
    shares: Float[Tensor, "tokens experts"],
    chosen: Int[Tensor, "tokens k"],
    documents: Int[Tensor, " tokens"],
    cu_seqlens: Int[Tensor, " docs_plus_one"],
    weights: Float[Tensor, " tokens"],
    counts: Int[Tensor, "docs experts"] | None = None,
) -> Float[Tensor, ""]:
    """Sequence-wise balance (DeepSeek-V3, arXiv 2412.19437, eq. 17-20, without alpha): 1 per document if even.

    Of a document of T tokens: sum over experts of f_i P_i, f_i = E / (k T) times the tokens that chose expert i, and
    P_i the mean of `shares`, which sum to 1 for each token. Where a bias takes part in the choice, f_i counts the
    experts that did the work; the paper's eq. 18 is written without it.

    `counts` are those of the whole documents, where the tokens at hand are only some of theirs.
    """
    num_experts, k = shares.shape[1], chosen.shape[1]
    lengths = cu_seqlens.diff()[:, None]
    if counts is None:
        counts = expert_counts(chosen, documents, num_groups=len(lengths), num_experts=num_experts)
    frequency = counts.to(shares.dtype) * num_experts / (k * lengths.clamp(min=1))
    return ((shares * frequency[documents]).sum(dim=1) * weights).sum()


def batch_balance(
    shares: Float[Tensor, "tokens experts"], counts: Int[Tensor, " experts"], weights: Float[Tensor, " tokens"]
) -> Float[Tensor, ""]:
    """Global-batch balance (arXiv 2501.11873): f_i from `counts` of many packs and ranks, P_i from these tokens.

    Even loads give 1 per unit of weight; `counts` of zero everywhere give 0.
    """
    frequency = counts.to(shares.dtype) * len(counts) / counts.sum().clamp(min=1)
    return ((shares * weights[:, None]).sum(dim=0) * frequency).sum()


def router_z(logits: Float[Tensor, "tokens experts"], weights: Float[Tensor, " tokens"]) -> Float[Tensor, ""]:
    """Router z-loss (ST-MoE, arXiv 2202.08906, eq. 5): the square of log sum exp of a token's logits."""
    return (logits.logsumexp(dim=1).square() * weights).sum()


def bias_step(counts: Int[Tensor, " experts"], speed: float) -> Float[Tensor, " experts"]:
    """What is added to the selection biases (arXiv 2408.15664): +speed below the mean load, -speed above, 0 at it."""
    return speed * torch.sign(counts.sum() - len(counts) * counts).float()


def load_statistics(counts: Int[Tensor, "*layers experts"]) -> dict[str, Float[Tensor, "*layers"]]:
    """How even loads are; NaN where nothing was routed.

    `load_max_over_mean` (1 if even, E / k at worst), `load_cv` (standard deviation over mean; 0 if even), `dead_ratio`
    (share of experts without a token), `entropy_ratio` (entropy of the loads over log E; 1 if even).
    """
    num_experts = counts.shape[-1]
    load = counts.float()
    relative = load * num_experts / load.sum(dim=-1, keepdim=True)
    share = relative / num_experts
    entropy = torch.special.entr(share).sum(dim=-1)
    evenest = torch.log(torch.tensor(float(max(2, num_experts)), device=counts.device))
    nothing = load.sum(dim=-1) == 0
    return {
        "load_max_over_mean": relative.amax(dim=-1),
        "load_cv": (relative - 1).square().mean(dim=-1).sqrt(),
        "dead_ratio": (counts == 0).float().mean(dim=-1).masked_fill(nothing, float("nan")),
        "entropy_ratio": entropy / evenest,
    }
