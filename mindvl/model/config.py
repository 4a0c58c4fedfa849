"""The description of a MindVL model: a vision tower, a causal language model, and the token that joins them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def _without_type(values: dict | None) -> dict[str, Any]:
    return {key: value for key, value in (values or {}).items() if key != "model_type"}


def _text_config(given: dict | PreTrainedConfig | None) -> PreTrainedConfig:
    if isinstance(given, PreTrainedConfig):
        return given
    return AutoConfig.for_model((given or {}).get("model_type", "qwen3"), **_without_type(given))


class MindVLConfig(PreTrainedConfig):
    """Sizes of every part, the placeholder token of visual tokens, and the pixel budget of training.

    `vision_config` and `text_config` take a configuration object or a dictionary; a dictionary for the language model
    names its `model_type`. `min_pixels` and `max_pixels` bound height x width after resizing, in pixels.
    """

    model_type = "mindvl"
    sub_configs = {"vision_config": Qwen2_5_VLVisionConfig, "text_config": AutoConfig}  # noqa: RUF012

    def __init__(
        self,
        vision_config: dict | PreTrainedConfig | None = None,
        text_config: dict | PreTrainedConfig | None = None,
        *,
        image_token_id: int = 151655,
        min_pixels: int = 4 * 28 * 28,
        max_pixels: int = 16384 * 28 * 28,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        **kwargs,
    ):
        text, vision = _text_config(text_config), vision_config
        if not isinstance(vision, PreTrainedConfig):
            vision = Qwen2_5_VLVisionConfig(**{"out_hidden_size": text.hidden_size, **_without_type(vision)})
        if vision.out_hidden_size != text.hidden_size:
            raise ValueError(
                f"the projector's output width is {vision.out_hidden_size} (vision.out_hidden_size), "
                f"the language model's width is {text.hidden_size} (language.hidden_size)"
            )
        if image_token_id >= text.vocab_size:
            raise ValueError(
                f"image_token_id is {image_token_id}, but the language model embeds {text.vocab_size} tokens"
            )
        self.vision_config: Any = vision
        self.text_config: Any = text
        self.image_token_id = image_token_id
        self.min_pixels = min_pixels
        self.max_pixels = max_pixels
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        kwargs.setdefault("tie_word_embeddings", bool(getattr(text, "tie_word_embeddings", False)))
        experts = getattr(text, "_experts_implementation", None)
        super().__init__(**kwargs)
        text._experts_implementation = experts  # the line above has set it to None in all parts

    def get_text_config(self, *args, **kwargs) -> PreTrainedConfig:
        return self.text_config

    @property
    def pixel_factor(self) -> int:
        """Sides of a picture are multiples of this many pixels: one visual token."""
        return self.vision_config.patch_size * self.vision_config.spatial_merge_size

    @property
    def window_tokens(self) -> int:
        """Side of an attention window of the tower, in visual tokens."""
        return self.vision_config.window_size // self.pixel_factor
