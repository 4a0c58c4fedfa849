"""Positions of all patches at once, against the table resized for one picture after the other."""

import itertools

import pytest
import torch

from mindvl.ops.position_table import sample_line, sample_table, sample_table_reference

SIZES = [(2, 6), (16, 16), (7, 31), (1, 1), (40, 3), (16, 5)]
WAYS = [
    {"kernel": kernel, "align_corners": corners, "antialias": smooth}
    for kernel, corners, smooth in itertools.product(("bilinear", "bicubic"), (False, True), (False, True))
]


def patches_of(sizes):
    positions = [torch.cartesian_prod(torch.arange(height), torch.arange(width)) for height, width in sizes]
    return torch.cat(positions), torch.cat([torch.tensor(size).expand(size[0] * size[1], 2) for size in sizes])


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(str(value) for value in way.values()))
def test_positions_and_their_gradient_equal_those_of_the_resized_table(way):
    table = torch.randn(16, 16, 8, requires_grad=True, generator=torch.Generator().manual_seed(0))
    ours = sample_table(table, *patches_of(SIZES), **way)
    theirs = torch.cat([sample_table_reference(table, *size, **way).flatten(0, 1) for size in SIZES])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)
    weight = torch.randn_like(ours)
    (our_gradient,) = torch.autograd.grad((ours * weight).sum(), table)
    (their_gradient,) = torch.autograd.grad((theirs * weight).sum(), table)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-4, atol=1e-4)


def test_a_table_along_one_axis_equals_linear_interpolation():
    table = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    for size in (1, 5, 16, 40):
        ours = sample_line(table, torch.arange(size), torch.full((size,), size))
        theirs = torch.nn.functional.interpolate(table.T[None], size=size, mode="linear")[0].T
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_toy_picture_of_the_docstring_reads_the_entries_it_says():
    table = torch.arange(16.0).view(4, 4, 1)
    positions, sizes = torch.tensor([[1, 2]]), torch.tensor([[2, 6]])
    value = sample_table(table, positions, sizes, kernel="bilinear", align_corners=True)
    assert value.item() == pytest.approx(0.8 * 13 + 0.2 * 14)


def test_a_half_precision_table_is_read_in_fp32_under_autocast_too():
    table = torch.randn(16, 16, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        ours = sample_table(table, *patches_of(SIZES), kernel="bicubic", antialias=True)
    plain = sample_table(table, *patches_of(SIZES), kernel="bicubic", antialias=True)
    assert ours.dtype == torch.float32 and torch.equal(ours, plain)
