"""The layout that data workers make, against the one that transformers makes in its forward pass."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import vision_utils

from mindvl.batch import ImageGrid
from mindvl.ops.vision_layout import vision_layout

grids = st.lists(
    st.builds(
        lambda frames, rows, columns: ImageGrid(frames, 2 * rows, 2 * columns),
        st.integers(1, 3),
        st.integers(1, 13),
        st.integers(1, 13),
    ),
    min_size=1,
    max_size=5,
)


@settings(deadline=None, max_examples=150)
@given(grids, st.integers(1, 5))
def test_the_layout_of_any_pictures_equals_that_of_transformers(grids, window_tokens):
    ours = vision_layout(grids, merge=2, window_tokens=window_tokens)
    thw = torch.tensor([(grid.frames, grid.height, grid.width) for grid in grids])
    window_index, cu_windows = vision_utils.get_vision_window_index(thw, 2, window_tokens * 28, 14)
    assert ours.position_ids.tolist() == vision_utils.get_vision_position_ids(thw, 2).tolist()
    assert ours.window_index.tolist() == window_index.tolist()
    assert [0, *np.cumsum(ours.window_lengths)] == cu_windows.tolist()
    assert [0, *np.cumsum(ours.image_lengths)] == vision_utils.get_vision_cu_seqlens(thw).tolist()


@settings(deadline=None, max_examples=50)
@given(grids)
def test_the_restore_index_undoes_the_window_index(grids):
    layout = vision_layout(grids, merge=2, window_tokens=4)
    tokens = np.arange(sum(grid.merged() for grid in grids))
    assert (tokens[layout.window_index][layout.restore_index] == tokens).all()


def test_the_toy_picture_of_the_docstring_has_the_layout_it_shows():
    layout = vision_layout([ImageGrid(1, 4, 6)], merge=2, window_tokens=2)
    assert layout.window_index.tolist() == [0, 1, 3, 4, 2, 5]
    assert layout.window_lengths == (16, 8) and layout.image_lengths == (24,)


def test_no_pictures_have_an_empty_layout():
    layout = vision_layout([], merge=2, window_tokens=4)
    assert layout.position_ids.shape == (0, 2) and len(layout.window_index) == 0 and layout.window_lengths == ()


def test_a_grid_that_does_not_divide_into_merge_blocks_is_refused_with_its_sides():
    with pytest.raises(ValueError, match="5x4 patches does not divide into 2x2 blocks"):
        vision_layout([ImageGrid(1, 5, 4)], merge=2, window_tokens=4)
