"""The configuration of a MindVL whose parts come from elsewhere, and where their weights are.

    vision="Qwen/Qwen2.5-VL-7B-Instruct"                        the tower of that checkpoint, as it is
    vision={"pretrained": "towers/mine", "window_size": 224}    a folder's, with fields replaced
    vision="random"   or   vision={"depth": 16}                 fresh weights
    language="Qwen/Qwen3-8B"                                    any causal language model of transformers
    start_from="runs/warmup/model"                              a MindVL: all that is not said anew is its own

The widths meet in the projector: its output takes the language model's width, whatever the tower's source had.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mindvl.batch import IMAGE_PAD, VIDEO_PAD, VISION_END, VISION_START
from mindvl.model.config import MindVLConfig
from mindvl.model.towers import tower_kind
from mindvl.model.towers.naflexvit import timm_config
from mindvl.model.weights.accounting import WeightSource
from mindvl.model.weights.checkpoint import read_config
from mindvl.model.weights.locate import folder_of
from mindvl.model.weights.names import Role

TOKEN_FIELDS = {
    "image_token_id": IMAGE_PAD,
    "video_token_id": VIDEO_PAD,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}
"""Tokens by the fields of the configuration that record them; a vocabulary may have to grow by as many."""

PIXEL_FIELDS = (
    *("min_pixels", "max_pixels", "video_min_pixels", "video_max_pixels", "video_total_pixels"),
    *("image_mean", "image_std"),
)

_NOT_FIELDS = {"architectures", "transformers_version", "_name_or_path", "auto_map", "dtype", "torch_dtype"}


@dataclass(frozen=True)
class Part:
    """The tower or the language model as a config names it: its origin, if any, and fields that replace others."""

    role: Role
    pretrained: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    allow_pickle_which_can_run_code: bool = False

    @classmethod
    def of(cls, role: Role, given: str | Path | Mapping[str, Any]) -> Part:
        """From an origin, "random", or a dictionary of fields that may name an origin as `pretrained`."""
        if isinstance(given, str | Path):
            return cls(role, None if given == "random" else str(given))
        fields = dict(given)
        pretrained = None if fields.get("pretrained") is None else str(fields["pretrained"])
        fields.pop("pretrained", None)
        return cls(role, pretrained, fields, bool(fields.pop("allow_pickle_which_can_run_code", False)))

    def weights(self) -> list[WeightSource]:
        """Its checkpoint, or nothing when it starts random."""
        if self.pretrained is None:
            return []
        return [WeightSource(self.pretrained, self.role, self.allow_pickle_which_can_run_code)]

    def config(self) -> dict[str, Any]:
        """Fields of its configuration, the origin's where the config does not replace them.

        ValueError for an origin of a kind that transformers does not know, or that does not play this role.
        """
        if self.pretrained is None:
            return dict(self.fields)
        whole = read_pretrained_config(self.pretrained)
        inner = {"vision": "vision_config", "language": "text_config"}[self.role]
        if self.role == "vision" or whole.model_type == "mindvl":
            whole = getattr(whole, inner, None) or whole
        if self.role == "language":
            _check_causal(self.pretrained, whole)
        found = {name: value for name, value in whole.to_diff_dict().items() if name not in _NOT_FIELDS}
        return {**found, "model_type": whole.model_type, **self.fields}


def read_pretrained_config(origin: str) -> PreTrainedConfig:
    """transformers' configuration of a hub id or folder, or ours of one of timm's; code that it carries is never run.

    ValueError when transformers has no class of its own for it.
    """
    folder = folder_of(origin, weights=False)
    raw = read_config(folder)
    if "model_type" not in raw and "architecture" in raw:
        return timm_config(raw)
    if raw.get("model_type") not in CONFIG_MAPPING:
        own_code = ", and it brings code of its own (auto_map), which is never run here" if "auto_map" in raw else ""
        raise ValueError(f"{origin}: transformers knows no model_type {raw.get('model_type')!r}{own_code}")
    return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def _check_causal(origin: str, config: PreTrainedConfig) -> None:
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(f"{origin} is a {config.model_type}, which transformers has no causal language model for")
    if "mrope_section" in (getattr(config, "rope_parameters", None) or {}):
        raise ValueError(
            f"{origin} is a {config.model_type} with 3-D positions; a MindVL's language model has 1-D ones"
        )


def assembled_config(vision: Part, language: Part, tokenizer: PreTrainedTokenizerBase, **fields: Any) -> MindVLConfig:
    """The configuration of a MindVL of two parts and the tokenizer that joins them; `fields` are MindVLConfig's.

    A language model from elsewhere keeps its special tokens and the size of its vocabulary, unused rows at the end
    included; it grows, to a multiple of 16, when vision tokens were added behind them. A fresh one takes all these
    from the tokenizer. ValueError where tokenizer and vocabulary do not fit.
    """
    vocabulary = tokenizer.get_vocab()
    if IMAGE_PAD not in vocabulary:
        raise ValueError(
            f"tokenizer {tokenizer.name_or_path} has no token {IMAGE_PAD}, which marks a picture's place; "
            "mindvl.data.tokenizer.load_tokenizer adds it"
        )
    tower = vision.config()
    if vision.pretrained is not None:
        width = tower_kind(tower["model_type"]).output_width
        if width not in vision.fields:
            del tower[width]
    return MindVLConfig(
        vision_config=tower,
        text_config=_text_fields(language, tokenizer),
        **{name: vocabulary.get(token) for name, token in TOKEN_FIELDS.items()},
        **{**normalisation(vision), **fields},
    )


def _text_fields(language: Part, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Fields of the language model, with a vocabulary that holds the tokenizer's."""
    num_tokens, padded = len(tokenizer), -(-len(tokenizer) // 16) * 16
    found = language.config()
    if language.pretrained is None:
        ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        found = {"vocab_size": padded, **ends, **found}
        rows = 0
    else:
        rows = Part(language.role, language.pretrained).config()["vocab_size"]
        if num_tokens > rows + len(TOKEN_FIELDS):
            raise ValueError(
                f"tokenizer {tokenizer.name_or_path} has {num_tokens} tokens, the language model {language.pretrained} "
                f"embeds {rows}: they do not belong together"
            )
        if "vocab_size" not in language.fields:
            found["vocab_size"] = rows if num_tokens <= rows else padded
    if found["vocab_size"] < max(rows, num_tokens):
        embedded = f" and the language model embeds {rows}" if rows else ""
        raise ValueError(
            f"model.language.vocab_size is {found['vocab_size']}, but tokenizer {tokenizer.name_or_path} "
            f"has {num_tokens} tokens{embedded}"
        )
    return found


def saved_config(origin: str | Path) -> MindVLConfig | None:
    """The configuration of a saved MindVL; None for a model of another kind. ValueError where it contradicts itself."""
    folder = folder_of(origin, weights=False)
    if read_config(folder).get("model_type") != MindVLConfig.model_type:
        return None
    try:
        return MindVLConfig.from_pretrained(folder)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ValueError(f"{folder / 'config.json'}: {' '.join(str(error).split())}") from error


def require_saved(folder: Path) -> MindVLConfig:
    """The configuration of a saved MindVL. ValueError for a model of another kind, which it names."""
    config = saved_config(folder)
    if config is None:
        kind = read_config(folder).get("model_type")
        raise ValueError(f"{folder} holds a model of type {kind}, not {MindVLConfig.model_type}")
    return config


def continued(saved: MindVLConfig, *parts: Part) -> tuple[tuple[Part, ...], dict[str, Any]]:
    """The parts of a saved MindVL, with the fields that `parts` say anew, and its pixel budget and normalisation.

    Fields that change a shape are refused later, by the weights. ValueError for a part of another `model_type`.
    """
    over = []
    for part in parts:
        its = saved.vision_config if part.role == "vision" else saved.text_config
        kind = _kind_of(part) or its.model_type
        if kind != its.model_type:
            raise ValueError(f"model.{part.role} is a {kind}, but that of model.start_from is a {its.model_type}")
        own = {name: value for name, value in its.to_diff_dict().items() if name not in _NOT_FIELDS}
        if part.role == "vision":
            own.pop(tower_kind(kind).output_width, None)  # follows the language model's
        if "num_hidden_layers" in part.fields:
            own.pop("layer_types", None)  # a list as long as that number
        over.append(Part(part.role, fields={**own, "model_type": kind, **part.fields}))
    return tuple(over), {name: getattr(saved, name) for name in PIXEL_FIELDS}


def _kind_of(part: Part) -> str | None:
    """The `model_type` that a part names, itself or by its origin; None where it leaves that open."""
    with suppress(ValueError):  # the origin is not needed and may be out of reach: weights come from elsewhere
        return (part.fields if part.pretrained is None else part.config()).get("model_type")
    return None


def normalisation(part: Part) -> dict[str, list[float]]:
    """`image_mean` and `image_std` that a pretrained tower was trained with, where its folder says them."""
    if part.pretrained is None:
        return {}
    folder = folder_of(part.pretrained, weights=False)
    path = folder / "preprocessor_config.json"
    said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else read_config(folder)
    timm = said.get("pretrained_cfg") or {}
    said = {"image_mean": timm.get("mean"), "image_std": timm.get("std"), **said}
    return {name: said[name] for name in ("image_mean", "image_std") if said.get(name) is not None}


def has_tokenizer(origin: str) -> bool:
    """Whether a hub id or folder brings a tokenizer of its own."""
    folder = folder_of(origin, weights=False)
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))


def check_token_ids(config: MindVLConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer under which a model's placeholders would be other tokens. ValueError with both numbers."""
    for name, token in TOKEN_FIELDS.items():
        said, found = getattr(config, name), tokenizer.convert_tokens_to_ids(token)
        if said is not None and said != found:
            raise ValueError(
                f"the model's {name} is {said}, but tokenizer {tokenizer.name_or_path} has {token} as {found}"
            )
