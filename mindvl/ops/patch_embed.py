"""Patch embedding as one matrix product.

Qwen2.5-VL embeds patches with a 3-D convolution whose kernel equals its stride, over two frames. That is a linear map
of the flattened patch. A still picture repeats one frame, so the kernel's two temporal slices see the same pixels and
fold into their sum: half the arithmetic, half the bytes from the data workers, and the same result.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from mindvl.ops.linear import linear
from mindvl.ops.precision import at_least_fp32, no_autocast, step_dtype
from mindvl.ops.table import choose


def embed_patches(
    patches: Float[Tensor, "patches pixels"],
    weight: Float[Tensor, "dim channels frames patch patch"],
    *,
    by: Callable[..., Tensor] | None = None,
) -> Float[Tensor, "patches dim"]:
    """Embed still patches (channels*patch*patch values) or two-frame patches (twice as many) with a Conv3d's weight.

    `by` is one of the functions below; the operator table's choice by default.
    """
    _, channels, frames, size, _ = weight.shape
    still_pixels = channels * size * size
    if patches.shape[1] not in (still_pixels, still_pixels * frames):
        raise ValueError(
            f"a patch has {patches.shape[1]} values; the tower takes {still_pixels} (still) "
            f"or {still_pixels * frames} ({frames} frames)"
        )
    return (by or choose("patch_embed", patches))(patches, weight)


def patch_embed_reference(
    patches: Float[Tensor, "patches pixels"], weight: Float[Tensor, "dim channels frames patch patch"]
) -> Float[Tensor, "patches dim"]:
    """The definition: the convolution itself, in fp32, a still patch shown to it in each frame."""
    dim, channels, frames, size, _ = weight.shape
    dtype, pixels = step_dtype(patches), at_least_fp32(patches)
    with no_autocast(patches):
        frame = pixels.view(len(patches), channels, -1, size, size).expand(-1, -1, frames, -1, -1)
        return F.conv3d(frame, at_least_fp32(weight), stride=(frames, size, size)).view(len(patches), dim).to(dtype)


def matmul_patch_embed(
    patches: Float[Tensor, "patches pixels"], weight: Float[Tensor, "dim channels frames patch patch"]
) -> Float[Tensor, "patches dim"]:
    """The same as one matrix product, with half the kernel for still patches."""
    dim, channels, _, size, _ = weight.shape
    still = patches.shape[1] == channels * size * size
    kernel = weight.sum(dim=2) if still else weight
    return linear(patches, kernel.reshape(dim, patches.shape[1]))
