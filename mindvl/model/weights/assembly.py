"""The configuration of a MindVL whose parts come from elsewhere, and where their weights are.

    vision="Qwen/Qwen2.5-VL-7B-Instruct"                        the tower of that checkpoint, as it is
    vision={"pretrained": "towers/mine", "window_size": 224}    a folder's, with fields replaced
    vision="random"   or   vision={"depth": 16}                 fresh weights
    language="Qwen/Qwen3-8B"                                    any causal language model of transformers

The widths meet in the projector: its output takes the language model's width, whatever the tower's source had.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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

_NOT_FIELDS = {"architectures", "transformers_version", "_name_or_path", "auto_map", "dtype", "torch_dtype"}


@dataclass(frozen=True)
class Part:
    """The tower or the language model as a config names it: its origin, if any, and fields that replace others."""

    role: Role
    pretrained: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    allow_pickle_which_can_run_code: bool = False

    @classmethod
    def of(cls, role: Role, given: str | Mapping[str, Any]) -> Part:
        """From a string (an origin, or "random") or a dictionary of fields that may name an origin as `pretrained`."""
        if isinstance(given, str):
            return cls(role, None if given == "random" else given)
        fields = dict(given)
        pretrained = fields.pop("pretrained", None)
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
        raise ValueError(f"tokenizer {tokenizer.name_or_path} has no token {IMAGE_PAD}, which marks a picture's place")
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
