"""The classes of transformers that hold a MindVL without a line of custom code, and their names for its tensors.

    class                               mindvl                 to
    EXAONE-4.5 (hf)                     vision.*               model.visual.*
                                        language_model.model.* model.language_model.*
                                        language_model.lm_head lm_head
    HyperCLOVAX-Vision-V2               vision.*               model.vision_model.*
        (hf-hyperclovax, vllm)          -                      a linear layer, made the identity here
                                        language_model.*       model.language_model.*, as each of the two readers wants

Both build any causal language model of transformers and have 1-D positions. Their tower is Qwen2.5-VL's, with the
merger that MindVL trains as its projector: RMSNorm and two linear layers. EXAONE's has grouped heads, of which Qwen's
is the case with as many key heads as heads. HyperCLOVAX multiplies the logits by `logits_scaling`, which is 1 here.

vLLM reads HyperCLOVAX-Vision-V2 under the names of its first release: the projector is `mm_projector`, and the
language model keeps its inner `model`. transformers opens such a folder too, once it is told `VLLM_KEYS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig

from mindvl.model.config import MindVLConfig
from mindvl.model.export.tensors import Given, Run, Written

TARGETS = {
    "hf": "transformers' EXAONE-4.5 class",
    "hf-hyperclovax": "transformers' HyperCLOVAX-Vision-V2 class",
    "vllm": "HyperCLOVAX-Vision-V2 under the names that vLLM reads",
    "split": "the tower with its projector, and the language model, a folder each",
}
"""What `--to` takes."""

VLLM_KEYS = {r"^model\.mm_projector": "model.projector"}
"""`key_mapping` with which transformers opens a folder that was written for vLLM."""

NO_VIDEO = -1
"""Stands for the video token of a model that has none: no token has this number."""


def has_stock_tower(config: MindVLConfig) -> bool:
    """Whether the tower is the one that the stock classes have."""
    return config.vision_config.model_type in ("qwen2_5_vl", "qwen2_5_vl_vision")


def check_tower(config: MindVLConfig, to: str) -> None:
    """ValueError when no stock class holds the model's tower; `split` takes any."""
    if to != "split" and not has_stock_tower(config):
        raise ValueError(
            f"the vision tower is {config.vision_config.model_type}, but {TARGETS[to]} holds Qwen2.5-VL's alone; "
            "--to split writes tower and language model apart"
        )


def stock_config(config: MindVLConfig, to: str, *, dtype: torch.dtype, video_token_id: int | None) -> PreTrainedConfig:
    """The configuration of the stock class for a MindVL of the given dtype."""
    from transformers import Exaone4_5_Config, HyperCLOVAXVisionV2Config

    tokens = {
        "image_token_id": config.image_token_id,
        "video_token_id": NO_VIDEO if video_token_id is None else video_token_id,
    }
    text = plain_dict(config.text_config)
    tied = bool(text.get("tie_word_embeddings", False))
    vision = plain_dict(config.vision_config)
    stock: PreTrainedConfig
    if to == "hf":
        vision = {key: value for key, value in vision.items() if key not in ("model_type", "tokens_per_second")}
        stock = Exaone4_5_Config(
            text_config=text,
            vision_config={**vision, "num_key_value_heads": config.vision_config.num_heads},
            tie_word_embeddings=tied,
            **tokens,
        )
        stock.architectures = ["Exaone4_5_ForConditionalGeneration"]
    else:
        stock = HyperCLOVAXVisionV2Config(
            text_config={**text, "logits_scaling": 1.0},
            vision_config={**vision, "model_type": "qwen2_5_vl_vision"},
            tie_word_embeddings=tied,
            **tokens,
        )
        name = "HCXVisionV2ForCausalLM" if to == "vllm" else "HyperCLOVAXVisionV2ForConditionalGeneration"
        stock.architectures = [name]
    for part in (stock, stock.text_config, stock.vision_config):
        part.dtype = dtype
    return stock


def plain_dict(config: PreTrainedConfig) -> dict[str, Any]:
    """A part's configuration, less what transformers notes of the place that it came from."""
    return {
        key: value
        for key, value in config.to_diff_dict().items()
        if key not in ("transformers_version", "architectures", "dtype", "_name_or_path")
    } | {"model_type": config.model_type}


def stock_tensors(runs: Mapping[str, Run], config: MindVLConfig, to: str) -> dict[str, Written]:
    """What the stock class's files hold. `runs` has MindVL's names in the hub's layout."""
    body = body_prefix(config.text_config)
    if to == "hf":
        places = {
            "vision.": "model.visual.",
            f"language_model.{body}.": "model.language_model.",
            "language_model.": "",
        }
        return dict(_renamed(runs, places))
    language = {"language_model.": "model.language_model."}
    if to == "hf-hyperclovax":
        language = {f"language_model.{body}.": "model.language_model.", **language}
    named: dict[str, Written] = dict(_renamed(runs, {"vision.": "model.vision_model.", **language}))
    width, dtype = config.text_config.hidden_size, next(iter(runs.values())).dtype
    projector = "model.mm_projector" if to == "vllm" else "model.vision_projector"
    named[f"{projector}.weight"] = Given(torch.eye(width, dtype=dtype))
    named[f"{projector}.bias"] = Given(torch.zeros(width, dtype=dtype))
    return named


def split_tensors(runs: Mapping[str, Run]) -> tuple[dict[str, Run], dict[str, Run]]:
    """The tower with its projector, and the language model, each under its own class's names."""
    vision = {name: run for name, run in runs.items() if name.startswith("vision.")}
    language = {name: run for name, run in runs.items() if name not in vision}
    return _renamed(vision, {"vision.": ""}), _renamed(language, {"language_model.": ""})


def _renamed(runs: Mapping[str, Run], places: Mapping[str, str]) -> dict[str, Run]:
    """Each name with the first prefix that it has put in place of the other."""
    named = {}
    for name, run in runs.items():
        prefix = next(prefix for prefix in places if name.startswith(prefix))
        named[places[prefix] + name.removeprefix(prefix)] = run
    return named


def body_prefix(text_config: PreTrainedConfig) -> str:
    """What a causal language model calls all of itself but the output head: "model" in most families."""
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(text_config)].base_model_prefix
