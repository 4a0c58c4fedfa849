"""What a config file says about a model, and the model that comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # transformers takes a second to import; `mindvl fit --help` does without
    from transformers import PreTrainedTokenizerBase

    from mindvl.model.config import MindVLConfig
    from mindvl.model.mindvl import MindVL


@dataclass
class ModelSpec:
    """Sizes of a MindVL and where its weights come from.

    Args:
        tokenizer: hub id or folder, or "bytes" for the small byte-level one.
        vision: fields of transformers' Qwen2_5_VLVisionConfig.
        language: `model_type` and fields of any transformers causal language model with 1-D positions.
        min_pixels: area below which a picture is enlarged.
        max_pixels: area above which a picture is shrunk.
        image_mean: subtracted from each channel (of 0..1); CLIP's values by default, as in Qwen2.5-VL.
        image_std: divides each channel.
        start_from: folder of a saved MindVL whose weights are taken; its sizes must be the ones given here.
    """

    tokenizer: str = "bytes"
    vision: dict[str, Any] = field(default_factory=dict)
    language: dict[str, Any] = field(default_factory=dict)
    min_pixels: int = 4 * 28 * 28
    max_pixels: int = 1280 * 28 * 28
    image_mean: list[float] | None = None
    image_std: list[float] | None = None
    start_from: str | None = None


def config_of(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase) -> MindVLConfig:
    """The transformers configuration of a spec. Raises ValueError where tokenizer and embedding do not fit."""
    from mindvl.data.tokenizer import IMAGE_PAD
    from mindvl.model.config import MindVLConfig

    language = {
        "vocab_size": -(-len(tokenizer) // 16) * 16,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **spec.language,
    }
    if language["vocab_size"] < len(tokenizer):
        raise ValueError(
            f"model.language.vocab_size is {language['vocab_size']}, but tokenizer {spec.tokenizer} "
            f"has {len(tokenizer)} tokens"
        )
    pixels = {"image_mean": spec.image_mean, "image_std": spec.image_std}
    return MindVLConfig(
        vision_config=spec.vision,
        text_config=language,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_PAD),
        min_pixels=spec.min_pixels,
        max_pixels=spec.max_pixels,
        **{name: value for name, value in pixels.items() if value is not None},
    )


def build_model(spec: ModelSpec, config: MindVLConfig) -> MindVL:
    """A model with fresh weights, or with those of `spec.start_from` after every shape has been compared."""
    from mindvl.model.mindvl import MindVL

    model = MindVL(config)
    if spec.start_from is not None:
        load_weights(model, Path(spec.start_from))
    return model


def load_weights(model: MindVL, folder: Path) -> None:
    """Weights of a saved MindVL folder. Raises ValueError naming the first keys and shapes that differ."""
    from safetensors.torch import load_file

    from mindvl.model.moe import stack_experts

    if not (folder / "config.json").is_file():
        raise ValueError(f"model.start_from: {folder} is no saved model, it has no config.json")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"model.start_from: {folder} has no safetensors file")
    state: dict[str, Any] = {}
    for file in files:
        state.update(load_file(file))
    own = model.state_dict()
    state = stack_experts(state, own)
    tied = set(model.all_tied_weights_keys)
    missing = sorted(own.keys() - state.keys() - tied)
    unexpected = sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise ValueError(
            f"{folder} does not hold this model: {len(missing)} keys missing (first: {missing[:3]}), "
            f"{len(unexpected)} unexpected (first: {unexpected[:3]})"
        )
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise ValueError(
                f"{folder}: {name} has shape {tuple(tensor.shape)}, the configured model {tuple(own[name].shape)}"
            )
    model.load_state_dict(state, strict=False)
    model.tie_weights()
