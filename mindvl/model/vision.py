"""What all vision towers share; the towers themselves are in `mindvl.model.towers`.

A tower is a published class with two operators changed and its layout made elsewhere:

    PatchEmbed              a Conv3d's weight, applied as a matrix product (`mindvl.ops.patch_embed`)
    PackedVisionAttention   attention over segment lengths (`mindvl.ops.attention`)

Both hold the very parameters of what they replace, so published weights load key for key. What a tower calls `merger`
is the projector of MindVL: 2x2 patches become one vector of the language model's width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig

from mindvl.batch import ImageGrid, VisionInputs
from mindvl.model.attention import packed_attention_forward, register_packed_attention
from mindvl.ops.exchange import gather_rows, split_of
from mindvl.ops.patch_embed import embed_patches, patch_embed_reference
from mindvl.ops.rotary import apply_rotary
from mindvl.ops.table import is_forced
from mindvl.ops.vision_layout import vision_layout

WHOLE_PICTURE = 1 << 30
"""Side of an attention window, in visual tokens, of towers without windows: no picture is as large."""

_MIDDLE_BYTE = 128


def embed_pixels(
    patches: Tensor,
    weight: Float[Tensor, "dim channels frames patch patch"],
    bias: Float[Tensor, " dim"] | None,
    *,
    mean: Sequence[float],
    std: Sequence[float],
) -> Float[Tensor, "patches dim"]:
    """Patches to vectors. Bytes are pixels as they came from the file; floats are already normalised.

    The normalisation of bytes, (x / 255 - mean) / std per channel, is linear: it is folded into the kernel and a
    bias, so no normalised copy of the pictures exists. Bytes are counted from 128, which leaves a third of the rounding
    error: the product and the bias are then no large numbers that almost cancel.

    Floats in fp32 that ask for no gradient are what a stock processor hands over, and stock models embed them by the
    convolution itself: so does this, and the two differ by no rounding of a product.
    """
    if not torch.is_grad_enabled() and patches.dtype == weight.dtype == torch.float32 and not is_forced("patch_embed"):
        embedded = embed_patches(patches, weight, by=patch_embed_reference)
        return embedded if bias is None else embedded + bias
    if patches.dtype == torch.uint8:
        middle, spread = weight.new_tensor(tuple(mean)), weight.new_tensor(tuple(std))
        offset = weight.sum(dim=(2, 3, 4)) @ ((middle - _MIDDLE_BYTE / 255) / spread)
        weight = weight / (255 * spread).view(1, -1, 1, 1, 1)
        bias = -offset if bias is None else bias - offset
        patches = patches.to(weight.dtype).sub_(_MIDDLE_BYTE)
    embedded = embed_patches(patches.to(weight.dtype), weight)
    return embedded if bias is None else embedded + bias


class PatchEmbed(nn.Module):
    """Takes the place of a tower's patch embedding and shares its convolution."""

    def __init__(self, conv: nn.Conv3d, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.proj = conv
        self.mean, self.std = tuple(mean), tuple(std)

    def forward(self, patches: Tensor) -> Float[Tensor, "patches dim"]:
        return embed_pixels(patches, self.proj.weight, self.proj.bias, mean=self.mean, std=self.std)


class PackedVisionAttention(nn.Module):
    """Attention of a tower within segments: windows or whole pictures, as the tower says block by block."""

    def __init__(self, stock: nn.Module):
        super().__init__()
        self.qkv, self.proj = stock.qkv, stock.proj
        self.num_heads, self.scaling = stock.num_heads, stock.scaling
        self.is_causal = False

    def forward(self, hidden_states: Tensor, cu_seqlens: Sequence[int], position_embeddings, **kwargs) -> Tensor:
        """`cu_seqlens` carries segment lengths in patches, as Python ints (the tower passes it through unread)."""
        patches = hidden_states.shape[0]
        width = self.proj.in_features  # named, not -1: a rank may have no patches (`mindvl.model.sharing`)
        query, key, value = self.qkv(hidden_states).view(patches, 3, self.num_heads, width // self.num_heads).unbind(1)
        cos, sin = position_embeddings
        query, key = apply_rotary(query, cos, sin), apply_rotary(key, cos, sin)
        query, key, value = (states.transpose(0, 1)[None] for states in (query, key, value))
        output, _ = packed_attention_forward(
            self, query, key, value, None, scaling=self.scaling, segment_lengths=cu_seqlens, is_causal=False
        )
        return self.proj(output.reshape(patches, width))


def packed_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy that names our attention; transformers writes the name into the config it is given."""
    config = copy.deepcopy(config)
    config._attn_implementation = register_packed_attention()
    return config


def use_packed_operators(tower: nn.Module, *, image_mean: Sequence[float], image_std: Sequence[float]) -> None:
    """Put our two operators into one of transformers' towers."""
    tower.patch_embed = PatchEmbed(tower.patch_embed.proj, image_mean, image_std)
    for block in tower.blocks:
        block.attn = PackedVisionAttention(block.attn)


def picture_sizes(inputs: VisionInputs) -> Int[Tensor, "patches 2"]:
    """Height and width, in patches, of the picture that each patch is from; padding is from pictures of one patch."""
    thw, padded, split = inputs.grid_thw, sum(inputs.image_lengths), split_of(inputs.image_lengths)
    real = padded - _padding(inputs) if split is None else int(thw.prod(dim=1).sum())
    sizes = torch.repeat_interleave(thw[:, 1:], thw.prod(dim=1), dim=0, output_size=real)
    sizes = nn.functional.pad(sizes, (0, 0, 0, padded - real), value=1)
    return sizes if split is None else sizes[split.rows]  # windows lie within pictures: their order changes nothing


def _padding(inputs: VisionInputs) -> int:
    """Patches that fill up a pack of fixed shape, told from the shapes of its index tensors."""
    blocks, real_blocks = inputs.window_index.shape[0], inputs.restore_index.shape[0]
    return inputs.patches.shape[0] // blocks * (blocks - real_blocks)


def in_reading_order(
    features: Float[Tensor, "blocks dim"], inputs: VisionInputs, *, merge: int
) -> Float[Tensor, "merged dim"]:
    """Features of the projector without padding; of a pack that ranks share, those of this rank's visual tokens."""
    split = split_of(inputs.image_lengths)
    if split is not None:
        features = gather_rows(features, split.per(merge**2))
    return features.index_select(0, inputs.restore_index)


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
