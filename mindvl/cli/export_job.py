"""One export from end to end: open, plan, write beside, open again and compare, rename."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mindvl_callbacks.averaging_target import new_folder
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from mindvl.cli.export_history import history
from mindvl.cli.export_source import Source, open_source
from mindvl.cli.export_writing import Shards, write_shards
from mindvl.model.config import MindVLConfig
from mindvl.model.export.card import Facts, card
from mindvl.model.export.classes import (
    check_tower,
    has_stock_tower,
    split_tensors,
    stock_config,
    stock_tensors,
)
from mindvl.model.export.processor import (
    processor_class,
    write_generation_config,
    write_image_processor,
    write_processor,
    write_tokenizer,
)
from mindvl.model.export.tensors import Run, Written, runs_of_model
from mindvl.model.export.verifying import (
    Probe,
    Verified,
    filled_model,
    mindvl_logits,
    pixel_values,
    processed,
    verify_split,
    verify_whole,
)
from mindvl.model.mindvl import MindVL
from mindvl.model.parts import part_of

PROBE_PIXELS = 64 * 28 * 28
"""The probe's picture is about as large, or the largest that the model's budget allows."""


Tables = tuple[Mapping[str, Written], ...]
"""Tensors by name, of one folder or of the two of a split."""


@dataclass(frozen=True)
class Exported:
    """What an export came to."""

    size_bytes: int
    num_files: int
    verified: Verified | None
    not_finite: tuple[str, ...]


def export(
    checkpoint: Path,
    out: Path,
    *,
    to: str = "hf",
    config: Path | None = None,
    videos: bool = False,
    max_shard_bytes: int = 5_000_000_000,
    overwrite: bool = False,
    verify: bool = True,
) -> Exported:
    """Write a checkpoint of a MindVL as a folder of stock classes; it appears whole and compared, or not at all.

    Args:
        checkpoint: folder of a saved model, Lightning's `.ckpt` file or sharded directory.
        out: the folder.
        to: one of `mindvl.model.export.classes.TARGETS`.
        config: a run's YAML file or a saved model's folder, where the checkpoint has no config of its own.
        videos: name a processor class that takes videos.
        max_shard_bytes: weights are split into files of at most this size, or one tensor.
        overwrite: replace `out` when it is an export or a saved model.
        verify: open the result and compare it with the checkpoint.

    Raises:
        ValueError: about the checkpoint, its config, `out` or the disk, or when the result is not the same model.
    """
    check_out(out, overwrite=overwrite)
    source = open_source(checkpoint, config=config)
    check_tower(source.config, to)
    _check_apart(out, source)
    with torch.device("meta"):
        bare = MindVL(source.config)
    runs = runs_of_model(source.weights, bare.state_dict(), bare.all_tied_weights_keys)
    needs_bytes = sum(run.num_bytes for run in runs.values())
    with new_folder(out, needs_bytes=needs_bytes) as folder:
        write = _write_split if to == "split" else _write_whole
        shards, written = write(folder, source, runs, to, videos, max_shard_bytes)
        found = _verify(folder, to, source, runs, written) if verify else None
        facts = Facts(
            checkpoint=str(checkpoint),
            to=to,
            config=source.config,
            dtype=_word(_main_dtype(runs)),
            parameters=_parameters(runs),
            processor=None if to == "split" else processor_class(to, videos=videos),
            verified=found,
            not_finite=shards.not_finite,
            stages=history(checkpoint),
        )
        (folder / "README.md").write_text(card(facts), encoding="utf-8")
    return Exported(sum(shards.sizes_bytes.values()), len(shards.sizes_bytes), found, shards.not_finite)


def check_out(out: Path, *, overwrite: bool) -> None:
    """ValueError when `out` exists and may not be replaced."""
    if not (out.exists() or out.is_symlink()):
        return
    known = [out / "config.json", out / "language" / "config.json"]
    if out.is_symlink() or not any(file.is_file() for file in known):
        raise ValueError(f"{out} exists and is no export; it would be lost, choose another folder")
    if not overwrite:
        raise ValueError(f"{out} exists; choose another folder, or replace it on purpose (--overwrite)")


def _check_apart(out: Path, source: Source) -> None:
    for file in source.files:
        if out.resolve() in (file.resolve(), *file.resolve().parents):
            raise ValueError(f"{out} would replace {file}, which it is made of; choose another folder")


def _write_whole(
    folder: Path, source: Source, runs: Mapping[str, Run], to: str, videos: bool, max_shard_bytes: int
) -> tuple[Shards, Tables]:
    config, tokenizer = source.config, source.tokenizer
    written = stock_tensors(runs, config, to)
    shards = write_shards(folder, written, source.weights, max_shard_bytes=max_shard_bytes)
    dtype, video_token_id = _main_dtype(runs), _video_token_id(config, tokenizer)
    stock_config(config, to, dtype=dtype, video_token_id=video_token_id).save_pretrained(folder)
    write_generation_config(folder, config, tokenizer)
    write_processor(folder, config, tokenizer, processor_class(to, videos=videos))
    return shards, (written,)


def _write_split(
    folder: Path, source: Source, runs: Mapping[str, Run], to: str, videos: bool, max_shard_bytes: int
) -> tuple[Shards, Tables]:
    config, tokenizer = source.config, source.tokenizer
    written = split_tensors(runs)
    sizes_bytes: dict[str, int] = {}
    not_finite: tuple[str, ...] = ()
    for part, tensors in zip(("vision", "language"), written, strict=True):
        shards = write_shards(folder / part, tensors, source.weights, max_shard_bytes=max_shard_bytes)
        sizes_bytes |= {f"{part}/{file}": size for file, size in shards.sizes_bytes.items()}
        not_finite += tuple(f"{part}: {name}" for name in shards.not_finite)
    _save_config(folder / "vision", config.vision_config, _main_dtype(written[0]))
    write_image_processor(folder / "vision", config)
    _save_config(folder / "language", config.text_config, _main_dtype(written[1]))
    write_generation_config(folder / "language", config, tokenizer)
    write_tokenizer(folder / "language", tokenizer)
    return Shards(sizes_bytes, not_finite), written


def _save_config(folder: Path, config: PreTrainedConfig, dtype: torch.dtype) -> None:
    """A part's own configuration, with the class that opens it."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

    config = copy.deepcopy(config)
    config.dtype = dtype
    mapping = MODEL_FOR_CAUSAL_LM_MAPPING if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else MODEL_MAPPING
    if type(config) in mapping:
        config.architectures = [mapping[type(config)].__name__]
    config.save_pretrained(folder)


def _verify(folder: Path, to: str, source: Source, runs: Mapping[str, Run], written: Tables) -> Verified:
    asked = probe(source.config, source.tokenizer)
    pixels = None
    if to != "split":
        pixels = processed(folder, asked)[0]["pixel_values"]
    elif has_stock_tower(source.config):
        pixels = pixel_values(asked.patches, source.config)
    model = filled_model(source.weights, runs, source.config)
    ours = mindvl_logits(model, asked, pixels)
    del model  # before its twin is opened
    if to == "split":
        folders = (folder / "vision", folder / "language")
        return verify_split(folders, source.config, asked, ours, written, source.weights)
    return verify_whole(folder, to, asked, ours, written[0], source.weights)


def probe(config: MindVLConfig, tokenizer: PreTrainedTokenizerBase) -> Probe:
    """A picture of noise with a question, encoded as training encodes it."""
    from PIL import Image

    from mindvl.data.chat import ChatEncoder
    from mindvl.data.images import patchify
    from mindvl.data.sample import widen_placeholders

    vision, encoder = config.vision_config, ChatEncoder(tokenizer)
    side = int(min(PROBE_PIXELS, config.max_pixels) ** 0.5)
    pixels = np.random.default_rng(0).integers(0, 256, (side, side * 3 // 4, 3), np.uint8)
    picture = Image.fromarray(pixels)
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "What is in the picture? Read it out."}]
    messages = [{"role": "user", "content": content}]
    patches, grid = patchify(
        picture,
        patch=vision.patch_size,
        merge=vision.spatial_merge_size,
        min_pixels=config.min_pixels,
        max_pixels=config.max_pixels,
    )
    ids = np.asarray(encoder.encode(messages, generation_prompt=True).input_ids)
    merged = [grid.merged(vision.spatial_merge_size)]
    ids, _, _ = widen_placeholders(ids, np.zeros(len(ids), bool), merged, encoder.image_token_id)
    return Probe(
        messages=messages,
        input_ids=torch.from_numpy(ids.astype(np.int64))[None],
        patches=torch.from_numpy(patches),
        grid=torch.tensor([[grid.frames, grid.height, grid.width]]),
    )


def _video_token_id(config: MindVLConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The model's own, or the tokenizer's by the name that Qwen gives it."""
    known = getattr(config, "video_token_id", None)
    return tokenizer.get_vocab().get("<|video_pad|>") if known is None else known


def _main_dtype(runs: Mapping[str, Run]) -> torch.dtype:
    """The dtype of most bytes: a router's fp32 bias does not make a bf16 model fp32."""
    sizes: Counter[torch.dtype] = Counter()
    for run in runs.values():
        sizes[run.dtype] += run.num_bytes
    return sizes.most_common(1)[0][0]


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _parameters(runs: Mapping[str, Run]) -> dict[str, int]:
    """Numbers of parameters by part; a tied output head counts once."""
    numbers = {"vision": 0, "projector": 0, "language": 0}
    for name, run in runs.items():
        numbers[part_of(name)] += run.num_elements
    return numbers
