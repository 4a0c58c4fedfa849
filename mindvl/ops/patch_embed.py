"""Patch embedding as one matrix product.

Qwen2.5-VL embeds patches with a 3-D convolution whose kernel equals its stride, over two frames. That is a linear map
of the flattened patch. A still picture repeats one frame, so the kernel's two temporal slices see the same pixels and
fold into their sum: half the arithmetic, half the bytes from the data workers, and the same result.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def embed_patches(
    patches: Float[Tensor, "patches pixels"], weight: Float[Tensor, "dim channels frames patch patch"]
) -> Float[Tensor, "patches dim"]:
    """Embed still patches (channels*patch*patch values) or two-frame patches (twice as many) with a Conv3d's weight."""
    dim, channels, frames, size, _ = weight.shape
    still_pixels = channels * size * size
    if patches.shape[1] == still_pixels:
        kernel = weight.sum(dim=2).reshape(dim, still_pixels)
    elif patches.shape[1] == still_pixels * frames:
        kernel = weight.reshape(dim, still_pixels * frames)
    else:
        raise ValueError(
            f"a patch has {patches.shape[1]} values; the tower takes {still_pixels} (still) "
            f"or {still_pixels * frames} ({frames} frames)"
        )
    return F.linear(patches, kernel)
