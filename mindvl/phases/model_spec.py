"""What a config file says about a model, and the model that comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mindvl.model.lora import Lora, draw_adapters, with_adapters

if TYPE_CHECKING:  # transformers takes a second to import; `mindvl fit --help` does without
    from transformers import PreTrainedTokenizerBase

    from mindvl.model.config import MindVLConfig
    from mindvl.model.mindvl import MindVL
    from mindvl.model.weights.accounting import WeightSource
    from mindvl.model.weights.assembly import Part


@dataclass
class ModelSpec:
    """Sizes of a MindVL and where its weights come from.

    Args:
        tokenizer: hub id or folder, or "bytes" for the small byte-level one; "auto" is the language model's own where
            that is pretrained, else "bytes".
        vision: hub id or folder of a Qwen2.5-VL checkpoint or of a bare tower, or fields of a tower's configuration;
            `pretrained` among the fields names the origin, and the others replace its own.
        language: hub id or folder of any transformers causal language model with 1-D positions, or its `model_type`
            and fields; `pretrained` as for vision. Name the origin as `pretrained` where a dotted key shall change a
            field beside it: on top of a string, the key leaves that field alone.
        min_pixels: area below which a picture is enlarged.
        max_pixels: area above which a picture is shrunk.
        video_min_pixels: area below which a video's frames are enlarged.
        video_max_pixels: area above which a video's frames are shrunk.
        video_total_pixels: half the area that all frames of a video share; many frames are shrunk to it.
        image_mean: subtracted from each channel (of 0..1); the tower's own by default, or CLIP's, as in Qwen2.5-VL.
        image_std: divides each channel.
        start_from: folder of a saved MindVL whose weights are taken; its sizes must be the ones given here.
        lora: adapters that train in place of the layers they stand beside; all weights when left out.
        operators: entries of the operator table that must be used (`mindvl ops` lists them), as packed_attention:
            per_segment; the best that this device has when left out.
    """

    tokenizer: str = "auto"
    vision: str | dict[str, Any] = field(default_factory=dict)
    language: str | dict[str, Any] = field(default_factory=dict)
    min_pixels: int = 4 * 28 * 28
    max_pixels: int = 1280 * 28 * 28
    video_min_pixels: int = 128 * 28 * 28
    video_max_pixels: int = 768 * 28 * 28
    video_total_pixels: int = 115_200 * 28 * 28
    image_mean: list[float] | None = None
    image_std: list[float] | None = None
    start_from: str | None = None
    lora: Lora | None = None
    operators: dict[str, str] | None = None

    def __post_init__(self) -> None:
        if self.tokenizer == "auto":
            language = self.language if isinstance(self.language, str) else self.language.get("pretrained")
            self.tokenizer = "bytes" if language in (None, "random") else language

    def parts(self) -> tuple[Part, Part]:
        """Tower and language model, as `mindvl.model.weights.assembly` reads them."""
        from mindvl.model.weights.assembly import Part

        return Part.of("vision", self.vision), Part.of("language", self.language)


def config_of(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase) -> MindVLConfig:
    """The transformers configuration of a spec. Raises ValueError where tokenizer and embedding do not fit."""
    from transformers import AutoTokenizer

    from mindvl.data.tokenizer import check_same_vocabulary
    from mindvl.model.weights.assembly import assembled_config, has_tokenizer

    vision, language = spec.parts()
    if language.pretrained not in (None, spec.tokenizer) and has_tokenizer(language.pretrained):
        own = AutoTokenizer.from_pretrained(language.pretrained, trust_remote_code=False)  # it may lack a chat template
        check_same_vocabulary(tokenizer, own)
    pixels = {"image_mean": spec.image_mean, "image_std": spec.image_std}
    return assembled_config(
        vision,
        language,
        tokenizer,
        min_pixels=spec.min_pixels,
        max_pixels=spec.max_pixels,
        video_min_pixels=spec.video_min_pixels,
        video_max_pixels=spec.video_max_pixels,
        video_total_pixels=spec.video_total_pixels,
        **{name: value for name, value in pixels.items() if value is not None},
    )


def weight_sources(spec: ModelSpec) -> list[WeightSource]:
    """Checkpoints that a model of this spec is filled from: `start_from`, or else those of its parts."""
    from mindvl.model.weights.accounting import WeightSource

    if spec.start_from is not None:
        return [WeightSource(spec.start_from, "model")]
    return [source for part in spec.parts() for source in part.weights()]


def build_model(spec: ModelSpec, config: MindVLConfig, *, place: Callable[[MindVL], None] | None = None) -> MindVL:
    """A model with the weights that the spec names, after every name and shape has been compared; the rest is drawn.

    `place` may cut the model, adapters included, before it takes memory (`mindvl.model.building`).
    """
    import torch

    from mindvl.model.building import build

    seed = torch.initial_seed()
    if spec.lora is None:
        return build(config, weight_sources(spec), place=place)
    model = build(config, weight_sources(spec), place=with_adapters(spec.lora, then=place))
    draw_adapters(model, seed=seed)
    return model
