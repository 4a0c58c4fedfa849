"""The background's copy: apart from the original, and in the same memory every time."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from mindvl.parallel.checkpoint.staging import HostCopy


def state(weight, step=0.0, rate=0.1):
    return {"model": {"w": weight}, "optimizer": {"step": torch.tensor(step), "betas": [0.9, 0.99], "lr": rate}}


def test_a_copy_does_not_change_with_the_original():
    weight = torch.randn(3, 2)
    original = state(weight)
    copied = HostCopy().of(original)
    expected = weight.clone()
    weight.zero_()
    original["optimizer"]["betas"][0] = 0.0
    assert torch.equal(copied["model"]["w"], expected)
    assert copied["optimizer"] == {"step": torch.tensor(0.0), "betas": [0.9, 0.99], "lr": 0.1}


def test_the_next_copy_takes_the_same_memory_unless_a_shape_has_changed():
    host = HostCopy()
    first = host.of(state(torch.ones(3)))["model"]["w"]
    second = host.of(state(torch.full((3,), 2.0)))["model"]["w"]
    assert second.data_ptr() == first.data_ptr() and second.tolist() == [2.0] * 3
    assert host.of(state(torch.ones(4)))["model"]["w"].shape == (4,)


@pytest.mark.parametrize("shape", [(4, 3), (0, 3), (1,)])
def test_a_slice_stays_a_slice_of_its_mesh(shape, world):
    mesh = init_device_mesh("cpu", (1,))
    weight = distribute_tensor(torch.randn(shape), mesh, [Shard(0)])
    expected = weight.to_local().clone()
    copied = HostCopy().of(state(weight))["model"]["w"]
    weight.to_local().zero_()
    assert isinstance(copied, DTensor)
    assert (copied.device_mesh, copied.placements, copied.shape) == (mesh, weight.placements, weight.shape)
    assert torch.equal(copied.to_local(), expected)
