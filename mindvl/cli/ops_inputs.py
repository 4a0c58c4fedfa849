"""What `mindvl ops compare` runs: a model, a pack, and two backends as the command line writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import yaml

from mindvl.batch import ImageGrid, PackedBatch
from mindvl.data.pack import pack_samples
from mindvl.data.sample import EncodedSample
from mindvl.device import device_of
from mindvl.model.config import MindVLConfig
from mindvl.model.mindvl import MindVL
from mindvl.ops.table import parse_choices

_WORDS = 512
_VISION = {
    "depth": 3,
    "hidden_size": 64,
    "num_heads": 4,
    "intermediate_size": 96,
    "fullatt_block_indexes": [1],
    "window_size": 56,
}
_LANGUAGE = {
    "model_type": "qwen3_moe",
    "vocab_size": _WORDS,
    "num_hidden_layers": 3,
    "mlp_only_layers": [0],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
}
"""Every operator of the table has its place: a dense layer, two of experts, windows and whole pictures."""
_GRIDS = (ImageGrid(1, 8, 12), ImageGrid(1, 6, 4), ImageGrid(1, 4, 4))
_TEXT_TOKENS = (40, 9, 25, 120)
"""Of four documents, the last of which has no picture."""


def split_backend(text: str, device: str) -> tuple[dict[str, str], str]:
    """`rms_norm=liger@cuda` -> forced entries and device; without @, that of `device` ("auto": what is here)."""
    choices, _, own = text.partition("@")
    wanted, here = device_of(own or device), device_of("auto")
    if wanted not in ("cpu", here):
        raise ValueError(f"{text}: there is no {wanted} device here, only {here}")
    return parse_choices(choices), wanted


def model_to_compare(path: Path | None, *, seed: int) -> MindVL:
    """A saved model, the model of a config with random weights, or a tiny one whose every part shows in the loss."""
    torch.manual_seed(seed)
    if path is None:
        model = MindVL(MindVLConfig(_VISION, _LANGUAGE, image_token_id=_WORDS - 1))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.normal_(std=parameter[0].numel() ** -0.5)
        return model
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(f"{path} is no saved model: it has no config.json")
        return MindVL.from_pretrained(path, dtype=torch.float32)
    if not path.is_file():
        raise ValueError(f"--model is {path}, where there is neither a folder of a model nor a config")
    from mindvl.data.tokenizer import load_tokenizer
    from mindvl.phases.model_spec import ModelSpec, build_model, config_of

    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["init_args"]["model"]
    except (TypeError, KeyError, yaml.YAMLError):
        raise ValueError(f"{path} is no config of `mindvl fit`: it has no model.init_args.model") from None
    spec = ModelSpec(**{**fields, "lora": None})
    return build_model(spec, config_of(spec, load_tokenizer(spec.tokenizer)))


def example_pack(config: MindVLConfig, *, picture: Path | None, seed: int) -> PackedBatch:
    """Four documents of random words, three with a picture at the head; all words are supervised."""
    random = np.random.default_rng(seed)
    merge = config.vision_config.spatial_merge_size
    grids = [ImageGrid(grid.frames, grid.height // 2 * merge, grid.width // 2 * merge) for grid in _GRIDS]
    patch = config.vision_config.patch_size
    pixels = config.vision_config.in_channels * patch * patch
    noise = [random.integers(0, 256, (grid.patches, pixels), dtype=np.uint8) for grid in grids]
    if picture is not None:
        noise[0], grids[0] = _cut(picture, config)
    samples = []
    for number, text_tokens in enumerate(_TEXT_TOKENS):
        mine = slice(number, number + 1)
        visual = sum(grid.merged(merge) for grid in grids[mine])
        words = random.integers(0, min(_WORDS, config.image_token_id) - 1, text_tokens)
        ids = np.concatenate([np.full(visual, config.image_token_id, np.int64), words])
        targets = np.full(len(ids), -1, np.int64)
        targets[max(visual - 1, 0) : -1] = ids[max(visual, 1) :]
        patches = np.concatenate(noise[mine]) if noise[mine] else np.zeros((0, pixels), np.uint8)
        samples.append(EncodedSample(str(number), "noise", ids, targets, np.arange(visual), patches, grids[mine]))
    budget = sum(len(sample.input_ids) for sample in samples)
    return pack_samples(samples, token_budget=budget, merge=merge, window_tokens=config.window_tokens)


def _cut(picture: Path, config: MindVLConfig) -> tuple[np.ndarray, ImageGrid]:
    from mindvl.data.sample import PixelBudget, cut_visuals

    if not picture.is_file():
        raise ValueError(f"picture {picture} is not a file")
    vision = config.vision_config
    budget = PixelBudget(config.min_pixels, config.max_pixels, patch=vision.patch_size, merge=vision.spatial_merge_size)
    patches, (grid,) = cut_visuals([picture.read_bytes()], budget, None)
    return patches, grid
