"""A NaFlexViT made by timm, after all that a packed row of patches cannot do has been refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from torch import nn

from mindvl.ops.position_table import Kernel


def import_timm():
    """The timm package. Raises ImportError with the way out where it, or its torchvision, cannot be imported."""
    try:
        import timm
        import timm.models.naflexvit
    except ModuleNotFoundError as error:
        raise ImportError(
            f"vision.model_type naflexvit needs timm, and {error.name} is not installed: pip install 'mindvl[timm]'"
        ) from error
    except RuntimeError as error:
        raise ImportError(
            "timm needs a torchvision of the same build as torch, and the one installed is for another "
            f"({error}); install both from one index, for a CPU https://download.pytorch.org/whl/cpu"
        ) from error
    return timm


def create(name: str, args: dict[str, Any], *, patch: int, channels: int) -> nn.Module:
    """A NaFlexVit of timm with fresh weights, without classifier and pooling.

    Raises ValueError for a name that timm does not know, a model of another class, a size of patches that differs from
    the configured one, and for features that need rows of one picture each.
    """
    timm = import_timm()
    known = timm.list_models("naflexvit*")
    if not timm.is_model(name):
        raise ValueError(f"vision.timm_model is {name}, which timm does not know; it has {', '.join(known)}")
    settings = {"patch_size": patch, "in_chans": channels, **args, "num_classes": 0, "global_pool": ""}
    try:
        model = timm.create_model(name, pretrained=False, **settings)
    except TypeError as error:
        raise ValueError(f"timm refuses vision.timm_args for {name}: {error}") from error
    if not isinstance(model, timm.models.naflexvit.NaFlexVit):
        raise ValueError(
            f"vision.timm_model {name} is a {type(model).__name__}, not a NaFlexVit; use one of {', '.join(known)}"
        )
    if tuple(model.embeds.patch_size) != (patch, patch):
        raise ValueError(
            f"vision.timm_args makes patches of {model.embeds.patch_size} pixels, vision.patch_size is {patch}"
        )
    refused = list(_unpackable(model))
    if refused:
        raise ValueError(f"vision.timm_model {name} has {', '.join(refused)}, which packed pictures cannot use")
    return model


def _unpackable(model: nn.Module) -> Iterator[str]:
    """What needs a row per picture, or positions inside attention."""
    embeds = model.embeds
    if model.rope is not None:
        yield "rotary positions"
    if model.patch_drop is not None:
        yield "patch dropout"
    if embeds.pos_embed_use_grid_sample or embeds.pos_embed_interp_mode not in get_args(Kernel):
        yield f"positions read by {'grid_sample' if embeds.pos_embed_use_grid_sample else embeds.pos_embed_interp_mode}"
    for name in sorted({type(block).__name__ for block in model.blocks} - {"Block"}):
        yield f"blocks of class {name}"
    for name in sorted({type(block.attn).__name__ for block in model.blocks} - {"Attention"}):
        yield f"attention of class {name}"
    if any(type(module).__name__ == "DropPath" for module in model.modules()):
        yield "stochastic depth"
    if any(module.p for name, module in model.named_modules() if name.endswith("attn_drop")):
        yield "attention dropout"
