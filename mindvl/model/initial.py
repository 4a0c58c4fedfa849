"""Fresh weights, the same on any number of ranks, and never more than one module of them at a time.

A model that no device holds is built without memory and cut; then each rank draws every module's weights whole, keeps
its slice and drops the rest. What a module gets depends on its name and the seed alone, not on what was drawn before:

    seed of language_model.model.layers.3.mlp.gate_proj    xxhash of "1234 language_model.model.layers.3.mlp.gate_proj"

so that one process, eight, or a model that took its tower from elsewhere draw the same. How they are drawn is left to
transformers' `_init_weights` of each part.
"""

from __future__ import annotations

import functools
from collections.abc import Collection

import torch
import xxhash
from torch import Tensor, nn

from mindvl.model.mindvl import MindVL
from mindvl.model.parts import is_adapter, plain_name
from mindvl.model.towers import build_tower
from mindvl.model.weights.shards import copy_into, local_part, whole, within


def initialise(model: MindVL, *, seed: int, skip: Collection[str] = ()) -> None:
    """Draw the parameters of a MindVL in place, and work out its buffers; they may be sharded, but not on meta.

    `skip` names parameters and buffers that have their values already.
    """
    seen: set[int] = set()
    tower = functools.cache(lambda: _tower_as_built(model, seed=_seed(seed, "vision")))
    with torch.no_grad():
        for path, module in model.named_modules(remove_duplicate=False):
            if is_adapter(f"{path}."):
                continue  # `draw_adapters` knows what they start as
            name = plain_name(f"{path}.").removesuffix(".")
            own = {
                last: tensor
                for last, tensor in {**module._parameters, **module._buffers}.items()
                if tensor is not None and id(tensor) not in seen and f"{name}.{last}" not in skip
            }
            if own:
                seen.update(id(tensor) for tensor in own.values())
                drawn = _drawn(module, own, _owner(model, name), seed=_seed(seed, name))
                if drawn is None and name.startswith("vision."):
                    drawn = _found(tower(), name.removeprefix("vision."), list(own))
                if drawn is None:
                    raise ValueError(f"transformers has no rule for fresh values of {name}: {', '.join(own)}")
                for last, tensor in own.items():
                    local, place = local_part(tensor)
                    copy_into(local, place, drawn[last][within(place, whole(tuple(tensor.shape)))], place)


def _owner(model: nn.Module, name: str) -> nn.Module:
    """The transformers model whose rules a module follows: the tower or the language model."""
    return model.get_submodule(name.partition(".")[0])


def _seed(seed: int, name: str) -> int:
    return xxhash.xxh64_intdigest(f"{seed} {name}".encode()) >> 1


def _drawn(module: nn.Module, own: dict[str, Tensor], owner: nn.Module, *, seed: int) -> dict[str, Tensor] | None:
    """Whole tensors on the host as the owner fills them; None where it has no rule for one of them."""
    fresh = {
        last: torch.full(tensor.shape, float("nan"), dtype=tensor.dtype, device="cpu")
        if tensor.is_floating_point()
        else torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        for last, tensor in own.items()
    }
    held = dict(module._parameters), dict(module._buffers)
    try:
        for last, tensor in fresh.items():
            if last in module._buffers:
                module._buffers[last] = tensor
            else:
                module._parameters[last] = nn.Parameter(tensor, requires_grad=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            owner._init_weights(module)  # type: ignore[operator]
        drawn = {last: getattr(module, last).detach() for last in fresh}
    finally:
        module._parameters.update(held[0])
        module._buffers.update(held[1])
    filled = (tensor.is_floating_point() and not tensor.isnan().any() for tensor in drawn.values())
    return drawn if all(filled) else None


def _tower_as_built(model: MindVL, *, seed: int) -> nn.Module:
    """A tower on the host, whole, for those that fill themselves when they are built (timm's) and by no rule."""
    config = model.config
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        return build_tower(config.vision_config, image_mean=config.image_mean, image_std=config.image_std)


def _found(tower: nn.Module, name: str, own: list[str]) -> dict[str, Tensor]:
    module = tower.get_submodule(name)
    return {last: getattr(module, last).detach() for last in own}
