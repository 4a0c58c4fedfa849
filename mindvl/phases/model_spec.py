"""What a config file says about a model, and the model that comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
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
            that is pretrained, else that of `start_from`, else "bytes".
        vision: hub id or folder of a Qwen2.5-VL checkpoint or of a bare tower, or fields of a tower's configuration;
            `pretrained` among the fields names the origin, and the others replace its own.
        language: hub id or folder of any transformers causal language model with 1-D positions, or its `model_type`
            and fields; `pretrained` as for vision. Name the origin as `pretrained` where a dotted key shall change a
            field beside it: on top of a string, the key leaves that field alone.
        min_pixels: area below which a picture is enlarged; 3,136 by default.
        max_pixels: area above which a picture is shrunk; 1,003,520 by default.
        video_min_pixels: area below which a video's frames are enlarged; 100,352 by default.
        video_max_pixels: area above which a video's frames are shrunk; 602,112 by default.
        video_total_pixels: half the area that all frames of a video share; many frames are shrunk to it. 90,316,800 by
            default.
        image_mean: subtracted from each channel (of 0..1); the tower's own by default, or CLIP's, as in Qwen2.5-VL.
        image_std: divides each channel.
        start_from: folder of a saved MindVL whose weights are taken. Everything that the fields above leave open is its
            own then, sizes, pixel budget and normalisation; alone it is a whole spec.
        lora: adapters that train in place of the layers they stand beside; all weights when left out.
        operators: entries of the operator table that must be used (`mindvl ops` lists them), as packed_attention:
            per_segment; the best that this device has when left out.
    """

    tokenizer: str = "auto"
    vision: str | dict[str, Any] = field(default_factory=dict)
    language: str | dict[str, Any] = field(default_factory=dict)
    min_pixels: int | None = None
    max_pixels: int | None = None
    video_min_pixels: int | None = None
    video_max_pixels: int | None = None
    video_total_pixels: int | None = None
    image_mean: list[float] | None = None
    image_std: list[float] | None = None
    start_from: str | None = None
    lora: Lora | None = None
    operators: dict[str, str] | None = None

    def __post_init__(self) -> None:
        if self.tokenizer == "auto":
            language = self.language if isinstance(self.language, str) else self.language.get("pretrained")
            self.tokenizer = language if language not in (None, "random") else self._saved_tokenizer()

    def _saved_tokenizer(self) -> str:
        if self.start_from is None:
            return "bytes"
        folder = Path(self.start_from).expanduser()
        return "bytes" if folder.is_dir() and not (folder / "tokenizer_config.json").is_file() else self.start_from

    def parts(self) -> tuple[Part, Part]:
        """Tower and language model, as `mindvl.model.weights.assembly` reads them."""
        from mindvl.model.weights.assembly import Part

        return Part.of("vision", self.vision), Part.of("language", self.language)


_BUDGET = {"min_pixels": 4 * 28 * 28, "max_pixels": 1280 * 28 * 28}
"""Of a fresh model; MindVLConfig has the rest."""


def config_of(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase) -> MindVLConfig:
    """The transformers configuration of a spec. Raises ValueError where tokenizer and embedding do not fit."""
    from transformers import AutoTokenizer

    from mindvl.data.tokenizer import check_same_vocabulary
    from mindvl.model.weights.assembly import PIXEL_FIELDS, assembled_config, has_tokenizer

    vision, language = spec.parts()
    if language.pretrained not in (None, spec.tokenizer) and has_tokenizer(language.pretrained):
        own = AutoTokenizer.from_pretrained(language.pretrained, trust_remote_code=False)  # it may lack a chat template
        check_same_vocabulary(tokenizer, own)
    said = {name: value for name in PIXEL_FIELDS if (value := getattr(spec, name)) is not None}
    (vision, language), kept = parts_of(spec)
    return assembled_config(vision, language, tokenizer, **{**kept, **said})


def parts_of(spec: ModelSpec) -> tuple[tuple[Part, ...], dict[str, Any]]:
    """Tower and language model, laid over those of `start_from`, with that model's pixel budget, or a fresh one's."""
    from mindvl.model.weights.assembly import continued, saved_config

    saved = None if spec.start_from is None else saved_config(spec.start_from)
    return (spec.parts(), _BUDGET) if saved is None else continued(saved, *spec.parts())


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
