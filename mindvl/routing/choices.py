"""How a module shows which experts it chose: one small reader per habit of the field.

A reader turns what passes through a hooked module into `Choice(ids, weights)`, both (tokens, k), without choosing
anything itself. A top-k made again from logits is not the choice: 2 to 4 % of tokens get another set from logits
rounded to bf16, and group limits, correction biases, sampling and full experts are not in the logits at all.

Where a block makes its top-k between two lines of its own forward, no module sees the ids. `Watch` then stands inside
the block while it runs and keeps what its call of `torch.topk` (or `torch.concat`) returned: the tensor the block
itself goes on with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mindvl.routing.sample import DROPPED


class Choice(NamedTuple):
    """Ids and, where they are visible, combination weights of one layer, (tokens, k) each."""

    ids: Tensor
    weights: Tensor | None


Reader = Callable[[nn.Module, tuple, dict[str, Any], Any], Choice]
"""(module, args, kwargs, output) -> Choice; output is None where the module is read before it runs."""


def experts_input(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Choice:
    """experts(hidden_states, top_k_index, top_k_weights): the ids that the experts are about to run on."""
    values = (*args, *kwargs.values())
    if len(values) < 3 or not isinstance(values[1], Tensor) or values[1].is_floating_point() or values[1].ndim < 2:
        raise ValueError(
            f"{type(module).__name__} is not called with (hidden_states, top_k_index, top_k_weights); "
            "describe it with a Matcher of your own"
        )
    return Choice(values[1].flatten(0, -2), values[2].flatten(0, -2))


def experts_input_with_skips(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Choice:
    """The same, where a token that skips its expert is sent to expert 0 with weight 0 (Zaya)."""
    ids, weights = experts_input(module, args, kwargs, output)
    assert weights is not None
    return Choice(ids.masked_fill(weights == 0, DROPPED), weights)


def one_hot_input(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Choice:
    """experts(hidden_states, one_hot, weights) with a row of zeros where the expert was full (Switch)."""
    _, one_hot, weights = (*args, *kwargs.values())[:3]
    used, ids = one_hot.flatten(0, -2).max(dim=-1, keepdim=True)
    used = used > 0
    return Choice(ids.masked_fill(~used, DROPPED), weights.flatten()[:, None].masked_fill(~used, 0))


def top_two_gates(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Choice:
    """router -> (mask of first choices, gates, logits), zero where no expert runs (NLLB).

    The first choice is the mask's, the second the other expert with a gate.
    """
    first_mask, gates = output[0].flatten(0, -2), output[1].flatten(0, -2)
    is_first = first_mask > 0
    first_used, first = is_first.max(dim=-1, keepdim=True)
    second_gate, second = gates.masked_fill(is_first, 0).max(dim=-1, keepdim=True)
    first_gate = gates.gather(-1, first).masked_fill(~first_used, 0)
    ids = torch.cat([first.masked_fill(~first_used, DROPPED), second.masked_fill(second_gate == 0, DROPPED)], dim=-1)
    return Choice(ids, torch.cat([first_gate, second_gate], dim=-1))


def sorted_by_expert(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Choice:
    """router -> (order of slots by expert, token of each, gate of each, slots per expert, logits) (JetMoE).

    Slot s of token t is number t * k + s; the first `sizes[0]` numbers of the order belong to expert 0, and so on.
    """
    order, _, gates, sizes = output[:4]
    sizes = torch.as_tensor(sizes, device=order.device)
    expert = torch.repeat_interleave(torch.arange(len(sizes), device=order.device), sizes)
    num_tokens = args[0].shape[0]
    ids = torch.empty_like(order).index_put_((order,), expert)
    weights = torch.empty_like(gates).index_put_((order,), gates)
    return Choice(ids.view(num_tokens, -1), weights.view(num_tokens, -1))


def dense_scores(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Choice:
    """router -> (scores, logits), scores zero for every expert but the `router.top_k` chosen (Llama 4)."""
    weights, ids = output[0].flatten(0, -2).topk(module.top_k, dim=-1)
    return Choice(ids.masked_fill(weights == 0, DROPPED), weights)


def dispatch_mask(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Choice:
    """router -> (used capacity, combine weights, dispatch mask), both tokens x experts x places (OpenMoE).

    A full expert has no place left for the token. The larger weight comes first, as in the router.
    """
    _, combine, mask = output
    placed = mask.any(dim=-1)
    weight = combine.sum(dim=-1).masked_fill(~placed, -1)
    weights, ids = weight.topk(module.k_value, dim=-1)
    dropped = weights < 0
    return Choice(ids.masked_fill(dropped, DROPPED), weights.masked_fill(dropped, 0))


def ids_first(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Choice:
    """gate -> (ids, weights, auxiliary loss) (DeepSeek's own modelling files)."""
    return Choice(output[0].flatten(0, -2), output[1].flatten(0, -2))


def named_ids(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Choice:
    """gate -> {"topK_indices", "topK_scores", ...} (LLaMA-MoE v1)."""
    return Choice(output["topK_indices"], output["topK_scores"])


class Watch(TorchFunctionMode):
    """Keeps the integer results of one torch function, (tokens, k), while a block runs.

    Args:
        function: "topk", where the block calls `torch.topk(scores, k)` on (tokens, experts); "concat", where it joins
            the first and second choice, each (tokens, 1), in that order (sparsemixer).
        num_experts: width of the scores.
        num_tokens: rows of the scores.
    """

    def __init__(self, function: str, *, num_experts: int, num_tokens: int):
        super().__init__()
        self.function, self.num_experts, self.num_tokens = function, num_experts, num_tokens
        self.found: list[Choice] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if self.function == "topk" and name == "topk":
            scores = args[0] if args else (kwargs or {})["input"]
            if scores.shape == (self.num_tokens, self.num_experts):
                self.found.append(Choice(result[1], result[0]))
        elif (
            self.function == "concat"
            and name in ("concat", "cat", "concatenate")
            and result.ndim == 2
            and len(result) == self.num_tokens
            and not result.is_floating_point()
        ):
            self.found.append(Choice(result, None))
        return result

    def choice(self, name: str) -> Choice:
        """The one choice of the block `name`. Raises ValueError when it made none, or several."""
        if len(self.found) != 1:
            raise ValueError(
                f"{name} called torch.{self.function} {len(self.found)} times on {self.num_tokens} tokens and "
                f"{self.num_experts} experts, expected once; describe it with a Matcher of your own"
            )
        return self.found[0]
