"""The files beside the weights that open a model's tokenizer, pictures and chat template in transformers.

Pictures are cut by Qwen2-VL's image processor, whose `size` holds areas in pixels, despite its keys. Which processor
class joins it to the tokenizer is a choice:

    EXAONE-4.5's or HyperCLOVAX-Vision-V2's own    takes pictures and videos, and wants torchvision for the videos
    PaddleOCR-VL's                                 widens placeholders just so, takes pictures alone, wants nothing

The second is told by two lines of the tokenizer's config where the placeholder is and to leave token types out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from mindvl.model.config import MindVLConfig

_BICUBIC = 3
"""Pillow's number."""

_OF_OPENING = ("is_local", "local_files_only", "name_or_path")

WITH_VIDEOS = {"hf": "Exaone4_5_Processor", "hf-hyperclovax": "HyperCLOVAXVisionV2Processor"}
WITH_VIDEOS["vllm"] = WITH_VIDEOS["hf-hyperclovax"]
PICTURES_ALONE = "PaddleOCRVLProcessor"


def processor_class(to: str, *, videos: bool) -> str:
    """Name of the processor class of a target; vLLM's reader of HyperCLOVAX-Vision-V2 asks for videos at its start."""
    return WITH_VIDEOS[to] if videos or to == "vllm" else PICTURES_ALONE


def write_processor(folder: Path, config: MindVLConfig, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Image processor, tokenizer and chat template, as the named processor class reads them."""
    settings: dict[str, Any] = {"processor_class": name}
    _write(folder / "preprocessor_config.json", {**picture_settings(config), **settings})
    if name == PICTURES_ALONE:
        settings["image_token"] = tokenizer.convert_ids_to_tokens(config.image_token_id)
        settings["return_mm_token_type_ids"] = False
    else:
        _write(folder / "video_preprocessor_config.json", {**video_settings(config), **settings})
    write_tokenizer(folder, tokenizer, settings)


def write_tokenizer(
    folder: Path, tokenizer: PreTrainedTokenizerBase, settings: Mapping[str, Any] | None = None
) -> None:
    """Tokenizer and chat template as they are, with further settings; not where the tokenizer was opened from.

    Prompts of a batch are padded on the left, so that each answer follows its prompt at once.
    """
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in saved.items() if key not in _OF_OPENING}
    _write(path, {**kept, "padding_side": "left", **(settings or {})})


def write_image_processor(folder: Path, config: MindVLConfig) -> None:
    """The image processor alone, with the mean and the deviation that a tower was trained with."""
    _write(folder / "preprocessor_config.json", picture_settings(config))


def picture_settings(config: MindVLConfig) -> dict[str, Any]:
    """Qwen2-VL's image processor with the pixel budget, the mean and the deviation of training.

    It makes of a picture what training made of it, but for greyscale of 16 bits: Pillow, which it decodes by, clips all
    above 255 to white, where training keeps the upper byte (`mindvl.data.images`).
    """
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": _BICUBIC,
        "size": {"shortest_edge": config.min_pixels, "longest_edge": config.max_pixels},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(config.image_mean),
        "image_std": list(config.image_std),
        "patch_size": config.vision_config.patch_size,
        "temporal_patch_size": config.vision_config.temporal_patch_size,
        "merge_size": config.vision_config.spatial_merge_size,
    }


def video_settings(config: MindVLConfig) -> dict[str, Any]:
    """The same for videos; a frame's bounds are Qwen2.5-VL's unless the config names others."""
    settings = {key: value for key, value in picture_settings(config).items() if key != "image_processor_type"}
    bounds = {
        "shortest_edge": getattr(config, "video_min_pixels", 128 * 28 * 28),
        "longest_edge": getattr(config, "video_max_pixels", 768 * 28 * 28),
    }
    # Long videos pay with the size of their frames, as in training.
    return {"video_processor_type": "Qwen2VLVideoProcessor", **settings, "size": bounds, "cap_pixels_per_frame": True}


def write_generation_config(folder: Path, config: MindVLConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Greedy decoding that ends where the model's turns end."""
    ends = {tokenizer.eos_token_id, *_as_list(config.text_config.eos_token_id)} - {None}
    GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=sorted(ends),
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(folder)


def _as_list(value: int | list[int] | None) -> list[int | None]:
    return list(value) if isinstance(value, list) else [value]


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
