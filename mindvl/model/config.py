"""The description of a MindVL model: a vision tower, a causal language model, and the token that joins them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from mindvl.model.towers import vision_config as tower_config
from mindvl.model.vision import WHOLE_PICTURE

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def _without_type(values: dict | None) -> dict[str, Any]:
    return {key: value for key, value in (values or {}).items() if key != "model_type"}


def _text_config(given: dict | PreTrainedConfig | None) -> PreTrainedConfig:
    if isinstance(given, PreTrainedConfig):
        return given
    return AutoConfig.for_model((given or {}).get("model_type", "qwen3"), **_without_type(given))


class MindVLConfig(PreTrainedConfig):
    """Sizes of every part, the placeholder tokens of pictures and videos, and the pixel budget of training.

    `vision_config` and `text_config` take a configuration object or a dictionary that names its `model_type`: one of
    `mindvl.model.towers` (Qwen2.5-VL's if none), and any causal language model of transformers (Qwen3 if none).
    `min_pixels` and `max_pixels` bound height x width after resizing, in pixels; the bounds of a video's frames are
    their own, as `mindvl.data.pixels` says. Without a `video_token_id` the model reads pictures only.
    """

    model_type = "mindvl"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}  # noqa: RUF012

    def __init__(
        self,
        vision_config: dict | PreTrainedConfig | None = None,
        text_config: dict | PreTrainedConfig | None = None,
        *,
        image_token_id: int = 151655,
        video_token_id: int | None = None,
        vision_start_token_id: int | None = None,
        vision_end_token_id: int | None = None,
        min_pixels: int = 4 * 28 * 28,
        max_pixels: int = 16384 * 28 * 28,
        video_min_pixels: int = 128 * 28 * 28,
        video_max_pixels: int = 768 * 28 * 28,
        video_total_pixels: int = 115_200 * 28 * 28,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        **kwargs,
    ):
        text = _text_config(text_config)
        vision = tower_config(vision_config, width=text.hidden_size)
        tokens = {
            "image_token_id": image_token_id,
            "video_token_id": video_token_id,
            "vision_start_token_id": vision_start_token_id,
            "vision_end_token_id": vision_end_token_id,
        }
        for name, token in tokens.items():
            if token is not None and token >= text.vocab_size:
                raise ValueError(f"{name} is {token}, but the language model embeds {text.vocab_size} tokens")
        self.vision_config: Any = vision
        self.text_config: Any = text
        self.image_token_id = image_token_id
        self.video_token_id = video_token_id
        self.vision_start_token_id = vision_start_token_id
        self.vision_end_token_id = vision_end_token_id
        self.min_pixels = min_pixels
        self.max_pixels = max_pixels
        self.video_min_pixels = video_min_pixels
        self.video_max_pixels = video_max_pixels
        self.video_total_pixels = video_total_pixels
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
        """Side of an attention window of the tower, in visual tokens; larger than any picture where it has none."""
        window_pixels = getattr(self.vision_config, "window_size", None)
        return WHOLE_PICTURE if window_pixels is None else window_pixels // self.pixel_factor
