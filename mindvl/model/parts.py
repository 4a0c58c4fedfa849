"""The three parts of a MindVL, which phases train or freeze: tower, projector, language model."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal, get_args

from torch import nn

Part = Literal["vision", "projector", "language"]
PARTS: tuple[Part, ...] = get_args(Part)


def part_of(parameter_name: str) -> Part:
    """The part that a parameter of `MindVL` belongs to, by its name. The projector is the tower's merger."""
    if parameter_name.startswith("vision.merger."):
        return "projector"
    if parameter_name.startswith("vision."):
        return "vision"
    if parameter_name.startswith("language_model."):
        return "language"
    raise ValueError(f"parameter {parameter_name} belongs to none of the parts {', '.join(PARTS)}")


def is_adapter(parameter_name: str) -> bool:
    """Whether a parameter is one of the two matrices that LoRA puts beside a layer."""
    return ".lora_A." in parameter_name or ".lora_B." in parameter_name


def plain_name(parameter_name: str) -> str:
    """The name that a parameter has in a model without adapters, and in every saved folder."""
    return parameter_name.replace(".base_layer.", ".")


def train_only(model: nn.Module, parts: Collection[str]) -> None:
    """Let gradients reach the named parts and no other.

    A frozen tower costs no gradient memory: none of its inputs needs a gradient, so autograd records nothing. A
    frozen language model still passes gradients through to the projector, but makes none for its own weights.

    Where a named part has LoRA adapters (`mindvl.model.lora`), they train and the part's own weights do not.
    """
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise ValueError(f"unknown parts {sorted(unknown)}; a MindVL has {', '.join(PARTS)}")
    adapted = {part_of(name) for name, _ in model.named_parameters() if is_adapter(name)}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        parameter.requires_grad_(part in parts and (part not in adapted or is_adapter(name)))


def trained_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters that are not frozen."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
