"""Windows of the vision tower share calls: a larger picture has more windows, and no more calls of the kernel."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mindvl.batch import ImageGrid
from mindvl.model.vision import vision_inputs

SIDES = {"one window": (4, 4), "4 windows": (8, 8), "25 windows": (20, 20), "196 windows": (56, 56)}
"""Patches; a window of the test model is 4 x 4 of them."""


class CountKernels(TorchDispatchMode):
    """Calls of attention kernels, forward and backward."""

    def __init__(self):
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        if "scaled_dot_product" in name:
            self.calls["backward" if "backward" in name else "forward"] += 1
        return function(*args, **(kwargs or {}))


def calls_of(tower, *grids):
    patches = torch.randint(0, 256, (sum(grid.patches for grid in grids), 588), dtype=torch.uint8)
    inputs = vision_inputs(patches, grids, merge=2, window_tokens=2)
    with CountKernels() as counted:
        tower(inputs).sum().backward()
    return dict(counted.calls), len(inputs.window_lengths)


@pytest.mark.parametrize("side", SIDES.values(), ids=SIDES.keys())
def test_a_block_makes_one_call_for_all_windows_of_a_picture(side, make_model):
    tower = make_model().vision
    calls, windows = calls_of(tower, ImageGrid(1, *side))
    blocks = len(tower.blocks)
    assert windows == side[0] * side[1] // 16
    assert calls == {"forward": blocks, "backward": blocks}


@pytest.mark.parametrize("side", [(6, 10), (22, 30), (50, 54)], ids=str)
def test_windows_that_are_cut_off_at_the_edges_make_a_call_per_length_whatever_their_number(side, make_model):
    tower = make_model().vision
    calls, _ = calls_of(tower, ImageGrid(1, *side))
    windowed = len(tower.blocks) - len(tower.fullatt_block_indexes)
    assert calls["forward"] <= 3 * windowed + len(tower.fullatt_block_indexes)  # 16, 8 and 4 patches


def test_many_pictures_make_as_many_calls_as_there_are_lengths(make_model):
    tower = make_model().vision
    few, _ = calls_of(tower, ImageGrid(1, 6, 8), ImageGrid(1, 8, 6))
    many, windows = calls_of(tower, *[ImageGrid(1, 6, 8), ImageGrid(1, 8, 6)] * 20)
    assert windows == 160 and few == many
