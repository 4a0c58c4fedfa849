"""LoRA (arXiv 2106.09685): a frozen linear layer learns a product of two thin matrices beside its weight.

    y = W x + (alpha / rank) B A x        A (rank, in) is drawn, B (out, rank) is 0: the model starts as it was

With rank 16 a 4096 x 4096 layer has 131,072 trained numbers instead of 16,777,216. peft puts the matrices in; names in
the model become

    self_attn.q_proj.weight   ->   self_attn.q_proj.base_layer.weight         frozen
                                   self_attn.q_proj.lora_A.default.weight     trained
                                   self_attn.q_proj.lora_B.default.weight     trained

`merged_state` undoes that: W + (alpha / rank) B A under the name that W has in every other checkpoint, so a saved model
needs neither peft nor this file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from mindvl.model.parts import PARTS, Part, is_adapter, part_of, plain_name
from mindvl.model.weights.shards import copy_into, local_part, whole, within

BASE, DOWN, UP = ".base_layer.", ".lora_A.default.", ".lora_B.default."


@dataclass(frozen=True)
class Lora:
    """Which linear layers get adapters, and of which size.

    The phase says which parts train; a part that has adapters trains them and keeps its own weights, one that the phase
    freezes keeps them at zero.

    Args:
        rank: of the added product.
        alpha: the product is scaled by alpha / rank.
        parts: of vision, projector and language.
        targets: ends of the layers' names, such as `q_proj` or `mlp.0`.
        dropout: share of a layer's inputs that its adapter does not see in training.
    """

    rank: int = 16
    alpha: float = 32.0
    parts: list[Part] = field(default_factory=lambda: ["language"])
    targets: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])
    dropout: float = 0.0

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"model.lora.rank is {self.rank}, an adapter has at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.lora.dropout is {self.dropout}, outside 0 .. 1 (excluded)")
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise ValueError(f"model.lora.parts is {self.parts}; a MindVL has {', '.join(PARTS)}")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def add_adapters(model: nn.Module, lora: Lora) -> None:
    """Put adapters beside the chosen layers of a model, in place; its outputs are unchanged until they are trained.

    Raises ValueError when peft is not installed, when a target is no linear layer of a part, and for a head that is the
    embedding too: both would move, and one of them cannot be merged.
    """
    names = _chosen(model, lora)
    try:
        import peft
    except ImportError as error:
        raise ValueError("model.lora needs peft: pip install 'mindvl[lora]'") from error
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=lora.dropout,
        target_modules=names,
        bias="none",
    )
    peft.inject_adapter_in_model(config, model, low_cpu_mem_usage=any(p.is_meta for p in model.parameters()))
    found = {name.partition(DOWN)[0] for name, _ in model.named_parameters() if DOWN in name}
    if found != set(names):
        raise ValueError(f"peft put adapters beside {len(found)} layers, of which {len(names)} were named")


def _chosen(model: nn.Module, lora: Lora) -> list[str]:
    """Names of the linear layers that end like a target and belong to one of the parts."""
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and part_of(f"{name}.weight") in lora.parts
    }
    names = []
    for target in lora.targets:
        found = [name for name in layers if f".{name}".endswith(f".{target}")]
        if not found:
            known = sorted({re.search(r"[^.]+(\.\d+)?$", name)[0] for name in layers})  # type: ignore[index]
            raise ValueError(
                f"model.lora.targets names {target}, which is no linear layer of {', '.join(lora.parts)}; there are "
                f"{', '.join(known)}"
            )
        names += [name for name in found if name not in names]
    if not names:
        raise ValueError("model.lora.targets is empty: nothing would be trained")
    embedding = model.get_input_embeddings().weight
    for name in names:
        if layers[name].weight is embedding:
            raise ValueError(f"model.lora.targets includes {name}, whose weight is the token embedding's too")
    return names


def with_adapters(lora: Lora, *, then: Callable[[Any], None] | None = None) -> Callable[[Any], None]:
    """What is done to a model without memory: it gets its adapters, and then what was to be done anyway."""

    def prepare(model: Any) -> None:
        add_adapters(model, lora)
        if then is not None:
            then(model)

    return prepare


def draw_adapters(model: nn.Module, *, seed: int) -> None:
    """Start values of all adapters, in place, whole or sharded: A as peft draws it, B zero.

    A layer's A depends on the seed and the layer's name alone.
    """
    for name, parameter in model.named_parameters():
        if not is_adapter(name):
            continue
        local, place = local_part(parameter)
        drawn = torch.zeros(parameter.shape)
        if DOWN in name:
            generator = torch.Generator().manual_seed(xxhash.xxh64_intdigest(f"{seed} {name}".encode()) >> 1)
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        copy_into(local, place, drawn[within(place, whole(tuple(parameter.shape)))], place)


def has_adapters(model: nn.Module) -> bool:
    """Whether a model is one that `add_adapters` has changed."""
    return hasattr(model, "peft_config")


def merged_state(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Weights with their adapters added, under the names of a model without; `scale` is alpha / rank.

    Products are taken in fp32 at least. Tensors without an adapter are the very ones given. Raises ValueError for an
    adapter without its other half or its layer.
    """
    adapted = {name.partition(side)[0] for name in state for side in (DOWN, UP) if side in name}
    for layer in sorted(adapted):
        missing = [key for key in (f"{layer}{part}weight" for part in (BASE, DOWN, UP)) if key not in state]
        if missing:
            raise ValueError(f"the adapter of {layer} is not whole: {missing[0]} is missing")
    merged = {}
    for name, tensor in state.items():
        layer, _, kind = name.partition(BASE)
        if is_adapter(name):
            continue
        if layer in adapted and kind == "weight":
            wide = torch.promote_types(tensor.dtype, torch.float32)
            down, up = (state[f"{layer}{side}weight"].to(wide) for side in (DOWN, UP))
            tensor = torch.addmm(tensor.to(wide), up, down, alpha=scale).to(tensor.dtype)
        merged[plain_name(name)] = tensor
    return merged


def merged_weights(model: nn.Module) -> dict[str, Tensor]:
    """`merged_state` of a model with adapters; the model is left as it is."""
    config = _peft_config(model)
    return merged_state(model.state_dict(), config.lora_alpha / config.r)


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """The adapters alone, whole, under the names of a peft file. Every rank of a sharded model must call it."""
    return {
        f"base_model.model.{name.replace('.default.', '.')}": tensor.full_tensor()
        if hasattr(tensor, "full_tensor")
        else tensor
        for name, tensor in model.state_dict().items()
        if is_adapter(name)
    }


def save_adapters(model: nn.Module, folder: Path, *, state: dict[str, Tensor] | None = None) -> None:
    """A new folder with the adapters alone, as `peft.PeftModel.from_pretrained(MindVL, folder)` reads them.

    `state` is `adapter_state(model)`, where that had to be called on every rank.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    whole_state = {name: tensor.contiguous() for name, tensor in (state or adapter_state(model)).items()}
    save_file(whole_state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    _peft_config(model).save_pretrained(folder)


def check_same(saved: Mapping[str, Any] | None, now: Lora | None) -> None:
    """Refuse a checkpoint whose adapters are not the configured ones: another alpha would load, and mean other weights.

    `saved` is what a checkpoint holds of its `model.lora`, None when it had none.
    """
    before = None if saved is None else Lora(**saved)
    if before != now:
        raise ValueError(f"the checkpoint was trained with model.lora {before}, the config has {now}")


def _peft_config(model: nn.Module) -> Any:
    return model.peft_config["default"]
