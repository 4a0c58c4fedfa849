"""The vision tower: Qwen2.5-VL's class with two operators changed and its layout made elsewhere.

Every parameter keeps its published name, so Qwen2.5-VL's `visual.*` weights load key for key:

    patch_embed.proj.weight     a Conv3d's weight, applied as a matrix product (`mindvl.ops.patch_embed`)
    blocks.N.attn.{qkv,proj}    attention over segment lengths (`mindvl.ops.attention`)
    merger.{ln_q,mlp}           untouched; this is the projector of MindVL: RMSNorm, 2x2 patches, two linear layers
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from mindvl.batch import ImageGrid, VisionInputs
from mindvl.model.attention import packed_attention_forward, register_packed_attention
from mindvl.ops.patch_embed import embed_patches
from mindvl.ops.rotary import apply_rotary
from mindvl.ops.vision_layout import vision_layout


class PatchEmbed(nn.Module):
    """Patches to vectors. Bytes are pixels as they came from the file; floats are already normalised.

    The normalisation of bytes, (x / 255 - mean) / std per channel, is linear: it is folded into the kernel and a
    bias, so no normalised copy of the pictures exists.
    """

    def __init__(self, conv: nn.Conv3d, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.proj = conv
        self.mean, self.std = tuple(mean), tuple(std)

    def forward(self, patches: Tensor) -> Float[Tensor, "patches dim"]:
        weight = self.proj.weight
        if patches.dtype != torch.uint8:
            return embed_patches(patches.to(weight.dtype), weight)
        mean, std = weight.new_tensor(self.mean), weight.new_tensor(self.std)
        kernel = weight / (255 * std).view(1, -1, 1, 1, 1)
        bias = weight.sum(dim=(2, 3, 4)) @ (mean / std)
        return embed_patches(patches.to(weight.dtype), kernel) - bias


class PackedVisionAttention(nn.Module):
    """Attention of the tower within segments: windows in most blocks, whole pictures in the others."""

    def __init__(self, stock: nn.Module):
        super().__init__()
        self.qkv, self.proj = stock.qkv, stock.proj
        self.num_heads, self.scaling = stock.num_heads, stock.scaling
        self.is_causal = False

    def forward(self, hidden_states: Tensor, cu_seqlens: Sequence[int], position_embeddings, **kwargs) -> Tensor:
        """`cu_seqlens` carries segment lengths in patches, as Python ints (the tower passes it through unread)."""
        patches = hidden_states.shape[0]
        query, key, value = self.qkv(hidden_states).view(patches, 3, self.num_heads, -1).unbind(1)
        cos, sin = position_embeddings
        query, key = apply_rotary(query, cos, sin), apply_rotary(key, cos, sin)
        query, key, value = (states.transpose(0, 1)[None] for states in (query, key, value))
        output, _ = packed_attention_forward(
            self, query, key, value, None, scaling=self.scaling, segment_lengths=cu_seqlens, is_causal=False
        )
        return self.proj(output.reshape(patches, -1))


class VisionTower(Qwen2_5_VisionTransformerPretrainedModel):
    """Pictures of any size in one pack -> one feature per visual token, in reading order of merge blocks."""

    def __init__(self, config: Qwen2_5_VLVisionConfig, *, image_mean: Sequence[float], image_std: Sequence[float]):
        config = copy.deepcopy(config)  # transformers writes the attention's name into it
        config._attn_implementation = register_packed_attention()
        super().__init__(config)
        self.patch_embed: nn.Module = PatchEmbed(self.patch_embed.proj, image_mean, image_std)
        for block in self.blocks:
            block.attn = PackedVisionAttention(block.attn)

    def forward(self, inputs: VisionInputs) -> Float[Tensor, "merged dim"]:
        """The stock forward pass, reading layout and lengths from `inputs` instead of working them out."""
        unit = self.spatial_merge_unit
        hidden = self.patch_embed(inputs.patches)
        hidden = _permute_blocks(hidden, inputs.window_index, unit)
        cos, sin = self.rotary_pos_emb(hidden, inputs.position_ids)
        positions = _permute_blocks(cos, inputs.window_index, unit), _permute_blocks(sin, inputs.window_index, unit)
        for layer, block in enumerate(self.blocks):
            lengths = inputs.image_lengths if layer in self.fullatt_block_indexes else inputs.window_lengths
            hidden = block(hidden, cu_seqlens=lengths, position_embeddings=positions)
        return self.merger(hidden).index_select(0, inputs.restore_index)


def _permute_blocks(rows: Float[Tensor, "patches dim"], index: Tensor, unit: int) -> Float[Tensor, "patches dim"]:
    """Reorder merge blocks of `unit` consecutive patches."""
    return rows.view(-1, unit * rows.shape[1]).index_select(0, index).view(rows.shape)


def vision_inputs(patches: Tensor, grids: Sequence[ImageGrid], *, merge: int, window_tokens: int) -> VisionInputs:
    """Add the layout to patches, for callers outside the data workers (generation, notebooks)."""
    expected = sum(grid.patches for grid in grids)
    if expected != patches.shape[0]:
        raise ValueError(f"the image grids describe {expected} patches, but {patches.shape[0]} were given")
    layout = vision_layout(grids, merge=merge, window_tokens=window_tokens)
    as_tensor = lambda array: torch.from_numpy(array).to(patches.device)  # noqa: E731
    return VisionInputs(
        patches=patches,
        grid_thw=torch.tensor([(grid.frames, grid.height, grid.width) for grid in grids], device=patches.device),
        position_ids=as_tensor(layout.position_ids),
        window_index=as_tensor(layout.window_index),
        restore_index=as_tensor(layout.restore_index),
        image_lengths=layout.image_lengths,
        window_lengths=layout.window_lengths,
    )
