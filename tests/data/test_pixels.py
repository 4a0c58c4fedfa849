"""How large frames become, against the class that Qwen2.5-VL's users have."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl.data.images import smart_resize
from mindvl.data.pixels import PixelBudget

BUDGET = PixelBudget(784, 64 * 784, video_min_pixels=4 * 784, video_max_pixels=40 * 784, video_total_pixels=100 * 784)
sides = st.integers(1, 3000)


@settings(deadline=None, max_examples=300)
@given(sides, sides, st.integers(1, 800))
def test_frames_have_the_size_that_transformers_gives_them(stock, height, width, num_frames):
    budget = PixelBudget()
    size = SimpleNamespace(shortest_edge=budget.video_min_pixels, longest_edge=budget.video_max_pixels)
    video = torch.empty(1, num_frames, 3, height, width, device="meta")
    try:
        expected = stock.resize(video, size, None, factor=28, cap_pixels_per_frame=True)
    except ValueError:
        with pytest.raises(ValueError, match="aspect ratio"):
            budget.frame_size(height, width, num_frames=num_frames)
    else:
        assert budget.frame_size(height, width, num_frames=num_frames) == expected


def test_the_frames_of_the_docstring_have_the_sizes_it_shows():
    sizes = {frames: PixelBudget().frame_size(720, 1280, num_frames=frames) for frames in (2, 316, 317, 400, 768)}
    assert sizes == {2: (560, 1008), 316: (560, 1008), 317: (560, 980), 400: (504, 896), 768: (336, 644)}


def tokens_of_a_slice(height, width, num_frames):
    """0 for what is refused."""
    try:
        if num_frames:
            rows, columns = BUDGET.frame_size(height, width, num_frames=num_frames)
        else:
            rows, columns = smart_resize(height, width, min_pixels=BUDGET.min_pixels, max_pixels=BUDGET.max_pixels)
    except (ValueError, ZeroDivisionError):
        return 0
    return rows * columns // 784


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400), st.integers(0, 9)), max_size=6))
def test_many_visuals_at_once_are_each_as_large_as_alone(visuals):
    tokens, slices = BUDGET.slices(*np.asarray(visuals, np.int64).reshape(-1, 3).T)
    assert tokens.tolist() == [tokens_of_a_slice(*visual) for visual in visuals]
    assert slices.tolist() == [max(1, (num_frames + 1) // 2) for _, _, num_frames in visuals]


@pytest.mark.parametrize("kind", ["", "video_"])
def test_bounds_upside_down_are_refused_with_both_numbers(kind):
    with pytest.raises(ValueError, match=f"^{kind}min_pixels is 10, more than {kind}max_pixels, 9"):
        PixelBudget(**{f"{kind}min_pixels": 10, f"{kind}max_pixels": 9})
