"""Vision towers by name: `vision.model_type` in a config says which one a model sees with.

    qwen2_5_vl   the default                                    patches of 14 pixels
    qwen2_vl     its predecessor, without windows               14
    qwen3_vl     without deep stack                             16
    qwen3_5      Qwen3-VL's tower as Qwen3.5 uses it            16
    naflexvit    timm's native-aspect ViT (extra `timm`)        16, a projector of ours

All take the same packs: patches of all pictures end to end, and attention by segment lengths.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from mindvl.model.towers.kind import TowerKind

KNOWN = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen3_5", "naflexvit")


def tower_kind(model_type: str) -> TowerKind:
    """The kind of a `vision.model_type`; transformers ends its own with "_vision". Raises ValueError if unknown."""
    name = model_type.removesuffix("_vision")
    if name not in KNOWN:
        raise ValueError(f"vision.model_type is {model_type}; the known vision towers are {', '.join(KNOWN)}")
    return import_module(f"mindvl.model.towers.{name}").KIND


def vision_config(given: dict[str, Any] | PreTrainedConfig | None, *, width: int) -> PreTrainedConfig:
    """The configuration of a tower whose projector gives vectors of `width`, the language model's.

    Raises ValueError where the given one says another width, or asks for what a MindVL cannot do.
    """
    values = given if isinstance(given, PreTrainedConfig) else dict(given or {})
    model_type = values.model_type if isinstance(values, PreTrainedConfig) else values.pop("model_type", KNOWN[0])
    kind = tower_kind(model_type)
    config = kind.config(**{kind.output_width: width, **values}) if isinstance(values, dict) else values
    if getattr(config, kind.output_width) != width:
        raise ValueError(
            f"the projector's output width is {getattr(config, kind.output_width)} (vision.{kind.output_width}), "
            f"the language model's width is {width} (language.hidden_size)"
        )
    kind.check(config)
    return config


def build_tower(config: PreTrainedConfig, *, image_mean: list[float], image_std: list[float]) -> nn.Module:
    """A tower with fresh weights."""
    return tower_kind(config.model_type).tower(config, image_mean=image_mean, image_std=image_std)
