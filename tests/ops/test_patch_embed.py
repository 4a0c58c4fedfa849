"""Patch embedding against the Conv3d whose weights it uses."""

import pytest
import torch

from mindvl.model.config import CLIP_MEAN, CLIP_STD
from mindvl.model.vision import PatchEmbed
from mindvl.ops.patch_embed import embed_patches
from mindvl.ops.table import using

CHANNELS, FRAMES, SIZE, DIM = 3, 2, 14, 8


@pytest.fixture
def conv():
    torch.manual_seed(0)
    return torch.nn.Conv3d(CHANNELS, DIM, (FRAMES, SIZE, SIZE), stride=(FRAMES, SIZE, SIZE), bias=False)


def through_conv(conv, two_frames):
    return conv(two_frames.view(-1, CHANNELS, FRAMES, SIZE, SIZE)).view(len(two_frames), DIM)


def doubled(still):
    """The still patch as transformers shows it to the convolution: the same frame twice."""
    return still.view(-1, CHANNELS, 1, SIZE, SIZE).expand(-1, -1, FRAMES, -1, -1).reshape(len(still), -1)


def test_a_still_patch_equals_the_convolution_of_the_doubled_frame_forward_and_backward(conv):
    still = torch.randn(5, CHANNELS * SIZE * SIZE)
    ours, theirs = embed_patches(still, conv.weight), through_conv(conv, doubled(still))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(ours)
    gradients = [torch.autograd.grad(output, conv.weight, weight)[0] for output in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_a_patch_of_two_frames_equals_the_convolution(conv):
    patches = torch.randn(5, CHANNELS * FRAMES * SIZE * SIZE)
    torch.testing.assert_close(embed_patches(patches, conv.weight), through_conv(conv, patches), rtol=1e-5, atol=1e-5)


def test_a_patch_of_another_width_is_refused_with_the_numbers(conv):
    with pytest.raises(ValueError, match=r"a patch has 100 values; the tower takes 588 \(still\) or 1176 \(2 frames\)"):
        embed_patches(torch.randn(5, 100), conv.weight)


def test_bytes_equal_normalised_floats_forward_and_backward(conv):
    embed = PatchEmbed(conv, CLIP_MEAN, CLIP_STD)
    pixels = torch.randint(0, 256, (6, CHANNELS * SIZE * SIZE), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(1, CHANNELS, 1) for values in (CLIP_MEAN, CLIP_STD))
    floats = ((pixels.view(6, CHANNELS, -1) / 255 - mean) / std).flatten(1)
    ours, theirs = embed(pixels), embed(floats)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(ours)
    gradients = [torch.autograd.grad(output, conv.weight, weight)[0] for output in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_bytes_of_two_frames_equal_the_still_picture_they_repeat(conv):
    embed = PatchEmbed(conv, CLIP_MEAN, CLIP_STD)
    still = torch.randint(0, 256, (6, CHANNELS * SIZE * SIZE), dtype=torch.uint8)
    torch.testing.assert_close(embed(doubled(still)), embed(still), rtol=1e-5, atol=1e-5)


def test_floats_that_ask_for_no_gradient_are_embedded_by_the_convolution_to_the_bit(conv):
    embed, still = PatchEmbed(conv, CLIP_MEAN, CLIP_STD), torch.randn(50, CHANNELS * SIZE * SIZE)
    with torch.inference_mode():
        theirs = through_conv(conv, doubled(still))
        assert torch.equal(embed(still), theirs) and torch.equal(embed(doubled(still)), theirs)
        with using({"patch_embed": "matmul"}):  # a choice by name is never replaced
            assert torch.equal(embed(still), embed_patches(still, conv.weight))
            assert not torch.equal(embed(still), theirs)
        with pytest.raises(ValueError, match="a patch has 100 values"):
            embed(torch.randn(5, 100))
    assert embed(still).requires_grad
