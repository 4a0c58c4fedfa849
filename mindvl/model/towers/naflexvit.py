"""timm's NaFlexViT: a ViT for pictures of any size and aspect, from the SigLIP 2 and C-RADIO families among others.

timm pads pictures to the longest of a batch and masks what was added. Here its blocks run over one row of patches: all
but attention works patch by patch, attention takes segment lengths, and learned positions are read for all pictures at
once (`mindvl.ops.position_table`). Register and class tokens are put before every picture:

    pictures of 4 and 2 patches, 1 register    r a b c d r e f      segments of 5 and 3

Weights keep timm's names, but for the classifier and pooling, which have no place here. Behind the last block comes a
projector of ours, built like Qwen2.5-VL's: `merger`. timm is imported when a tower is built, never before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLPatchMerger

from mindvl.batch import VisionInputs
from mindvl.model.towers.kind import TowerKind
from mindvl.model.towers.timm_model import create
from mindvl.model.vision import embed_pixels, in_reading_order, packed_config, picture_sizes
from mindvl.ops.attention import packed_attention
from mindvl.ops.position_table import sample_line, sample_table


class NaFlexViTConfig(PreTrainedConfig):
    """A NaFlexViT of timm by name, with the fields of timm's NaFlexVitCfg that differ from it in `timm_args`.

    `patch_size` is in pixels; `temporal_patch_size` is 1: two frames of a video are two pictures.
    """

    model_type = "naflexvit"

    def __init__(
        self,
        timm_model: str = "naflexvit_base_patch16_gap",
        timm_args: dict[str, Any] | None = None,
        *,
        patch_size: int = 16,
        spatial_merge_size: int = 2,
        out_hidden_size: int = 3584,
        in_channels: int = 3,
        initializer_range: float = 0.02,
        **kwargs,
    ):
        self.timm_model = timm_model
        self.timm_args = dict(timm_args or {})
        self.patch_size = patch_size
        self.spatial_merge_size = spatial_merge_size
        self.temporal_patch_size = 1
        self.out_hidden_size = out_hidden_size
        self.in_channels = in_channels
        self.initializer_range = initializer_range
        kwargs.pop("temporal_patch_size", None)
        super().__init__(**kwargs)


class PackedTimmAttention(nn.Module):
    """Attention of a timm block within segments, with the parameters of the one it replaces."""

    def __init__(self, stock: nn.Module):
        super().__init__()
        self.qkv, self.q_norm, self.k_norm, self.norm = stock.qkv, stock.q_norm, stock.k_norm, stock.norm
        self.proj, self.proj_drop = stock.proj, stock.proj_drop
        self.num_heads, self.scale = stock.num_heads, stock.scale

    def forward(self, rows: Tensor, attn_mask: Sequence[int], is_causal: bool = False) -> Tensor:
        """`attn_mask` carries segment lengths, as Python ints (the block passes it through unread)."""
        query, key, value = self.qkv(rows).unflatten(1, (3, self.num_heads, -1)).unbind(1)
        query, key = self.q_norm(query), self.k_norm(key)
        output = packed_attention(query, key, value, attn_mask, causal=False, scale=self.scale)
        return self.proj_drop(self.proj(self.norm(output.flatten(1))))


class NaFlexViTTower(PreTrainedModel):
    """Pictures of any size in one pack -> one feature per visual token, in reading order of merge blocks.

    Rows of a pack are its patches and `num_prefix_tokens` for each frame, so with register tokens a pack of fixed
    shape has as many shapes as it may hold pictures.
    """

    config_class = NaFlexViTConfig
    main_input_name = "inputs"
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules = ["Block"]  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected = [r"^head\.", r"^fc_norm\.", r"^attn_pool\."]  # noqa: RUF012

    def __init__(self, config: NaFlexViTConfig, *, image_mean: Sequence[float], image_std: Sequence[float]):
        super().__init__(packed_config(config))
        stock = create(config.timm_model, config.timm_args, patch=config.patch_size, channels=config.in_channels)
        self.embeds, self.norm_pre, self.blocks, self.norm = stock.embeds, stock.norm_pre, stock.blocks, stock.norm
        self.num_prefix_tokens = stock.num_prefix_tokens
        for block in self.blocks:
            block.attn = PackedTimmAttention(block.attn)
        self.merger = Qwen2_5_VLPatchMerger(config.out_hidden_size, stock.embed_dim, config.spatial_merge_size)
        self.image_mean, self.image_std = tuple(image_mean), tuple(image_std)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Positions, prefix tokens and layer scales as timm draws them; linear layers as transformers' towers do."""
        if type(module).__name__ in ("NaFlexEmbeds", "LayerScale"):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def forward(self, inputs: VisionInputs) -> Float[Tensor, "merged dim"]:
        return in_reading_order(self.merger(self.patch_features(inputs)), inputs, merge=self.config.spatial_merge_size)

    def patch_features(self, inputs: VisionInputs) -> Float[Tensor, "patches dim"]:
        """What timm's `forward_features` gives for each patch: prefix tokens left out, in merge-block order."""
        embeds = self.embeds
        hidden = embeds.norm(self._embed(inputs.patches))
        if embeds.pos_embed_type != "none":
            hidden = hidden + self._learned_positions(inputs).to(hidden.dtype)
        lengths, places = inputs.image_lengths, None
        if self.num_prefix_tokens:
            hidden, places = self._with_prefixes(hidden, lengths)
            lengths = tuple(length + self.num_prefix_tokens for length in lengths)
        hidden = self.norm_pre(embeds.pos_drop(hidden))
        for block in self.blocks:
            hidden = block(hidden, attn_mask=lengths)
        return self.norm(hidden if places is None else hidden.index_select(0, places))

    def _embed(self, patches: Tensor) -> Float[Tensor, "patches dim"]:
        """timm's linear patches are channels last; ours, as a convolution's kernel, channels first."""
        weight, size = self.embeds.proj.weight, self.config.patch_size
        if weight.ndim == 4:
            kernel = weight
        elif self.embeds.channels_last:
            kernel = weight.view(len(weight), size, size, -1).permute(0, 3, 1, 2)
        else:
            kernel = weight.view(len(weight), -1, size, size)
        return embed_pixels(
            patches, kernel[:, :, None], self.embeds.proj.bias, mean=self.image_mean, std=self.image_std
        )

    def _learned_positions(self, inputs: VisionInputs) -> Float[Tensor, "patches dim"]:
        embeds, sizes = self.embeds, picture_sizes(inputs)
        if embeds.pos_embed_ar_preserving:  # a picture sees the top left of a table stretched to its longer side
            sizes = sizes.amax(dim=1, keepdim=True).expand_as(sizes)
        if embeds.pos_embed_type == "factorized":
            rows = sample_line(embeds.pos_embed_y[0], inputs.position_ids[:, 0], sizes[:, 0])
            return rows + sample_line(embeds.pos_embed_x[0], inputs.position_ids[:, 1], sizes[:, 1])
        return sample_table(
            embeds.pos_embed[0],
            inputs.position_ids,
            sizes,
            kernel=embeds.pos_embed_interp_mode,
            align_corners=embeds.pos_embed_align_corners,
            antialias=embeds.pos_embed_antialias,
        )

    def _with_prefixes(self, hidden: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Rows with class and register tokens before every segment, and the row of each patch."""
        count = self.num_prefix_tokens
        segments = np.repeat(np.arange(len(lengths)), lengths)
        places = np.arange(len(segments)) + count * (segments + 1)
        sources = np.tile(np.arange(count), len(lengths))
        rows = np.empty(len(places) + len(sources), np.int64)
        is_patch = np.zeros(len(rows), bool)
        is_patch[places] = True
        rows[is_patch], rows[~is_patch] = count + np.arange(len(places)), sources
        prefixes = [token[0] for token in (self.embeds.cls_token, self.embeds.reg_token) if token is not None]
        all_rows = torch.cat([*(token.to(hidden.dtype) for token in prefixes), hidden])
        on_device = [torch.from_numpy(index).to(hidden.device, non_blocking=True) for index in (rows, places)]
        return all_rows.index_select(0, on_device[0]), on_device[1]


def timm_config(saved: dict[str, Any]) -> NaFlexViTConfig:
    """The configuration of a folder that timm has saved, from its config.json; it has no `model_type`.

    {"architecture": "naflexvit_base_patch16_gap", "model_args": {...}, "pretrained_cfg": {"mean": [...], ...}}
    """
    args = dict(saved.get("model_args") or {})
    patch = {"patch_size": args.pop("patch_size")} if "patch_size" in args else {}
    return NaFlexViTConfig(saved["architecture"], args, **patch)


KIND = TowerKind(NaFlexViTConfig, NaFlexViTTower, brings_projector=False)
