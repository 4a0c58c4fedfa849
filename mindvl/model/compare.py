"""Where two backends part: one model, one pack, layer by layer, forward and backward.

On NPUs forward passes have agreed to the last digit while gradients did not. A loss curve shows that after days, if at
all; the gradients of one pack show it at once, and where. Every layer's output is compared, the gradient of the loss
with respect to it, and the gradients of the layer's own parameters:

    layer                                            output    its gradient   parameters
    language_model.model.layers.0.mlp                2.1e-07   9.8e-01        8.1e-01
    language_model.model.layers.1.input_layernorm    2.2e-07   9.7e-01        8.9e-01
    language_model.model.layers.1.self_attn          3.0e-07   2.8e-07        8.1e-01    <- first in the backward pass
    language_model.model.layers.1.mlp                2.9e-07   2.7e-07        3.3e-07

A difference is the norm of (a - b) over the norm of b. Forward passes run down the list and gradients up, so the first
layer that leaves the tolerance in either direction is the one to look into; what comes after it inherits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mindvl.batch import PackedBatch
from mindvl.ops.table import using

_LAYERS = re.compile(
    r"vision\.(patch_embed|merger|(\w+\.)*blocks\.\d+(\.\w+)?)"
    r"|language_model\.(lm_head|model\.(embed_tokens|norm|layers\.\d+(\.\w+)?))"
)
"""Blocks and layers, what they are made of (norms, attention, feed-forward), and the two ends."""


@dataclass(frozen=True)
class Difference:
    """Of two tensors: norm of the difference over the norm of the second, and the cosine between them."""

    relative: float
    cosine: float

    @classmethod
    def of(cls, ours: Tensor | None, theirs: Tensor | None) -> Difference | None:
        """None where neither backend has the tensor; infinite where one alone has it, or a number is not finite."""
        if ours is None and theirs is None:
            return None
        if ours is None or theirs is None:
            return cls(float("inf"), 0.0)
        a, b = ours.double().flatten(), theirs.double().flatten()
        if not (a.isfinite().all() and b.isfinite().all()):
            return cls(float("inf"), 0.0)
        norms = a.norm(), b.norm()
        if norms[1] == 0:
            return cls(0.0, 1.0) if norms[0] == 0 else cls(float("inf"), 0.0)
        cosine = (a @ b / (norms[0] * norms[1])).item() if norms[0] > 0 else 0.0
        return cls(((a - b).norm() / norms[1]).item(), cosine)


@dataclass(frozen=True)
class LayerDifference:
    """One layer under two backends."""

    layer: str
    output: Difference | None
    output_gradient: Difference | None
    parameters: Difference | None
    """Gradients of the layer's own parameters, end to end; None when it has none that train."""

    @property
    def backward(self) -> float:
        """The larger of the two relative differences of gradients."""
        return max((d.relative for d in (self.output_gradient, self.parameters) if d is not None), default=0.0)


@dataclass(frozen=True)
class Comparison:
    """All layers in the order of the forward pass, and the two losses."""

    layers: Sequence[LayerDifference]
    losses: tuple[float, float]

    def first_forward(self, tolerance: float) -> LayerDifference | None:
        """The first layer, from the pixels on, whose output differs by more than the tolerance."""
        return next((layer for layer in self.layers if layer.output and layer.output.relative > tolerance), None)

    def first_backward(self, tolerance: float) -> LayerDifference | None:
        """The first layer, from the loss back, one of whose gradients differs by more than the tolerance."""
        return next((layer for layer in reversed(self.layers) if layer.backward > tolerance), None)


@dataclass
class _Seen:
    """What one run has left behind, by layer, on the host."""

    loss: float
    outputs: dict[str, Tensor]
    gradients: dict[str, Tensor]
    parameters: dict[str, Tensor]


def compare_backends(
    models: tuple[nn.Module, nn.Module],
    packs: tuple[PackedBatch, PackedBatch],
    choices: tuple[Mapping[str, str], Mapping[str, str]],
    *,
    autocast: torch.dtype | None = None,
) -> Comparison:
    """Run a MindVL on a pack under each of two sets of forced entries of the operator table.

    Both models hold the same weights and both packs the same data; they may be one and the same object, or copies on
    two devices. Raises ValueError when a forced entry cannot be used there.
    """
    first, second = (
        _run(model, pack, chosen, autocast) for model, pack, chosen in zip(models, packs, choices, strict=True)
    )
    layers = [
        LayerDifference(
            layer,
            *(
                Difference.of(getattr(first, kind).get(layer), getattr(second, kind).get(layer))
                for kind in ("outputs", "gradients", "parameters")
            ),
        )
        for layer in first.outputs
    ]
    return Comparison(layers, (first.loss, second.loss))


def _run(model: nn.Module, pack: PackedBatch, choices: Mapping[str, str], autocast: torch.dtype | None) -> _Seen:
    model.zero_grad()
    device = pack.input_ids.device.type
    with using(choices):
        with _listening(model) as kept, torch.autocast(device, autocast, enabled=autocast is not None):
            loss = model(packed=pack).loss
        loss.backward()
    seen = _Seen(loss.item(), {}, {}, {})
    layers = dict(model.named_modules())
    claimed: set[int] = set()  # a head's weight that is the embedding's too has its gradient when both are done
    for name, output in kept.items():
        seen.outputs[name] = output.detach().cpu()
        if output.grad is not None:
            seen.gradients[name] = output.grad.cpu()
        own = [p for p in _own_parameters(name, layers) if id(p) not in claimed]
        claimed.update(id(p) for p in own)
        gradients = [p.grad.flatten().float().cpu() for p in own if p.grad is not None]
        if gradients:
            seen.parameters[name] = torch.cat(gradients)
    model.zero_grad()
    return seen


def _own_parameters(name: str, layers: Mapping[str, nn.Module]) -> Iterator[nn.Parameter]:
    """A layer's parameters that are not those of a smaller layer in the list."""
    for inner, parameter in layers[name].named_parameters(name):
        if not any(_is_layer(parent) and parent != name for parent in _parents(inner) if parent.startswith(name)):
            yield parameter


def _parents(path: str) -> Iterator[str]:
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def _is_layer(name: str) -> bool:
    return _LAYERS.fullmatch(name) is not None


@contextmanager
def _listening(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Keep every layer's output, and have its gradient kept, in the order in which layers finish."""
    kept: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(module: nn.Module, inputs: tuple, output: Tensor | tuple) -> None:
            tensor = output if isinstance(output, Tensor) else output[0]
            if tensor.requires_grad:
                tensor.retain_grad()
            kept[name] = tensor

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if _is_layer(name)]
    if not hooks:
        raise ValueError("a MindVL has vision.blocks.N and language_model.model.layers.N; this model has neither")
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()
